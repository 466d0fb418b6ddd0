"""What a benchmark runs, and what runs it. Imports no array library: processes start from here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from tinyddpm.errors import ConfigError
from tinyddpm.machine import cpu_model
from tinyddpm.model.config import TOYS, Config, Preset, preset, presets


@dataclass(frozen=True)
class Task:
    """The network and the steps that every contestant runs.

    Attributes:
        config: the configuration, its number of threads settled.
        sample_shape: (H, W, C) of an image or (D,) of a point.
        classes: number of classes, 0 for an unconditional network.
        parameters: how many scalar parameters the network has; a contestant with another number is refused.
    """

    config: Config
    sample_shape: tuple[int, ...]
    classes: int
    parameters: int

    def by(self, backend: str) -> Task:
        """Return the task as another backend of ours runs it."""
        return replace(self, config=replace(self.config, backend=backend))

    @property
    def threads(self) -> int:
        """The threads that each contestant may use."""
        return self.config.training.threads

    @property
    def gpu(self) -> str | None:
        """The GPU that all contestants compute on, such as "cuda:0"; None for the CPU."""
        device = self.config.device or ""
        if self.config.backend == "cupy":
            return f"cuda:{device.removeprefix('cuda').removeprefix(':') or 0}"
        return device if device.startswith("cuda") else None

    @property
    def place(self) -> str:
        """What all contestants compute on, in words."""
        return self.gpu or f"{cpu_model()}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def batch_size(self) -> int:
        """Samples per step, of training and of denoising."""
        return self.config.training.batch_size


class Contestant(Protocol):
    """One implementation of a task. Each lives in its own process, and is idle while others take their turn.

    One that computes on a GPU may have a method `gpu_memory()`, the most bytes of it that its training steps take; what
    its process takes of the host's memory would say little.

    Attributes:
        parameters: how many scalar parameters its network has.
    """

    parameters: int

    def train_step(self) -> None:
        """Draw times and noise, go forward and backward, clip, update by Adam and average; return when it is done."""
        ...

    def denoise_step(self) -> None:
        """Take one step of sampling on a batch, without training; return when it is done."""
        ...

    def describe(self) -> str:
        """Return one line: libraries with their versions, and what a reader must know of the comparison."""
        ...


class Peer(Protocol):
    """What a peer's file defines: a module with these two functions. Importing it imports all that it computes with."""

    def variants(self, task: Task, compiled: bool) -> list[str]:
        """Return the names of its contestants for this task, or raise TinyDDPMError if it has none.

        Args:
            task: what is to be run.
            compiled: whether those that must be compiled first are wanted too.
        """
        ...

    def make(self, task: Task, variant: str) -> Contestant:
        """Return the contestant of this name, ready for its first step."""
        ...


def make_task(config: Config, preset_name: str | None) -> Task:
    """Return the task of a configuration, which is checked here, before any process is started.

    No data set is read: the shape of the samples is the preset's, at `data.image_size` if that is set.

    Args:
        config: the configuration.
        preset_name: the preset whose samples it is for; None for that of its data set.

    Raises:
        ConfigError: the shape cannot be told, or the network does not fit it.
    """
    from tinyddpm.backend import load_backend
    from tinyddpm.data import parse_size
    from tinyddpm.model.model import Model, classes_learned

    chosen = _samples_of(config, preset_name)
    shape = chosen.sample_shape
    if config.data.image_size and len(shape) == 3:
        shape = (*parse_size(config.data.image_size), shape[-1])
    classes = len(classes_learned(config, class_names(chosen.classes)))
    if config.data.labels and not classes:
        raise ConfigError("data.labels is true, but the samples of this preset have no classes: give --no-labels")
    # NumPy's rule for every backend: all contestants get the same number.
    backend = load_backend("numpy")
    config = replace(config, training=replace(config.training, threads=backend.threads(config.training.threads)))
    model = Model(config, shape, class_names(classes), backend)
    return Task(config, shape, classes, model.layout.size)


def class_names(classes: int) -> tuple[str, ...]:
    """Return names for this many classes: their numbers."""
    return tuple(map(str, range(classes)))


def _samples_of(config: Config, preset_name: str | None) -> Preset:
    source = config.data.source
    name = preset_name or ("toy" if source in TOYS else source)
    if name not in presets():
        raise ConfigError(
            f"bench reads no data, so it cannot tell the shape of the samples in {source!r}: give --preset, one of "
            f"{', '.join(presets())}, and --image-size HxW for another size"
        )
    return preset(name)
