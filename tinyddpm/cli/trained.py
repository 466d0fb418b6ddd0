"""Options and steps that the commands on a trained model share: opening it, its sampling, guidance and conditions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyddpm.cli.completion import OF_SETTINGS
from tinyddpm.cli.options import option, options, parse_assignments
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError, DataError
from tinyddpm.files import check_file, check_folder, claimed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tinyddpm.backend import Array
    from tinyddpm.conditions import Asked, Wish
    from tinyddpm.distributed.group import Group
    from tinyddpm.model.checkpoint import Checkpoint
    from tinyddpm.model.config import Config
    from tinyddpm.model.model import Model
    from tinyddpm.model.tables import GuidanceConfig, SamplingConfig
    from tinyddpm.training.interrupt import Stoppable

machine_options = options(
    option(
        "--backend", type=OF_SETTINGS["backend"], default="numpy", show_default=True,
        help="Where to compute: numpy, numba, torch or cupy.", group="General",
    ),
    option("--device", help="The backend's device, such as cuda:1.", group="General"),
    option(
        "--precision", type=OF_SETTINGS["precision"], default="fp32", show_default=True,
        help="Precision: fp32, or tf32 or bf16 where the backend has them.", group="General",
    ),
    option(
        "--graph/--no-graph", default=True, show_default=True,
        help="Record the network as a CUDA graph, on cupy.", group="General",
    ),
    option(
        "--threads", type=click.IntRange(0), default=0,
        help="Threads that share each batch; 0 for one per core.", group="General",
    ),
)  # fmt: skip
"""The options of backend, device, precision, graph and threads, which `open_model` takes."""


def open_model(
    checkpoint: Path,
    raw: bool,
    *,
    backend: str,
    device: str | None,
    precision: str,
    graph: bool,
    threads: int,
    group: Group | None = None,
) -> tuple[Model, Array, Checkpoint]:
    """Return the model, its flat weights and its checkpoint; print a note on each plugin that has changed since.

    With `threads` 0, the ranks of a group share the cores of their machine.
    """
    from tinyddpm.distributed.group import ALONE
    from tinyddpm.model.checkpoint import plugin_notes
    from tinyddpm.model.load import load_model

    group = group or ALONE
    there = group.load_backend(backend, device, precision, graph)
    if group.size > 1 and not threads:
        threads = min(there.threads(0), group.cores())
    model, weights, loaded = load_model(checkpoint, there, raw, threads)
    for note in plugin_notes(loaded):
        say(f"note: {note}", err=True)
    return model, weights, loaded


@dataclass(frozen=True)
class Chosen:
    """The options of `tinyddpm sample` on what is drawn and how; what is not given is the run's own.

    Attributes:
        classes: names or numbers of classes, as `class_names` reads them.
        prompts: captions.
        prompts_file: a text file of more captions, a line each.
        embeddings: a file of tokens.
        sampler: the name of the sampler.
        sample_steps: the number of its steps.
        threshold: how predicted images are kept in range.
        percentile: the share of pixels that the dynamic threshold does not clip.
        assignments: options of the sampler, `KEY=VALUE`.
        spacing: the name of the spacing.
        spacing_assignments: its options, `KEY=VALUE`.
        guide: the name of the guidance; "cfg" if only a scale is given and the run has no guidance.
        scale: its option `scale`.
        guide_assignments: its other options, `KEY=VALUE`.
    """

    classes: str | None = None
    prompts: tuple[str, ...] = ()
    prompts_file: Path | None = None
    embeddings: Path | None = None
    sampler: str | None = None
    sample_steps: int | None = None
    threshold: str | None = None
    percentile: float | None = None
    assignments: tuple[str, ...] = ()
    spacing: str | None = None
    spacing_assignments: tuple[str, ...] = ()
    guide: str | None = None
    scale: float | None = None
    guide_assignments: tuple[str, ...] = ()

    @classmethod
    def taken(cls, given: dict[str, Any]) -> Chosen:
        """Take these options out of the arguments of a command. Those of `open_model` are left."""
        return cls(**{each.name: given.pop(each.name) for each in fields(cls) if each.name in given})

    def sampling(self, config: Config) -> SamplingConfig:
        """Return the sampling of a run, changed by the options."""
        given = {
            "name": self.sampler,
            "steps": self.sample_steps,
            "threshold": self.threshold,
            "percentile": self.percentile,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        changes |= parse_assignments(self.assignments, depth=1)
        spaced = {} if self.spacing is None else {"name": self.spacing}
        spaced |= parse_assignments(self.spacing_assignments, depth=1)
        return config.updated({"sampling": changes, "spacing": spaced}, "options").sampling

    def guidance(self, config: Config) -> GuidanceConfig:
        """Return the guidance of a run, changed by the options."""
        changes: dict[str, Any] = {} if self.scale is None else {"scale": self.scale}
        if self.guide is not None or (self.scale is not None and config.guidance.name == "none"):
            changes["name"] = "cfg" if self.guide is None else self.guide
        changes |= parse_assignments(self.guide_assignments, depth=1)
        return config.updated({"guidance": changes}, "options").guidance

    def wish(self, model: Model) -> Wish:
        """Return the classes, captions and tokens that are asked for.

        Raises:
            ConfigError: a class is unknown, the file of captions cannot be read or is empty, or a text is not UTF-8.
            DataError: the file of tokens cannot be read or is empty.
        """
        from tinyddpm.conditions import Wish
        from tinyddpm.data.paths import open_tokens
        from tinyddpm.model.sampling import class_names, class_numbers

        labels = None
        if self.classes is not None:
            labels = class_numbers(model.classes, class_names(model.classes, _unicode(self.classes)))
        captions = [*map(_unicode, self.prompts), *(_lines(self.prompts_file) if self.prompts_file else ())]
        return Wish(labels, captions or None, open_tokens(self.embeddings) if self.embeddings else None)


def wished_in_turn(model: Model, wish: Wish, numbers: NDArray[np.int64]) -> Asked:
    """Return the condition of the samples with these numbers, (n,): the wishes in turn, or else what the model draws.

    Print a note if there are more wishes than samples.
    """
    from tinyddpm.conditions import count, in_turn

    turns = model.condition.asked(wish)
    if wish.said and len(numbers) < count(turns):
        say(f"note: of {count(turns)} classes or prompts only {len(numbers)} are drawn", err=True)
    return in_turn(turns, numbers)


def _unicode(text: str) -> str:
    """Return an argument decoded as UTF-8: in an ASCII locale, Python passes other bytes on as lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        raise ConfigError(f"{text!r} is no Unicode text: write it as UTF-8") from error


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file, without empty ones and without spaces around them."""
    try:
        check_file(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the prompts {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the prompts {path} are no UTF-8 text: save them as UTF-8, a line each") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"there are no prompts in {path}: write one a line")
    return found


@contextmanager
def keeping(progress: Stoppable, kept: Callable[[], str]) -> Iterator[None]:
    """Run a block that keeps its finished work. If it is stopped or fails, print what is kept and how to continue.

    Args:
        progress: progress line of the work. After a signal it stops the work between two steps, and the command exits
            with code 128 + signal.
        kept: function that returns the text on what is kept, and how to continue.

    Raises:
        DataError: the block has raised it; the text of `kept` is added.
    """
    from tinyddpm.training.interrupt import Stopped, interruptible

    try:
        with interruptible(progress.interrupt):
            yield
    except Stopped as stopped:
        progress.close()
        say(f"stopped by {stopped}; {kept()}", err=True)
        sys.exit(128 + stopped.signal)
    except DataError as error:
        progress.close()
        raise DataError(f"{error}; {kept()}") from error


def new_folder(name: str) -> Path:
    """Return a new folder for the files of the running command: `name`, or with a number if that exists.

    It is made at once, so that of two commands that run at the same time each has its own.
    """
    return click.get_current_context().with_resource(claimed(Path(name)))


def refuse_full(folder: Path) -> None:
    """Check that a folder, which a command is to write to, is empty or new.

    Raises:
        ConfigError: it is not.
        DataError: it cannot be written.
    """
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: choose another folder")
