"""The Python face: the guide's block runs, it draws what the command line draws, and what is wrong is one line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyddpm
from helpers.guide import GUIDE
from tinyddpm.backend import load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data.base import ArrayDataset
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.errors import TinyDDPMError
from tinyddpm.face import Trained
from tinyddpm.model.config import Config
from tinyddpm.model.load import load_model
from tinyddpm.model.sampling import draw
from tinyddpm.progress import Progress

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "steps": 4, "batch_size": 8, "timesteps": 10, "sample_count": 4, "warmup": 1, "progress": False,
    "network": {"channels": 8, "multipliers": [1, 2], "blocks": 1},
}  # fmt: skip
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 12, 3)).astype(np.uint8)
LABELS = np.arange(30) % 3
NOISE = np.random.default_rng(1).standard_normal((6, 8, 12, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("face") / "run"
    return tinyddpm.train(IMAGES, labels=LABELS, classes=["ant", "bee", "cat"], out=folder, **SMALL)


def test_the_guides_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, one statement after the other."""
    guide = (GUIDE / "python.md").read_text(encoding="utf-8")
    block = re.search(r"^## From Python\n.*?^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block[1], names)
    assert names["samples"].shape == (16, 8, 8, 1)
    assert names["samples"].dtype == np.uint8
    assert Path("samples.png").exists()
    assert len(names["x_0"]) == names["model"].process.T
    assert names["process"].T == 1000


def test_all_names_are_there_and_imported_when_asked_for() -> None:
    assert tinyddpm.Config is Config
    assert tinyddpm.GaussianProcess is GaussianProcess
    assert tinyddpm.make_betas is make_betas
    assert all(getattr(tinyddpm, name) is not None for name in tinyddpm.__all__)
    assert set(tinyddpm.__all__) < set(dir(tinyddpm))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tinyddpm.nothing  # noqa: B018
    numpy = "print('numpy' in sys.modules)"
    code = f"import sys, tinyddpm; tinyddpm.Config; {numpy}; tinyddpm.plugins; {numpy}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_run_is_loaded_from_a_text_or_a_path(model: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    trained = tinyddpm.train(IMAGES, labels=LABELS, classes=["ant", "bee", "cat"], out=str(folder), **SMALL)
    loaded = tinyddpm.load(str(folder))
    one, other, third = (each.sample(3, seed=2) for each in (model, trained, loaded))
    assert np.array_equal(one, other)
    assert np.array_equal(one, third)
    assert not np.array_equal(one, tinyddpm.load(folder / "checkpoint.h5", raw=True).sample(3, seed=2))
    assert repr(loaded).startswith("<unet of ")
    assert repr(loaded).endswith(" parameters for 8x12x3, 3 classes, trained 4 steps>")


def test_it_draws_what_the_command_line_draws(model: Trained, tmp_path: Path) -> None:
    tinyddpm.train(
        "moons", steps=3, batch_size=8, timesteps=10, network={"width": 8}, out=tmp_path / "r", progress=False
    )
    inner, weights, _ = load_model(tmp_path / "r", load_backend("numpy"))
    sampling = inner.config.updated(
        {"sampling": {"name": "ddim", "eta": 0.5, "steps": 4}, "spacing": {"name": "uniform"}}
    ).sampling
    numbers = np.arange(5, 11)
    expected = draw(inner, weights, numbers, Asked(None), seed=3, sampling=sampling, batch_size=4).values
    found = tinyddpm.load(tmp_path / "r").sample(
        6, first=5, seed=3, sampler={"name": "ddim", "eta": 0.5}, steps=4, spacing="uniform", batch_size=4
    )
    np.testing.assert_array_equal(found, expected)


def test_guidance_by_its_scale_or_its_table(tmp_path: Path, model: Trained) -> None:
    """As the configuration's: 1 is none, a number is cfg's scale; without a null to lead away from it is refused."""
    with pytest.raises(TinyDDPMError, match="--condition-dropout"):
        model.sample(2, guidance=2)
    settings = {"labels": LABELS, "condition_dropout": 0.5, "learning_rate": 0.01, **SMALL}
    model = tinyddpm.train(IMAGES, out=tmp_path / "run", **settings)
    plain, guided = model.sample(6), model.sample(6, guidance=4)
    np.testing.assert_array_equal(model.sample(6, guidance=1), plain)
    assert (guided != plain).any()
    table = {"name": "cfg", "scale": 4.0}
    np.testing.assert_array_equal(model.sample(6, guidance=table), guided)
    x = np.random.default_rng(1).standard_normal((3, *model.sample_shape), dtype=np.float32)
    chosen = [model.denoiser([0, 1, 2], n=3, guidance=g)(x, 5).x_0 for g in (4, table, None)]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[0] != chosen[2]).any()


def test_classes_by_name_or_number(model: Trained) -> None:
    by = [
        model.sample(3, labels=labels)
        for labels in (["ant", "cat", 1], [0, 2, "bee"], "ant,cat,bee", np.asarray([0, 2, 1]))
    ]
    assert all(np.array_equal(by[0], other) for other in by[1:])
    assert np.array_equal(model.sample(3, labels=1)[0], model.sample(1, labels="bee")[0])
    assert np.array_equal(model.sample(4), model.sample(4, labels=[0, 1, 2]))
    assert not np.array_equal(model.sample(1, labels=0), model.sample(1, labels=1))


def test_x_0_is_predicted_at_every_time(model: Trained) -> None:
    """As the denoiser says it, class by class; samples do not see each other."""
    x = np.random.default_rng(1).normal(size=(2, 8, 12, 3))
    denoiser = model.denoiser(["bee", "cat"], n=2)
    for t in range(model.process.T):
        found = model.predict_x0(x, t, labels=["bee", "cat"])
        assert found.dtype == np.float32
        assert np.abs(found).max() <= 1
        np.testing.assert_array_equal(found, denoiser(x.astype(np.float32), t).x_0)
    alone = model.predict_x0(x[1:], 3, labels="cat", threshold="none")
    np.testing.assert_allclose(alone, model.predict_x0(x, 3, labels=[1, 2], threshold="none")[1:], rtol=1e-4, atol=1e-4)


def test_a_data_set_is_trained_on_as_an_array_is(model: Trained, tmp_path: Path) -> None:
    dataset = ArrayDataset(IMAGES, LABELS, ("ant", "bee", "cat"), name="mine")
    trained = tinyddpm.train(dataset, out=tmp_path / "r", **SMALL)
    assert np.array_equal(trained.sample(2), model.sample(2))
    assert trained.classes == ("ant", "bee", "cat")
    assert tinyddpm.train(dataset, labels=False, out=tmp_path / "s", **SMALL).classes == ()


@pytest.mark.parametrize("named", [False, True], ids=["numbers", "names"])
def test_labels_may_be_a_list(model: Trained, tmp_path: Path, named: bool) -> None:
    """Names are those of the classes, in alphabetical order; numbers go with names that are given."""
    names = ("ant", "bee", "cat")
    given = {"labels": [names[k] for k in LABELS]} if named else {"labels": LABELS.tolist(), "classes": names}
    trained = tinyddpm.train(IMAGES, out=tmp_path / "r", **given, **SMALL)
    assert trained.classes == names
    assert np.array_equal(trained.sample(2), model.sample(2))
    assert tinyddpm.resume(tmp_path / "r", IMAGES, steps=5, progress=False, **given).step == 5


WRONG: list[tuple[Callable[[Trained], object], str]] = [
    (lambda model: tinyddpm.train(IMAGES, stps=3), "unknown setting 'stps': did you mean 'steps'"),
    (lambda model: tinyddpm.train(IMAGES, netwrk={"width": 3}), "unknown key 'netwrk': did you mean 'network'"),
    (lambda model: tinyddpm.train(IMAGES / 255), "the images are float64: store them as uint8"),
    (lambda model: tinyddpm.train([1, 2]), "is a list without description"),  # type: ignore[arg-type]
    (lambda model: tinyddpm.train(IMAGES, labels=LABELS[:3], **SMALL), "store 30 integers"),
    (lambda model: tinyddpm.train("digits", labels=[0, 1]), "go with an array: a data set has its own"),
    (lambda model: tinyddpm.train("digit"), "unknown data set 'digit': did you mean 'digits'"),
    (lambda model: model.sample(2, labels=[0, 1, 2]), "3 labels for 2 samples"),
    (lambda model: model.sample(2, labels=[]), "0 labels for 2 samples"),
    (lambda model: model.sample(2, batch_size=0), "batch_size is 0: give at least 1"),
    (lambda model: model.sample(2, labels=-1), "unknown class '-1'"),
    (lambda model: model.sample(2, labels="dog"), "unknown class 'dog'"),
    (lambda model: model.sample(0), "give at least 1 sample"),
    (lambda model: model.sample(2, sampler="dim"), "did you mean 'ddim'"),
    (lambda model: model.sample(2, sampler={"name": "ddim", "et": 1}), "did you mean 'eta'"),
    (lambda model: model.sample(2, steps=11), "11 sampling steps on a chain of 10"),
    (lambda model: model.denoiser(), "the model draws by class"),
    (lambda model: model.predict_x0(IMAGES[0] / 255, 3, labels=0), r"x has shape \(8, 12, 3\): give \(n, 8, 12, 3\)"),
    (lambda model: model.predict_x0(IMAGES[:1] / 255, -1, labels=0), "t is -1: give a time from 0 to 9"),
    (lambda model: model.predict_x0(IMAGES[:1] / 255, 3.5, labels=0), "t is 3.5: give a time as a whole number"),  # type: ignore[arg-type]
    (lambda model: model.denoiser([0, 1], n=4)(NOISE, 3), "x_t has 6 samples, and its condition 4: give one for each"),
    (lambda model: tinyddpm.load("nowhere"), "nowhere"),
]


@pytest.mark.parametrize(("call", "line"), WRONG, ids=[line for _, line in WRONG])
def test_what_is_wrong_is_one_line(
    call: Callable[[Trained], object], line: str, model: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TinyDDPMError, match=line) as caught:
        call(model)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_parts_are_listed() -> None:
    assert tinyddpm.plugins()["networks"] == ["mlp", "unet"] or {"mlp", "unet"} < set(tinyddpm.plugins()["networks"])


def test_a_notebook_has_a_bar() -> None:
    """Its stream is no terminal, and takes a line that is rewritten all the same."""
    kind = type("OutStream", (), {"__module__": "ipykernel.iostream", "isatty": lambda self: False})
    assert Progress(kind()).terminal


def test_a_run_on_an_array_goes_on(model: Trained, tmp_path: Path) -> None:
    """To the last bit as if it had never stopped; other data are refused."""
    given: dict[str, Any] = {"labels": LABELS, "classes": ["ant", "bee", "cat"]}
    tinyddpm.train(IMAGES, out=tmp_path / "run", **given, **{**SMALL, "steps": 2})
    with pytest.raises(TinyDDPMError, match="was trained on other data"):
        tinyddpm.resume(tmp_path / "run", IMAGES[:20], steps=4, progress=False, **{**given, "labels": LABELS[:20]})
    whole = tinyddpm.resume(str(tmp_path / "run"), IMAGES, steps=4, progress=False, **given)
    assert whole.step == model.step == 4
    np.testing.assert_array_equal(whole.sample(3), model.sample(3))


def test_a_path_is_one_by_its_type_too(tmp_path: Path) -> None:
    """A run on an array goes on with a file of that array; without either, what is missing is said."""
    file = tmp_path / "i.npz"
    np.savez(file, images=IMAGES)
    assert tinyddpm.train(file, preset="small", image_size="8x12", out=tmp_path / "file", **SMALL).step == 4
    tinyddpm.train(IMAGES, out=tmp_path / "array", **SMALL)
    with pytest.raises(TinyDDPMError, match="given as an array, which is not kept: give it again, or a file of it"):
        tinyddpm.resume(tmp_path / "array", steps=6, progress=False)
    assert tinyddpm.resume(tmp_path / "array", file, steps=6, progress=False).step == 6


def test_what_it_is_in_one_line() -> None:
    process = tinyddpm.GaussianProcess(tinyddpm.load_backend(), tinyddpm.make_betas("linear", 1000))
    assert repr(process) == "<GaussianProcess of 1000 times, √alpha_bar from 0.9999 to 0.006353, on numpy>"
