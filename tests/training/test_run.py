"""Runs: they learn, they stop, they go on bit for bit, and nothing they have made is lost."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from helpers.runs import HYBRID, IMAGES, POINTS, assert_same, assert_same_arrays, config, loaded, losses, quiet
from tinyddpm.backend import Backend, load_backend
from tinyddpm.backend.numpy_backend import NumpyBackend
from tinyddpm.conditions import Asked, some
from tinyddpm.data import open_dataset
from tinyddpm.data.base import ArrayDataset
from tinyddpm.errors import CheckpointError, ConfigError, DataError, DrawingError, SumLostError, TrainingError
from tinyddpm.figures.marks import read_mark
from tinyddpm.files import unused
from tinyddpm.model.config import Config
from tinyddpm.model.load import load_model
from tinyddpm.model.sampling import draw
from tinyddpm.progress import Progress
from tinyddpm.training import pictures as pictures_module
from tinyddpm.training.assembly import make_trainer, open_data
from tinyddpm.training.lock import held, in_folder
from tinyddpm.training.metrics import Metrics
from tinyddpm.training.pictures import is_drawn
from tinyddpm.training.run import resume, start
from tinyddpm.training.trainer import StepResult, Trainer

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


def test_diverging_run_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    settings = config(POINTS, steps=500, save_every=1, clip=0.0, warmup=0, learning_rate=1e12)
    folder = tmp_path / "run"
    with warnings.catch_warnings(action="error"), pytest.raises(TrainingError) as caught:
        start(settings, NUMPY, folder, quiet())
    message = str(caught.value)
    saved = loaded(folder)
    assert f"the loss of step {saved.step + 1} is " in message
    assert f"the last good checkpoint is {folder / 'checkpoint.h5'} (step {saved.step})" in message
    assert np.isfinite(saved.weights).all()


def test_short_training_on_digits_learns(tmp_path: Path) -> None:
    """50 steps of a small U-Net bring the held-out loss from 1 (it starts by predicting 0) to below 0.45."""
    settings = config(IMAGES, steps=50, batch_size=64, accumulate=1, learning_rate=5e-3, validate_every=50).updated(
        {"schedule": {"timesteps": 50}, "data": {"flip": False, "validation": 256}}
    )
    trainer = make_trainer(settings, NUMPY, open_data(settings))
    before = trainer.validation_loss()
    outcome = start(settings, NUMPY, tmp_path / "run", quiet())
    after = [line["validation_loss"] for line in losses(tmp_path / "run") if "validation_loss" in line][-1]
    assert before == pytest.approx(1.0, abs=0.05)
    assert after < 0.45
    assert [path.name for path in outcome.pictures] == ["samples.png", "denoising.gif"]
    assert all(path.stat().st_size > 1000 for path in outcome.pictures)


def test_run_folder_holds_what_it_should(tmp_path: Path) -> None:
    start(POINTS, NUMPY, tmp_path / "run", quiet())
    names = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    expected = {"config.toml", "metrics.jsonl", "run.json", "checkpoint.h5", "samples.png", "denoising.gif", ".lock"}
    assert names == expected | {"samples/step_0000006.png", "samples/step_0000012.png"}
    assert [line["step"] for line in losses(tmp_path / "run")] == [4, 5, 8, 10, 12, 12]


def test_pictures_of_a_run_say_what_made_them(tmp_path: Path) -> None:
    """Those at the end name the checkpoint by its hash, those on the way have the configuration instead."""
    outcome = start(POINTS, NUMPY, tmp_path / "run", quiet())
    assert outcome.how == "complete"  # a signal to whoever tests would be caught by the run, which then ends early
    made = read_mark(tmp_path / "run" / "samples" / "step_0000006.png")
    assert made["checkpoint"] == {"step": 6, "weights": "average"}
    assert Config.from_dict(made["configuration"]) == Config.from_dict(loaded(tmp_path / "run").config)
    digest = hashlib.sha256((tmp_path / "run" / "checkpoint.h5").read_bytes()).hexdigest()
    for name in ("samples.png", "denoising.gif"):
        made = read_mark(tmp_path / "run" / name)
        assert made["checkpoint"] == {"step": 12, "weights": "average", "sha256": digest}
        assert made["made_by"] == "tinyddpm train"
        assert "configuration" not in made


def test_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not empty: choose another folder with --out, or go on with --resume"):
        start(POINTS, NUMPY, tmp_path, quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert unused(tmp_path) == tmp_path.with_name(tmp_path.name + "-2")


HOLDER = """
import sys
from pathlib import Path
from tinyddpm.training.lock import held
with held(Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    """Who comes second is told who was first; a holder that is killed holds nothing; readers never wait."""
    start(config(POINTS, steps=3), NUMPY, tmp_path / "run", quiet())
    for folder in (tmp_path / "run", tmp_path / "new"):
        command = [sys.executable, "-c", HOLDER, str(folder)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline() == "held\n"
            who = f"{folder.name} is in use by process {holder.pid} on {platform.node()}, since 20"
            second = partial(resume, folder, quiet(), steps=5)
            if folder.name == "new":
                second = partial(start, config(POINTS, steps=3), NUMPY, folder, quiet())
            with pytest.raises(ConfigError, match=re.escape(who)):
                second()
            assert loaded(tmp_path / "run").step == 3
            holder.kill()
    (tmp_path / "run" / "samples" / ".step_0000002.png.0123abcd.tmp").write_text("left by a killed run")
    assert resume(tmp_path / "run", quiet(), steps=5).complete
    assert start(config(POINTS, steps=3), NUMPY, tmp_path / "new", quiet()).complete
    assert {path.name for path in tmp_path.rglob(".*")} == {".lock"}


def test_a_lock_outlives_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let go of, and not only forgotten."""
    locks: list[FileLock] = []

    def kept(*arguments: Any, **options: Any) -> FileLock:
        locks.append(FileLock(*arguments, **options))
        return locks[-1]

    monkeypatch.setattr("tinyddpm.training.lock.FileLock", kept)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), held(tmp_path / "run", print):
            raise ZeroDivisionError
    assert not in_folder(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^cannot write \S*file: "), held(tmp_path / "file", print):
        pass


@pytest.mark.parametrize("said", [None, b"", b"{", b"[]", b"{}"])
def test_a_holder_that_does_not_say_who_it_is_is_another_process(said: bytes | None, tmp_path: Path) -> None:
    if said is not None:
        (tmp_path / ".lock.json").write_bytes(said)
    line = f"^{re.escape(str(tmp_path))} is in use by another process: wait until it ends, or take another folder$"
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError, match=line), held(tmp_path, print):
        pass


def test_where_nothing_can_be_locked_a_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(_: FileLock) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", acquire)
    said: list[str] = []
    with held(tmp_path, said.append):
        pass
    assert said == [f"note: {tmp_path} cannot be locked (No locks available): let no other run write there"]


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4])
def test_pictures_that_a_kill_cost_are_drawn_on_resume(
    killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the grid on the way, and in each of the three that a run ends with; a second time there is nothing to do."""
    settings = config(POINTS, save_every=6, sample_every=6)
    start(settings, NUMPY, tmp_path / "straight", quiet())
    left = [killed_at]

    def dying(save: Any, *arguments: Any, **options: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        save(*arguments, **options)

    for name in ("save_png", "save_gif"):
        monkeypatch.setattr(pictures_module, name, partial(dying, getattr(pictures_module, name)))
    with pytest.raises(KeyboardInterrupt):
        start(settings, NUMPY, tmp_path / "killed", quiet())
    assert loaded(tmp_path / "killed").step == (6 if killed_at == 1 else 12)
    assert resume(tmp_path / "killed", quiet()).complete
    drawn = ("samples/step_0000006.png", "samples/step_0000012.png", "samples.png", "denoising.gif")
    for name in drawn:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name
    with pytest.raises(ConfigError, match="has done 12 steps already"):
        resume(tmp_path / "killed", quiet())


def test_pictures_of_an_earlier_end_are_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run that went on was killed before its last picture, which there is one of, but of fewer steps."""
    start(POINTS, NUMPY, tmp_path / "straight", quiet())
    start(config(POINTS, steps=6), NUMPY, tmp_path / "killed", quiet())

    def dying(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pictures_module, "save_gif", dying)
        with pytest.raises(KeyboardInterrupt):
            resume(tmp_path / "killed", quiet(), steps=12)
    assert resume(tmp_path / "killed", quiet()).complete
    straight, killed = (tmp_path / name / "denoising.gif" for name in ("straight", "killed"))
    assert killed.read_bytes() == straight.read_bytes()


def test_a_line_that_is_rewritten_ends_before_a_stop_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    step = Trainer.train_step

    def stopped(trainer: Trainer) -> StepResult:
        signal.raise_signal(signal.SIGINT)
        return step(trainer)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    terminal = Terminal()
    assert start(POINTS, NUMPY, tmp_path / "run", Progress(terminal)).signal == signal.SIGINT
    assert re.search(r"\r1/12  loss [^\n]*\ntime spent: [^\n]*\n$", terminal.getvalue())


def test_an_edited_configuration_is_honoured_or_refused(tmp_path: Path) -> None:
    """What changes nothing that was trained is honoured, and said; the rest is refused with what it was."""
    start(config(POINTS, steps=3), NUMPY, tmp_path / "run", quiet())
    file = tmp_path / "run" / "config.toml"
    written = file.read_text()
    file.write_text(written.replace("steps = 3", "steps = 7").replace("batch_size = 30", "batch_size = 31"))
    with pytest.raises(ConfigError, match=r"a run keeps training.batch_size \(it was 30\): put it back, or start"):
        resume(tmp_path / "run", quiet())
    file.write_text("steps = ")
    with pytest.raises(ConfigError, match=r"config.toml is not valid TOML"):
        resume(tmp_path / "run", quiet(), steps=7)
    file.write_text(written.replace("steps = 3", "steps = 7").replace("log_every = 5", "log_every = 1"))
    said = StringIO()
    assert resume(tmp_path / "run", Progress(said)).step == 7
    assert f"note: {file} was edited: training.steps is 7, and was 3\n" in said.getvalue()
    assert [line["step"] for line in losses(tmp_path / "run") if "loss" in line] == [3, 4, 5, 6, 7]
    file.unlink()
    assert resume(tmp_path / "run", quiet(), steps=8).complete
    assert file.read_text() == written.replace("steps = 3", "steps = 8").replace("log_every = 5", "log_every = 1")


@pytest.mark.parametrize("what", ["metrics", "grid"])
def test_a_disk_that_fills_up_costs_no_step(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is named, the state saved, and the run goes on from there as if nothing had happened."""
    start(POINTS, NUMPY, tmp_path / "straight", quiet())
    folder = tmp_path / "full"
    (place, name) = (Metrics, "append") if what == "metrics" else (pictures_module, "save_png")

    def full(*_: Any, **values: Any) -> None:
        raise DataError("cannot write FILE: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(place, name, full)
        done = 4 if what == "metrics" else 6
        line = f"cannot write FILE: No space left on device; all {done} steps are saved: go on with --resume {folder}"
        with pytest.raises(DataError, match=f"^{re.escape(line)}$"):
            start(POINTS, NUMPY, folder, quiet())
    assert loaded(folder).step == done
    assert resume(folder, quiet()).complete
    assert_same_arrays(loaded(folder), loaded(tmp_path / "straight"))


def test_what_is_saved_already_is_not_saved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk is full just after the save of that step."""
    saved: list[int] = []

    def full(*_: Any, **__: Any) -> None:
        raise DataError("cannot write FILE: No space left on device")

    monkeypatch.setattr(pictures_module, "save_png", full)
    monkeypatch.setattr(Trainer, "save", lambda trainer, *_: saved.append(trainer.step))
    with pytest.raises(DataError, match="all 6 steps are saved"):
        start(config(POINTS, save_every=3), NUMPY, tmp_path, quiet())
    assert saved == [3, 6]


@pytest.mark.parametrize("step", [0, 6])
def test_a_sum_that_is_lost_saves_nothing(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is half done: what was saved before is said, if there is any."""
    train_step = Trainer.train_step

    def losing(trainer: Trainer) -> StepResult:
        if trainer.step == step:
            raise SumLostError("rank 1 is lost")
        return train_step(trainer)

    monkeypatch.setattr(Trainer, "train_step", losing)
    line = "rank 1 is lost" + (f"; go on from the last save with --resume {tmp_path}" if step else "")
    with pytest.raises(SumLostError, match=f"^{re.escape(line)}$"):
        start(config(POINTS), NUMPY, tmp_path, quiet())
    assert (tmp_path / "checkpoint.h5").is_file() == (step > 0)
    assert not step or loaded(tmp_path).step == 5


@pytest.mark.parametrize(("save_every", "last"), [(5, ""), (2, "; the last save is of step 2")])
def test_a_full_disk_that_takes_no_save_either(
    save_every: int, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is said what is lost."""
    save = Trainer.save

    def full(*_: Any, **__: Any) -> None:
        raise DataError("cannot write FILE: No space left on device")

    def full_from_step_3_on(trainer: Trainer, *arguments: Any) -> None:
        if trainer.step > 2:
            raise CheckpointError("cannot write checkpoint.h5: No space left on device")
        save(trainer, *arguments)

    monkeypatch.setattr(Metrics, "append", full)
    monkeypatch.setattr(Trainer, "save", full_from_step_3_on)
    line = f"cannot write FILE: No space left on device; nor can step 4 be saved{last}"
    with pytest.raises(DataError, match=f"^{line}$"):
        start(config(POINTS, save_every=save_every), NUMPY, tmp_path, quiet())


def test_the_advice_to_a_diverged_run_can_be_followed(tmp_path: Path) -> None:
    folder, said = tmp_path / "run", StringIO()
    with pytest.raises(TrainingError, match=r"^after step 1 the weights are no longer finite, and there is no checkp"):
        start(config(POINTS, learning_rate=1e38, warmup=0, clip=0.0, save_every=1), NUMPY, tmp_path / "huge", quiet())
    with pytest.raises(TrainingError, match=r"there is no checkpoint yet: start anew with --learning-rate 1e\+11 or a"):
        start(config(POINTS, learning_rate=1e12, warmup=0, clip=0.0, steps=60), NUMPY, tmp_path / "early", quiet())
    start(config(POINTS, steps=3), NUMPY, folder, quiet())
    advice = rf"\(step 3\); go on from there with --resume {folder} --learning-rate 1e\+37$"
    with warnings.catch_warnings(action="error"), pytest.raises(TrainingError, match=advice):
        resume(folder, quiet(), steps=60, learning_rate=1e38)
    assert loaded(folder).step == 3
    assert resume(folder, Progress(said), steps=9, learning_rate=1e-4).complete
    assert "note: from here on the learning rate is 0.0001, and no longer 0.001\n" in said.getvalue()
    assert Config.from_dict(loaded(folder).config).training.learning_rate == 1e-4


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


def test_a_run_goes_on_where_nothing_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        raise DrawingError("sample 0 of 10 is not finite")

    monkeypatch.setattr("tinyddpm.training.pictures.draw", nothing)
    said = StringIO()
    outcome = start(POINTS, NUMPY, tmp_path, Progress(said))
    assert (outcome.complete, outcome.pictures) == (True, [])
    for step in (6, 12):
        assert f"note: step {step}: sample 0 of 10 is not finite; there is no picture of it" in said.getvalue()


def test_a_signal_ends_a_drawing_and_then_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture of that step is left, and what was trained is saved."""

    def drawing(*_: Any, watch: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        watch(1, 20)
        pytest.fail("it went on drawing")

    monkeypatch.setattr("tinyddpm.training.pictures.draw", drawing)
    outcome = start(config(POINTS), NUMPY, tmp_path, quiet())
    assert (outcome.step, outcome.signal, outcome.pictures) == (6, signal.SIGINT, [])
    assert loaded(tmp_path).step == 6
    assert not [*tmp_path.rglob("*.png")]


def test_samples_that_are_no_picture_are_trained_all_the_same(tmp_path: Path) -> None:
    """Points in space: nothing is drawn, and so nothing is missing when all steps are done."""
    points = ArrayDataset(np.random.default_rng(0).standard_normal((60, 3)), name="points")
    outcome = start(config({**POINTS, "data": {"source": "points"}}, steps=6), NUMPY, tmp_path, quiet(), points)
    assert (outcome.complete, outcome.pictures) == (True, [])
    with pytest.raises(ConfigError, match="has done 6 steps already"):
        resume(tmp_path, quiet(), points)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_picture_is_drawn_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_bytes(content)
    assert not is_drawn(tmp_path / "samples.png", 6)


def test_labels_and_batch_sizes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="there are no labels in"):
        make_trainer(POINTS.updated({"data": {"source": "ring", "labels": True}}), NUMPY, open_dataset("ring"))
    with pytest.raises(DataError, match="a batch of 30000 is more than the"):
        make_trainer(config(POINTS, batch_size=30_000), NUMPY, open_data(POINTS))


def test_times_are_uniform_and_reach_both_ends() -> None:
    """Index 0 is trained: t is uniform on 0 … T − 1. Chi-squared over T = 20 cells and 30,000 draws, at 1e-6 (68.1)."""
    trainer = make_trainer(POINTS, NUMPY, open_data(POINTS))
    drawn = np.concatenate([trainer.law.draw(trainer.advance.random, step, np.arange(30))[0] for step in range(1000)])
    counts = np.bincount(drawn, minlength=20)
    assert len(counts) == 20
    assert ((counts - 1500) ** 2 / 1500).sum() < 68.1


def test_accumulated_gradient_is_the_whole_batchs(tmp_path: Path) -> None:
    """Dropout masks, flips, times and noise belong to samples, so cutting the batch changes rounding alone."""
    dataset = open_data(IMAGES)
    whole, cut = (make_trainer(config(IMAGES, accumulate=k), NUMPY, dataset) for k in (1, 4))
    rng = np.random.default_rng(0)
    whole.weights[:] = cut.weights[:] = rng.standard_normal(whole.weights.shape) * 0.1
    a, b = whole.train_step(), cut.train_step()
    assert a.loss == pytest.approx(b.loss, rel=1e-5)
    expected, found = whole.advance.gradients[0], cut.advance.gradients[0]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_threads_change_rounding_alone(accumulate: int) -> None:
    """One to three threads give the same step, to rounding; and the same number of threads the same bits, each time."""
    dataset = open_data(IMAGES)
    settings = {"accumulate": accumulate, "batch_size": 26}
    trainers = [make_trainer(config(IMAGES, threads=k, **settings), NUMPY, dataset) for k in (1, 2, 3, 3)]
    initial = np.random.default_rng(0).standard_normal(trainers[0].weights.shape) * 0.1
    for trainer in trainers:
        trainer.weights[:] = initial
        trainer.ema[:] = initial
    one, two, three, again = (trainer.train_step() for trainer in trainers)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)
    assert three.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
    assert three == again
    assert trainers[2].weights.tobytes() == trainers[3].weights.tobytes()
    assert trainers[1].validation_loss() == pytest.approx(trainers[0].validation_loss(), rel=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    start(config(IMAGES, learning_rate=1e-2), NUMPY, folder, quiet())
    return folder


def test_a_sample_is_the_same_in_any_batch(trained: Path) -> None:
    """Images as uint8 are equal, but that a product's rounding may differ by batch: at most one level, rarely."""
    model, weights, _ = load_model(trained, NUMPY)
    numbers, asked = np.arange(3, 14), Asked(np.arange(3, 14) % 10)
    options = {"seed": 5, "sampling": model.config.sampling}
    together = draw(model, weights, numbers, asked, batch_size=11, **options).values
    for batch_size in (1, 4):
        apart = draw(model, weights, numbers, asked, batch_size=batch_size, **options).values
        difference = np.abs(apart.astype(int) - together)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
    tail = draw(model, weights, numbers[7:], some(asked, slice(7, None)), batch_size=2, **options).values
    assert np.abs(tail.astype(int) - together[7:]).max() <= 1
    other = draw(model, weights, numbers, asked, batch_size=11, seed=6, sampling=model.config.sampling).values
    assert (other != together).mean() > 0.5


def test_average_and_raw_weights_differ(trained: Path) -> None:
    _, ema, checkpoint = load_model(trained, NUMPY)
    _, raw, _ = load_model(trained, NUMPY, raw=True)
    assert np.array_equal(raw, checkpoint.weights)
    assert not np.array_equal(raw, ema)


def test_frames_end_with_the_samples(trained: Path) -> None:
    model, weights, _ = load_model(trained, NUMPY)
    samples = draw(
        model,
        weights,
        np.arange(4),
        Asked(np.arange(4)),
        seed=0,
        sampling=model.config.sampling,
        batch_size=3,
        frames=True,
    )
    assert len(samples.frames) == 20
    assert np.array_equal(samples.frames[-1], samples.values)
    assert samples.frames[0].shape == samples.values.shape == (4, 8, 8, 1)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(POINTS, id="points"),
        pytest.param(IMAGES, id="images"),
        pytest.param(HYBRID, id="hybrid"),
    ],
)
def test_other_backends_train_and_draw_as_numpy_does(settings: Config, other_backend: Backend) -> None:
    """The same seed: losses of the first steps and the samples agree to float32 rounding, its growth included."""
    dataset = open_data(settings)
    ours, theirs = (make_trainer(settings, backend, dataset) for backend in (NUMPY, other_backend))
    for _ in range(5):
        a, b = ours.train_step(), theirs.train_step()
        assert a.loss == pytest.approx(b.loss, rel=1e-4)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-3)
    assert ours.validation_loss() == pytest.approx(theirs.validation_loss(), rel=1e-4)
    options = {"seed": 0, "sampling": ours.config.sampling, "batch_size": 3}
    mine, other = (draw(t.model, t.ema, np.arange(5), Asked(np.arange(5)), **options).values for t in (ours, theirs))
    tolerance = 1 if mine.dtype == np.uint8 else 1e-3
    assert np.abs(mine.astype(float) - other).max() <= tolerance


class LittleMemory(NumpyBackend):
    """Has no room for more than so many points at a time."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.points = points

    def asarray(self, values: Any, dtype: Any = None) -> Any:
        if np.ndim(values) == 2 and len(values) > self.points:
            raise MemoryError
        return super().asarray(values, dtype)


def test_memory_that_runs_out_says_what_would_fit(tmp_path: Path) -> None:
    """The advice, taken as often as it is given, ends with a run that fits; one sample cannot be cut any further."""
    settings = config(POINTS, steps=1, threads=1).updated({"data": {"validation": 10}})
    for accumulate, at_a_time in ((1, 15), (2, 8)):
        cut = settings.updated({"training": {"accumulate": accumulate}})
        with pytest.raises(TrainingError, match=r"^out of memory on numpy .* GiB in use: .* --batch-size") as raised:
            start(cut, LittleMemory(10), tmp_path / f"{accumulate}", Progress())
        line = str(raised.value)
        assert f"keep the batch of 30: --accumulate {2 * accumulate} takes {at_a_time} at a time" in line
        assert "\n" not in line
    cut = settings.updated({"training": {"accumulate": 4}})
    assert start(cut, LittleMemory(10), tmp_path / "fits", Progress()).complete
    with pytest.raises(TrainingError, match=r"^out of memory") as raised:
        start(settings.updated({"training": {"batch_size": 1}}), LittleMemory(0), tmp_path / "never fits", Progress())
    assert "--accumulate" not in str(raised.value)
