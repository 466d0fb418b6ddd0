"""The loop of a training run: steps, and between them logging, validation, checkpoints and pictures."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from signal import Signals
from typing import Any, NoReturn

from tinyddpm.errors import (
    CheckpointError,
    DataError,
    OutOfMemoryError,
    RankError,
    SumLostError,
    TrainingError,
)
from tinyddpm.model.checkpoint import ORIGINS
from tinyddpm.model.load import CHECKPOINT
from tinyddpm.progress import Progress, duration
from tinyddpm.training.callbacks import Callbacks
from tinyddpm.training.interrupt import Interrupt, interruptible
from tinyddpm.training.kept import keep_best, keep_last
from tinyddpm.training.metrics import Metrics
from tinyddpm.training.pictures import Pictures, grid_of, is_drawn
from tinyddpm.training.record import Record
from tinyddpm.training.snapshots import Snapshots
from tinyddpm.training.trainer import StepResult, Trainer


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: the run folder.
        step: the number of steps done.
        complete: whether these are all that the settings ask for.
        pictures: the pictures written at the end.
        signal: the signal that stopped the run, or None.
        stopped_by: the name of the callback that stopped the run, or None.
    """

    folder: Path
    step: int
    complete: bool
    pictures: list[Path]
    signal: Signals | None = None
    stopped_by: str | None = None

    @property
    def how(self) -> str:
        """The run's end in one word: "complete", or the name of the signal or callback that stopped it."""
        if self.complete:
            return "complete"
        return self.signal.name if self.signal else str(self.stopped_by)


class Run:
    """The loop around a trainer, which reports to `progress`, `callbacks` and `record` and writes into `folder`.

    `state` is the loop's own state from a checkpoint, such as the sum of the losses since the last log line.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        progress: Progress,
        callbacks: Callbacks,
        record: Record,
        state: dict[str, Any],
    ) -> None:
        self.trainer, self.folder, self.progress, self.record = trainer, folder, progress, record
        self.spent = record.spent
        self.config = trainer.config
        self.origins: dict[str, Any] = {key: state[key] for key in ("data", *ORIGINS) if key in state}
        self.loss_sum: float = state.get("loss_sum", 0.0)
        self.loss_count: int = state.get("loss_count", 0)
        self.validation: float | None = state.get("validation")
        self.best: float = inf if state.get("best") is None else state["best"]
        self.improved = False
        self.saved_at: int | None = trainer.step or None
        self.logged_at, self.trained_then = trainer.step, 0.0
        self.group = trainer.group
        self.metrics = Metrics(folder / "metrics.jsonl", trainer.step, progress.say) if self.group.first else None
        self.callbacks = callbacks
        self.interrupt = Interrupt()
        self.snapshots = Snapshots(trainer, folder, progress.say, self.spent)
        self.pictures = Pictures(trainer, folder, progress, callbacks.tell, self.interrupt)

    def train(self) -> Outcome:
        """Train to the configured number of steps, or until a signal or a callback asks to stop.

        Raises:
            TrainingError: the loss or the weights are no longer finite, or memory ran out in a step.
            DataError: a file cannot be read or written; what was trained is saved if that is possible.
            OutOfMemoryError: memory ran out between two steps, such as for a picture; likewise.
            RankError: another rank failed; likewise.
        """
        training, trainer, tell = self.config.training, self.trainer, self.callbacks.tell
        with interruptible(self.interrupt), self.record if self.group.first else nullcontext():
            self.snapshots.begin()
            tell("started", step=trainer.step, steps=training.steps, folder=self.folder)
            try:
                self._go_on()
            except (DataError, OutOfMemoryError, RankError) as error:
                self._save_in_spite_of(error)
            except MemoryError as error:
                self._save_in_spite_of(OutOfMemoryError(f"memory does not suffice: {error}"))
            self.progress.close()
            complete = trainer.step == training.steps
            asked = None if self.interrupt.agree(self.group) else self.group.broadcast(self.callbacks.stopped_by)
            pictures = self._draw_last() if complete or asked else []
            self.progress.say(f"time spent: {self.spent}")
            tell("ended", step=trainer.step, complete=complete)
            stopped_by = None if complete else asked
            outcome = Outcome(self.folder, trainer.step, complete, pictures, self.interrupt.signal, stopped_by)
            if self.group.first:
                self.record.ended(trainer.step, outcome.how)
        return outcome

    def _asked_to_stop(self) -> bool:
        """Return whether a signal to any rank, or a callback of the first rank, has asked to stop."""
        signal = self.interrupt.agree(self.group)
        return bool(signal or self.group.most(bool(self.callbacks.stopped_by)))

    def _go_on(self) -> None:
        """Do the remaining steps and what is due between them. A resumed run first draws a grid that it is missing."""
        training, trainer = self.config.training, self.trainer
        due = 0 < trainer.step < training.steps and trainer.step % training.sample_every == 0
        if due and self.group.broadcast(not is_drawn(grid_of(self.folder, trainer.step), trainer.step)):
            self._draw_grid()
        while trainer.step < training.steps and not self._asked_to_stop():
            result = self._step()
            norm, rate = result.gradient_norm, result.learning_rate
            self.callbacks.tell("step", step=result.step, loss=result.loss, gradient_norm=norm, learning_rate=rate)
            self._log(result)
            last = trainer.step == training.steps
            if trainer.step % training.validate_every == 0 or last:
                self._validate()
            if trainer.step % training.save_every == 0 or last or (training.keep_best and self.improved):
                self._save()
            self.snapshots.take_if_due()
            if trainer.step % training.sample_every == 0 and not last:
                self._draw_grid()
        if self.saved_at != trainer.step:
            self._save()
        self.snapshots.take()

    def _save_in_spite_of(self, error: DataError | OutOfMemoryError | RankError) -> NoReturn:
        """Try to save after an error, then raise the error with what was saved and how to go on."""
        self.progress.close()
        lost = isinstance(error, SumLostError) or (self.group.size > 1 and self.config.training.shard)
        if lost or not self.group.first:
            if not (self.folder / CHECKPOINT).is_file():
                raise error
            raise type(error)(f"{error}; go on from the last save with --resume {self.folder}") from error
        try:
            if self.saved_at != self.trainer.step:
                self._save()
        except CheckpointError as other:
            last = f"; the last save is of step {self.saved_at}" if self.saved_at else ""
            raise type(error)(f"{error}; nor can step {self.trainer.step} be saved{last}") from other
        raise type(error)(
            f"{error}; all {self.trainer.step} steps are saved: go on with --resume {self.folder}"
        ) from error

    def _step(self) -> StepResult:
        try:
            with self.spent.on("training"):
                return self.trainer.train_step()
        except OutOfMemoryError as error:
            self.progress.close()
            raise TrainingError(f"{error}{self._smaller_parts()}") from error
        except TrainingError as error:
            self.progress.close()
            raise self._diverged(str(error)) from error

    def _diverged(self, what: str) -> TrainingError:
        """Return the error of a run whose numbers are no longer finite, with advice on how to go on."""
        lower = f"--learning-rate {self.config.training.learning_rate / 10:g}"
        if not self.saved_at:
            return TrainingError(
                f"{what}, and there is no checkpoint yet: start anew with {lower} or a longer --warmup"
            )
        good = f"the last good checkpoint is {self.folder / CHECKPOINT} (step {self.saved_at})"
        return TrainingError(f"{what}: {good}; go on from there with --resume {self.folder} {lower}")

    def _smaller_parts(self) -> str:
        """Return the advice to halve a step's parts by --accumulate, to append to an error; "" if they cannot be."""
        training = self.config.training
        cut = 2 * training.accumulate
        if cut > training.batch_size:
            return ""
        return (
            f", or keep the batch of {training.batch_size}: --accumulate {cut} takes {-(-training.batch_size // cut)} "
            "at a time, with about half the memory and the same gradient"
        )

    def _log(self, result: StepResult) -> None:
        self.loss_sum += result.loss
        self.loss_count += 1
        training = self.config.training
        mean, pace = self.loss_sum / self.loss_count, self.spent.mean("training")
        held_out = "" if self.validation is None else f"  held out {self.validation:.4f}"
        speed = f"{training.batch_size / pace:.0f} samples/s  {duration(self._left())} left"
        self.progress.update(result.step, training.steps, f"loss {mean:.4f}{held_out}  {speed}")
        due = result.step % training.log_every == 0
        if due or result.step == training.steps:
            values = {
                "step": result.step,
                "loss": mean,
                "gradient_norm": result.gradient_norm,
                "learning_rate": result.learning_rate,
                "samples_per_second": self._samples_per_second(),
            }
            self._record(**values)
            self.callbacks.tell("logged", **values)
        if due:  # not after a last line out of turn: a run given more steps later then logs like an uninterrupted one
            self.loss_sum, self.loss_count = 0.0, 0

    def _samples_per_second(self) -> float:
        """Return the number of samples per second of training since the last call."""
        steps, trained = self.trainer.step - self.logged_at, self.spent.seconds["training"]
        speed = self.config.training.batch_size * steps / (trained - self.trained_then)
        self.logged_at, self.trained_then = self.trainer.step, trained
        return round(speed, 1)

    def _left(self) -> float:
        """Return the estimated seconds left: remaining steps, validations, saves and grids, each at its mean time."""
        training, done = self.config.training, self.trainer.step
        every = {
            "validating": training.validate_every, "saving": training.save_every, "drawing": training.sample_every,
        }  # fmt: skip
        due = {kind: -(-training.steps // steps) - (done - 1) // steps for kind, steps in every.items()}
        due["training"] = training.steps - done
        return sum(self.spent.mean(kind) * times for kind, times in due.items())

    def _validate(self) -> None:
        with self.spent.on("validating"):
            self.validation = self.trainer.validation_loss()
            self._record(step=self.trainer.step, validation_loss=self.validation)
            self.improved = self.validation < self.best
            self.best = min(self.best, self.validation)
            self.callbacks.tell("validated", step=self.trainer.step, loss=self.validation)

    def _draw_grid(self) -> None:
        with self.spent.on("drawing"):
            self.pictures.draw_grid()

    def _draw_last(self) -> list[Path]:
        with self.spent.on("drawing"):
            return self.pictures.finish()

    def _record(self, **values: Any) -> None:
        if self.metrics:
            self.metrics.append(**values)

    def _save(self) -> None:
        state: dict[str, Any] = {
            "ranks": self.group.size,
            "loss_sum": self.loss_sum,
            "loss_count": self.loss_count,
            "validation": self.validation,
            "best": self.best if isfinite(self.best) else None,
            **self.origins,
        }
        backend = self.trainer.model.backend
        with suppress(OSError):  # what is wrong with it, the save says
            self.folder.mkdir(parents=True, exist_ok=True)  # it may have been removed since the run began
        self.interrupt.saving = True
        try:
            with self.spent.on("saving"):
                self.trainer.save(self.folder / CHECKPOINT, state)
        except CheckpointError as error:
            if all(bool(backend.xp.all(backend.xp.isfinite(vector))) for vector in self.trainer.state.buffers):
                how = f"go on from step {self.saved_at} with --resume {self.folder}" if self.saved_at else "start anew"
                raise CheckpointError(f"{error}: mend that, and {how}") from error
            raise self._diverged(f"after step {self.trainer.step} the weights are no longer finite") from error
        finally:
            self.interrupt.saving = False
        self.saved_at = self.trainer.step
        if self.group.first:
            self._keep()
            self.record.saved(self.trainer.step)
        self.improved = False
        self.callbacks.tell("saved", step=self.trainer.step, path=self.folder / CHECKPOINT)

    def _keep(self) -> None:
        """Keep further copies of the last checkpoint, as `training.keep` and `training.keep_best` say."""
        training = self.config.training
        if training.keep:
            keep_last(self.folder, self.trainer.step, training.keep)
        if training.keep_best and self.improved:
            keep_best(self.folder)
