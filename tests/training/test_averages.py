"""Power-function averages of a training: what they are of, and that nothing else is changed by them."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.runs import POINTS, loaded
from tinyddpm.backend import load_backend
from tinyddpm.errors import CheckpointError, ConfigError
from tinyddpm.model.averages import exponent_of
from tinyddpm.model.config import Config
from tinyddpm.progress import Progress
from tinyddpm.training.assembly import make_trainer, open_data
from tinyddpm.training.run import resume, start

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")

SETTINGS = POINTS.updated(
    {
        "training": {"learning_rate": 1e-2, "warmup": 0, "threads": 2, "average_lengths": "0.05,0.2"},
        "sampling": {"steps": 2},
    }
)


def config(**training: Any) -> Config:
    return SETTINGS.updated({"training": training})


def run(folder: Path, backend: str = "numpy", **training: Any) -> Path:
    settings = config(**training).updated({"backend": backend})
    start(settings, load_backend(backend), folder, Progress(StringIO()))
    return folder


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_averages_are_of_the_weights_after_each_step(backend: str) -> None:
    """Twelve steps' weights, each counted by the integral of the profile over it, to float32 rounding."""
    settings, there = config(), load_backend(backend)
    trainer = make_trainer(settings, there, open_data(settings))
    weights = []
    for _ in range(12):
        trainer.train_step()
        weights.append(there.to_numpy(trainer.weights).astype(np.float64))
    found = trainer.averages()
    assert [*found] == ["0.050", "0.200"]
    for name, average in found.items():
        counts = np.diff((np.arange(13) / 12) ** (exponent_of(float(name)) + 1))
        expected = counts @ np.stack(weights)
        assert np.linalg.norm(average - expected) < 1e-6 * np.linalg.norm(expected)
        assert np.linalg.norm(weights[-1] - expected) > 1e-3 * np.linalg.norm(expected)


def test_averages_change_nothing_else(tmp_path: Path) -> None:
    """The weights, the plain average and the moments of a run are the bits of one without."""
    with_, without = loaded(run(tmp_path / "with")), loaded(run(tmp_path / "without", average_lengths=""))
    assert without.averages == {}
    for name in ("weights", "ema", "adam_m", "adam_v"):
        assert getattr(with_, name).tobytes() == getattr(without, name).tobytes(), name


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
@pytest.mark.parametrize("stop", [1, 7])
def test_stopped_and_resumed_has_the_same_averages(backend: str, stop: int, tmp_path: Path) -> None:
    straight, stopped = run(tmp_path / "straight", backend), run(tmp_path / "stopped", backend, steps=stop)
    resume(stopped, Progress(StringIO()), steps=12)
    one, other = loaded(straight).averages, loaded(stopped).averages
    assert [*one] == [*other] == ["0.050", "0.200"]
    for name, average in one.items():
        assert average.tobytes() == other[name].tobytes(), name


def test_a_run_keeps_its_lengths(tmp_path: Path) -> None:
    """What was not averaged from the first step on cannot be from a later one."""
    folder = run(tmp_path / "run", steps=2)
    toml = folder / "config.toml"
    toml.write_text(toml.read_text().replace("0.05,0.2", "0.05,0.1"))
    with pytest.raises(ConfigError, match=r"a run keeps training\.average_lengths \(it was '0\.05,0\.2'\)"):
        resume(folder, Progress(StringIO()), steps=4)
    trainer = make_trainer(config(average_lengths="0.05"), NUMPY, open_data(config()))
    with pytest.raises(CheckpointError, match="lacks averages of the lengths that the settings name"):
        trainer.restore(loaded(folder))
