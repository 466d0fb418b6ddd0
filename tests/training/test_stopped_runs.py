"""Runs that are stopped, killed or edited, and resumed: bit for bit the straight run, or one line says why not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.runs import HYBRID, IMAGES, POINTS, assert_same, assert_same_arrays, config, loaded, losses, quiet
from tinyddpm.backend import load_backend
from tinyddpm.data.base import ArrayDataset
from tinyddpm.errors import CheckpointError, ConfigError
from tinyddpm.model.config import Config
from tinyddpm.progress import Progress
from tinyddpm.training.run import resume, start

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")

COMPILED = IMAGES.updated({"backend": "numba", "network": {"channels": 32, "heads": 2}, "training": {"threads": 2}})
"""Channels that fill the registers of compiled products."""

VLB = config(POINTS, loss="vlb", predict="v", accumulate=2).updated({"schedule": {"timesteps": 4}})
"""Few times, so that after a few steps each has the ten losses that the next times are drawn after."""


@pytest.mark.parametrize(
    ("settings", "stop"),
    [
        pytest.param(POINTS, 1, id="points-1"),
        pytest.param(POINTS, 5, id="points-5"),
        pytest.param(POINTS, 6, id="points-6"),
        pytest.param(VLB, 6, id="vlb-6"),
        pytest.param(IMAGES, 5, id="images-5"),
        pytest.param(HYBRID, 1, id="hybrid-1"),
        pytest.param(COMPILED, 5, id="numba-5"),
    ],
)
def test_stopped_and_resumed_is_the_straight_run(settings: Config, stop: int, tmp_path: Path) -> None:
    """Whether the stop falls between log lines, on one or at a save; with flips, dropout, classes, accumulation.

    And with times drawn after the losses before, which the stop then must not forget.
    """
    backend = load_backend(settings.backend)
    start(settings, backend, tmp_path / "straight", quiet())
    start(config(settings, steps=stop), backend, tmp_path / "stopped", quiet())
    resume(tmp_path / "stopped", quiet(), steps=settings.training.steps)
    # A run that ends at a step logs its loss and validates there; the straight run did not.
    extra = {name for name, every in (("loss", 5), ("validation_loss", 4)) if stop % every}
    kept = [line for line in losses(tmp_path / "stopped") if line["step"] != stop or not extra & set(line)]
    assert kept == losses(tmp_path / "straight")
    assert_same_arrays(loaded(tmp_path / "straight"), loaded(tmp_path / "stopped"))


def test_recomputed_is_the_straight_run(tmp_path: Path) -> None:
    """With classes, flips, dropout and accumulation; also where only the steps after a stop are recomputed."""
    start(IMAGES, NUMPY, tmp_path / "straight", quiet())
    start(config(IMAGES, recompute=True), NUMPY, tmp_path / "recomputed", quiet())
    assert_same(tmp_path / "straight", tmp_path / "recomputed")
    start(config(IMAGES, steps=5), NUMPY, tmp_path / "stopped", quiet())
    resume(tmp_path / "stopped", quiet(), steps=7, recompute=True)
    assert_same_arrays(loaded(tmp_path / "straight"), loaded(tmp_path / "stopped"))


RUNNER = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, under which tests may run, ignores it for all below
import sys, json
from pathlib import Path
from tinyddpm.backend import Backend, load_backend
from tinyddpm.backend.numpy_backend import NumpyBackend
from tinyddpm.model.config import Config
from tinyddpm.progress import Progress
from tinyddpm.training.run import resume, start
from tinyddpm.conditions import Asked
folder = Path(sys.argv[2])
if (folder / "checkpoint.h5").exists():
    outcome = resume(folder, Progress())
else:
    import shutil; shutil.rmtree(folder, ignore_errors=True)
    outcome = start(Config.from_dict(json.loads(sys.argv[1])), load_backend("numpy"), folder, Progress())
sys.exit(128 + outcome.signal if outcome.signal else 0)
"""


def run_in_process(settings: Config, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUNNER, json.dumps(settings.to_dict()), str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    for _ in range(60_000):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.005)
    pytest.fail("the run did not get there in five minutes")


def test_killed_during_saves_and_resumed_is_the_straight_run(tmp_path: Path) -> None:
    """A run that saves at every step is killed four times, after the random time of 0 to 2 steps, mostly in a save."""
    often = config(POINTS, steps=100, save_every=1, validate_every=1000, sample_every=1000)
    folder, file = tmp_path / "killed", tmp_path / "killed" / "checkpoint.h5"
    moments = random.Random(3)
    for _ in range(4):
        saves = [file.stat().st_mtime_ns if file.exists() else 0]
        process = run_in_process(often, folder)
        for _ in range(2):
            wait_for(lambda seen=saves[-1]: file.exists() and file.stat().st_mtime_ns != seen, process)
            saves.append(file.stat().st_mtime_ns)
        time.sleep(moments.uniform(0, 2e-9 * (saves[2] - saves[1])))
        assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.communicate()
        assert loaded(folder).step > 0  # never half written
    assert run_in_process(often, folder).wait() == 0
    start(config(often, save_every=1000), NUMPY, tmp_path / "straight", quiet())
    assert_same(folder, tmp_path / "straight")
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_finishes_the_step_saves_and_exits(number: signal.Signals, code: int, tmp_path: Path) -> None:
    long = config(POINTS, steps=100_000, save_every=100_000, validate_every=100_000, sample_every=100_000)
    folder = tmp_path / "run"
    process = run_in_process(long, folder)
    wait_for(lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").stat().st_size > 200, process)
    os.kill(process.pid, number)
    assert process.wait(timeout=60) == code
    done = loaded(folder).step
    assert 0 < done < 100_000
    start(config(long, steps=done), NUMPY, tmp_path / "straight", quiet())
    for name in ("weights", "ema", "adam_m", "adam_v"):
        assert getattr(loaded(folder), name).tobytes() == getattr(loaded(tmp_path / "straight"), name).tobytes()


def test_an_edited_configuration_is_honoured_or_refused(tmp_path: Path) -> None:
    """What changes nothing that was trained is honoured, and said; the rest is refused with what it was."""
    start(config(POINTS, steps=3), NUMPY, tmp_path / "run", quiet())
    file = tmp_path / "run" / "config.toml"
    written = file.read_text()
    file.write_text(written.replace("steps = 3", "steps = 7").replace("batch_size = 30", "batch_size = 31"))
    with pytest.raises(ConfigError, match=r"a run keeps training.batch_size \(it was 30\): put it back, remove"):
        resume(tmp_path / "run", quiet())
    file.write_text("steps = ")
    with pytest.raises(ConfigError, match=r"config.toml is not valid TOML"):
        resume(tmp_path / "run", quiet(), steps=7)
    mine = "# mine\n" + written.replace("steps = 3", "steps = 7").replace("log_every = 5", "log_every = 1")
    file.write_text(mine)
    said = StringIO()
    assert resume(tmp_path / "run", Progress(said)).step == 7
    assert f"note: {file} was edited: training.steps is 7, and was 3\n" in said.getvalue()
    assert [line["step"] for line in losses(tmp_path / "run") if "loss" in line] == [3, 4, 5, 6, 7]
    assert file.read_text() == mine
    file.unlink()
    assert resume(tmp_path / "run", quiet(), steps=8).complete
    assert file.read_text() == written.replace("steps = 3", "steps = 8").replace("log_every = 5", "log_every = 1")


def test_resume_refuses_what_it_cannot_go_on_with(tmp_path: Path) -> None:
    points = np.random.default_rng(0).standard_normal((300, 2)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    settings = POINTS.updated({"data": {"source": str(tmp_path / "points.npy")}})
    start(config(settings, steps=3), NUMPY, tmp_path / "run", quiet())
    with pytest.raises(ConfigError, match="has done 3 steps already: ask for more with --steps"):
        resume(tmp_path / "run", quiet())
    np.save(tmp_path / "points.npy", points[:-1])
    with pytest.raises(CheckpointError, match=r"was trained on other data .*: the number of samples and the samples"):
        resume(tmp_path / "run", quiet(), steps=5)
    with pytest.raises(CheckpointError, match="nowhere"):
        resume(tmp_path / "nowhere", quiet())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"classes": ("a", "c")}, "the classes changed"),
        ({"labels": 1 - np.arange(40) % 2}, "the labels changed"),
        ({"columns": {"age": np.arange(40)[::-1]}}, "the captions and columns changed"),
        ({"samples": np.roll(np.arange(80.0).reshape(40, 2), 1, axis=0)}, "the samples changed"),
        ({"samples": np.arange(120.0).reshape(40, 3)}, "the samples and the shape of a sample"),
    ],
)
def test_resume_on_other_data_is_refused(change: dict[str, Any], line: str, tmp_path: Path) -> None:
    """Of as many samples as before: other names, labels, columns, order, or size. What changed is named."""
    told: dict[str, Any] = {
        "samples": np.arange(80.0).reshape(40, 2),
        "labels": np.arange(40) % 2,
        "classes": ("a", "b"),
        "columns": {"age": np.arange(40)},
    }
    settings = config(POINTS, steps=2).updated({"data": {"source": "array", "labels": True}})
    start(settings, NUMPY, tmp_path, quiet(), ArrayDataset(**told, name="x"))
    with pytest.raises(CheckpointError, match=rf"was trained on other data than x: 40 .*: {line}"):
        resume(tmp_path, quiet(), steps=4, dataset=ArrayDataset(**{**told, **change}, name="x"))
    assert resume(tmp_path, quiet(), steps=4, dataset=ArrayDataset(**told, name="x")).step == 4
