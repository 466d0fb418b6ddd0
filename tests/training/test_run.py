"""What a run leaves in its folder, who may write there, and that nothing it has made is lost."""

from __future__ import annotations

import errno
import hashlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import warnings
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from helpers.runs import POINTS, assert_same_arrays, config, loaded, losses, quiet
from tinyddpm.backend import load_backend
from tinyddpm.data.base import ArrayDataset
from tinyddpm.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DrawingError,
    OutOfMemoryError,
    SumLostError,
    TrainingError,
)
from tinyddpm.figures.marks import read_mark
from tinyddpm.files import unused
from tinyddpm.model.config import Config
from tinyddpm.progress import Progress
from tinyddpm.training import pictures as pictures_module
from tinyddpm.training.lock import held, in_folder
from tinyddpm.training.metrics import Metrics
from tinyddpm.training.pictures import is_drawn
from tinyddpm.training.run import resume, start
from tinyddpm.training.trainer import StepResult, Trainer

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")


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


def test_a_folder_that_is_removed_costs_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was trained is saved in a new one, from which the run goes on as if nothing had happened."""
    start(POINTS, NUMPY, tmp_path / "straight", quiet())
    folder, step = tmp_path / "removed", Trainer.train_step

    def removing(trainer: Trainer) -> StepResult:
        if trainer.step == 6:
            shutil.rmtree(folder)
        return step(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", removing)
        with pytest.raises(DataError, match=r"No such file or directory; all 8 steps are saved: go on with --resume"):
            start(POINTS, NUMPY, folder, quiet())
    assert loaded(folder).step == 8
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


@pytest.mark.parametrize("error", [OutOfMemoryError("out of memory on X"), MemoryError("out of memory for Y")])
def test_memory_that_does_not_suffice_for_a_picture_costs_no_step(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(pictures_module, "draw", large)
    line = rf"out of memory (on X|for Y); all 6 steps are saved: go on with --resume {re.escape(str(tmp_path))}$"
    with pytest.raises(OutOfMemoryError, match=line):
        start(POINTS, NUMPY, tmp_path, quiet())
    assert loaded(tmp_path).step == 6


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


@pytest.mark.parametrize("first", [2, 4])
def test_a_save_that_fails_says_how_to_go_on(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is mended, the run goes on from the last save, if there is one."""
    save = Trainer.save

    def full_from_then_on(trainer: Trainer, *arguments: Any) -> None:
        if trainer.step >= first:
            raise CheckpointError("cannot save FILE: No space left on device")
        save(trainer, *arguments)

    monkeypatch.setattr(Trainer, "save", full_from_then_on)
    how = f"go on from step 2 with --resume {tmp_path}" if first > 2 else "start anew"
    with pytest.raises(CheckpointError, match=f"^cannot save FILE: No space left on device: mend that, and {how}$"):
        start(config(POINTS, save_every=2), NUMPY, tmp_path, quiet())
    monkeypatch.undo()
    if first > 2:
        assert resume(tmp_path, quiet()).complete


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
    outcome = start(config(POINTS, steps=6).updated({"data": {"source": "points"}}), NUMPY, tmp_path, quiet(), points)
    assert (outcome.complete, outcome.pictures) == (True, [])
    with pytest.raises(ConfigError, match="has done 6 steps already"):
        resume(tmp_path, quiet(), points)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_picture_is_drawn_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_bytes(content)
    assert not is_drawn(tmp_path / "samples.png", 6)
