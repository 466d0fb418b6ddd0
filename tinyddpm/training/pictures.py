"""The pictures of a run: a grid of samples at regular steps, and a last grid and an animation at its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from tinyddpm.conditions import Wish, in_turn
from tinyddpm.errors import DataError, DrawingError, said_before
from tinyddpm.figures.images import save_gif, save_png
from tinyddpm.figures.marks import Mark, mark_of, read_mark, samples_of, sha256_of
from tinyddpm.figures.samples import animation, is_drawable, picture
from tinyddpm.model.checkpoint import CheckpointHeader
from tinyddpm.model.load import CHECKPOINT
from tinyddpm.model.sampling import Samples, draw
from tinyddpm.progress import Progress
from tinyddpm.training.interrupt import Interrupt
from tinyddpm.training.trainer import Trainer

SAMPLE_BATCH = 128

GRID, FILM = "samples.png", "denoising.gif"
"""The files that a run draws at its end: a grid of samples, and an animation of their denoising."""

SHOWN = 8
"""Number of held-out samples that serve as examples where the condition needs some, such as images to enlarge."""


def last_pictures(folder: Path, header: CheckpointHeader) -> list[Path]:
    """Return the paths of the pictures that a run draws at its end; [] for samples that are not drawable."""
    if not is_drawable(header.sample_shape):
        return []
    return [folder / GRID, folder / FILM, grid_of(folder, header.step)]


def grid_of(folder: Path, step: int) -> Path:
    """Return the path of the grid that is drawn after `step` steps."""
    return folder / "samples" / f"step_{step:07d}.png"


def is_drawn(path: Path, step: int) -> bool:
    """Return whether there is a picture at `path` that was drawn after `step` steps, by the mark in its file."""
    try:
        made = read_mark(path) if path.is_file() else {}
    except DataError:
        return False
    match made:
        case {"checkpoint": {"step": found}}:
            return bool(found == step)
    return False


class _Stopped(Exception):  # noqa: N818 - not an error: drawing ended early, by a signal or because it failed
    pass


class Pictures:
    """Draws a run's pictures with the averaged weights. All ranks draw, and the first one writes.

    Args:
        trainer: the run's trainer.
        folder: the run folder.
        progress: the progress line.
        tell: called with the event `drew`, its step and paths.
        interrupt: ends a drawing once it has a signal.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        progress: Progress,
        tell: Callable[..., None],
        interrupt: Interrupt,
    ) -> None:
        self.trainer, self.folder, self.progress, self.tell, self.interrupt = trainer, folder, progress, tell, interrupt
        self.config, self.group = trainer.config, trainer.group

    def _draw(self, frames: bool) -> tuple[Samples, Mark]:
        """Return samples of the averaged weights and their mark, without the checkpoint's hash or the configuration."""
        sampling, model = self.config.sampling, self.trainer.model
        numbers = np.arange(sampling.count)
        held_out = self.trainer.held_out
        shown = model.known(held_out, np.arange(min(SHOWN, len(held_out))))
        asked = in_turn(model.condition.asked(Wish(), shown), numbers)

        def watch(done: int, steps: int) -> None:
            self.progress.update(done, steps, f"drawing {sampling.count} samples")
            if self.interrupt.agree(self.group):
                raise _Stopped

        try:
            with said_before():
                samples = draw(
                    model,
                    self.trainer.ema,
                    numbers,
                    asked,
                    seed=self.config.seed,
                    sampling=sampling,
                    batch_size=SAMPLE_BATCH,
                    frames=frames,
                    watch=watch,
                    group=self.group,
                )
        except DrawingError as error:
            self.progress.say(
                f"note: step {self.trainer.step}: {error}; there is no picture of it, and the run goes on"
            )
            raise _Stopped from error
        finally:
            self.progress.close()
        mark = mark_of(
            model,
            "tinyddpm train",
            {"step": self.trainer.step, "weights": "average"},
            seed=self.config.seed,
            sampling=sampling,
            guidance=self.config.guidance,
            samples=samples_of(model, asked, numbers),
        )
        return samples, mark

    def draw_grid(self) -> None:
        """Draw the grid of the current step."""
        path = grid_of(self.folder, self.trainer.step)
        if is_drawable(self.trainer.model.sample_shape):
            with suppress(_Stopped):
                samples, mark = self._draw(frames=False)
                if not self.group.first:
                    return
                save_png(path, picture(samples), {**mark, "configuration": self.config.to_dict()})
                self.tell("drew", step=self.trainer.step, paths=[path])

    def finish(self) -> list[Path]:
        """Draw the last samples, the animation of their denoising and the grid of the last step.

        Returns:
            The paths of the first two; [] if samples are not drawable or drawing ended early.
        """
        grid, film = self.folder / GRID, self.folder / FILM
        if not is_drawable(self.trainer.model.sample_shape):
            return []
        with suppress(_Stopped):
            samples, mark = self._draw(frames=True)
            if not self.group.first:
                return [grid, film]
            saved = {**mark["checkpoint"], "sha256": sha256_of(self.folder / CHECKPOINT)}
            for path in (grid, grid_of(self.folder, self.trainer.step)):
                save_png(path, picture(samples), {**mark, "checkpoint": saved})
            save_gif(film, animation(samples), mark={**mark, "checkpoint": saved})
            self.tell("drew", step=self.trainer.step, paths=[grid, film])
            return [grid, film]
        return []
