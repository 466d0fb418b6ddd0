"""Training with transforms: the same whatever the batch is cut into, resumed, and chosen on the command line."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.command_line import NARROW, TWO_STEPS, fails, run
from helpers.runs import DIGITS, assert_same_arrays, loaded
from tinyddpm.backend import load_backend
from tinyddpm.conditions import TRANSFORMS
from tinyddpm.data.base import ArrayDataset
from tinyddpm.errors import ConfigError
from tinyddpm.model.checkpoint import read_checkpoint_header
from tinyddpm.model.config import Config
from tinyddpm.progress import Progress
from tinyddpm.training.assembly import make_trainer
from tinyddpm.training.run import resume, start

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")
SETTINGS = DIGITS.updated(
    {
        "data": {"source": "noise", "labels": False, "tell_transforms": True},
        "transforms": {"colour": {"p": 0.5}, "shift": {"most": 1}, "flip": {}, "crop": {"p": 0.5}},
        "network": {"channels": 4, "attention": []},
        "training": {"steps": 6, "batch_size": 12, "save_every": 3},
        "sampling": {"steps": 3, "count": 2},
    }
)
DATA = ArrayDataset(np.random.default_rng(0).integers(0, 256, (40, 4, 6, 3), np.uint8), name="noise")


def seen(**training: Any) -> tuple[dict[int, Any], np.ndarray[Any, Any]]:
    """Return what a step learns from, sample by sample, and its gradient."""
    trainer = make_trainer(SETTINGS.updated({"training": training}), NUMPY, DATA)
    found, forward = {}, trainer.model.network.forward

    def spying(ops: Any, w: Any, x: Any, t: Any, given: Any, noise: Any) -> Any:
        found.update(zip(noise.samples.tolist(), zip(x, t, given[TRANSFORMS], strict=True), strict=True))
        return forward(ops, w, x, t, given, noise)

    trainer.model.network.forward = spying  # type: ignore[method-assign]
    trainer.step = 3
    trainer.advance.batch_gradient(3)  # type: ignore[union-attr]
    return found, trainer.advance.gradients[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", [{"threads": 2}, {"accumulate": 5}, {"threads": 3, "accumulate": 2}], ids=str)
def test_each_slot_learns_from_the_same_whatever_the_cut(cut: dict[str, int]) -> None:
    """x_t, t and what was done, bit for bit; the gradient to rounding."""
    (whole, gradient), (parts, other) = seen(), seen(**cut)
    assert whole.keys() == parts.keys() == set(range(12))
    for slot, ours in whole.items():
        for one, same in zip(ours, parts[slot], strict=True):
            np.testing.assert_array_equal(one, same)
    np.testing.assert_allclose(other, gradient, rtol=0, atol=1e-5 * np.abs(gradient).max())


def test_a_resumed_run_is_the_straight_one(tmp_path: Path) -> None:
    """Bit for bit, with the order of the transforms that it began with; and nothing is told of its samples."""
    for name, steps in (("straight", 6), ("stopped", 3)):
        config = SETTINGS.updated({"training": {"steps": steps}})
        start(config, NUMPY, tmp_path / name, Progress(StringIO()), DATA)
    resume(tmp_path / "stopped", Progress(StringIO()), steps=6, dataset=DATA)
    assert_same_arrays(loaded(tmp_path / "straight"), loaded(tmp_path / "stopped"))
    assert list(loaded(tmp_path / "stopped").config["transforms"]) == ["colour", "shift", "flip", "crop"]
    pictures = [(tmp_path / name / "samples.png").read_bytes() for name in ("straight", "stopped")]
    assert pictures[0] == pictures[1]


def test_a_run_keeps_the_order_of_its_transforms(tmp_path: Path) -> None:
    config = SETTINGS.updated({"training": {"steps": 3}})
    start(config, NUMPY, tmp_path / "r", Progress(StringIO()), DATA)
    written = Config.from_dict(read_checkpoint_header(tmp_path / "r" / "checkpoint.h5").config)
    turned = replace(written, transforms=dict(reversed(config.transforms.items())))
    (tmp_path / "r" / "config.toml").write_text(turned.to_toml())
    with pytest.raises(ConfigError, match=r"a run keeps transforms \(it was \['colour', 'shift', 'flip', 'crop'\]\)"):
        resume(tmp_path / "r", Progress(StringIO()), steps=6, dataset=DATA)


TINY = ["train", *TWO_STEPS, "--sample-steps", "2"]


def test_transforms_are_chosen_by_name_in_their_order(tmp_path: Path) -> None:
    """With the options that are set; the run can be drawn from without a word of them."""
    folder = str(tmp_path / "r")
    chosen = ["--transform", "shift", "--transform", "crop", "--set", "transforms.crop.least=0.7", "--tell-transforms"]
    assert run(*TINY, *NARROW, *chosen, "--out", folder).exit_code == 0
    config = read_checkpoint_header(tmp_path / "r" / "checkpoint.h5").config
    assert list(config["transforms"].items()) == [("shift", {}), ("crop", {"least": 0.7})]
    assert run("sample", folder, "--count", "2", "--steps", "2", "--out", str(tmp_path / "s")).exit_code == 0
    written = (tmp_path / "r" / "config.toml").read_text()
    assert written.endswith('[transforms."shift"]\n\n[transforms."crop"]\nleast = 0.7\n')


def test_what_is_chosen_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for options, line in (
        (["--transform", "shfit"], "unknown transform 'shfit': did you mean 'shift'"),
        (["--transform", "shift", "--set", "transforms.shift.most=9"], "transforms.shift.most is 9: give from 1 to 7"),
        (["--data", "moons", "--transform", "flip"], "transform 'flip' is for images"),
    ):
        assert line in fails(*TINY, *options, "--out", str(tmp_path / "r"))
        assert not (tmp_path / "r").exists()
