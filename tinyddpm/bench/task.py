"""The task of a benchmark, and the protocols of contestants. Imports no array library: new processes import it."""

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
        config: the configuration, with a fixed number of threads.
        sample_shape: (H, W, C) of an image or (D,) of a point.
        classes: number of classes, 0 for an unconditional network.
        parameters: number of scalar parameters of the network; a contestant with another number is refused.
    """

    config: Config
    sample_shape: tuple[int, ...]
    classes: int
    parameters: int

    def by(self, backend: str) -> Task:
        """Return the task for another of our backends."""
        return replace(self, config=replace(self.config, backend=backend))

    @property
    def threads(self) -> int:
        """Number of threads that each contestant may use."""
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
        """Description of the device of all contestants."""
        return self.gpu or f"{cpu_model()}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def batch_size(self) -> int:
        """Number of samples per step, of training and of denoising."""
        return self.config.training.batch_size


class Contestant(Protocol):
    """An implementation of a task, in a process of its own. It is idle during the turns of others.

    A contestant that computes on a GPU may have a method `gpu_memory()`, which returns the peak of GPU memory of its
    training steps in bytes. It is reported in the place of the host's memory.

    Attributes:
        parameters: number of scalar parameters of its network.
    """

    parameters: int

    def train_step(self) -> None:
        """Draw times and noise, run forward and backward, clip, step by Adam, and average; return when it is done."""
        ...

    def denoise_step(self) -> None:
        """Take one step of sampling on a batch, without training; return when it is done."""
        ...

    def describe(self) -> str:
        """Return one line: the libraries with their versions, and remarks that a reader of the comparison needs."""
        ...


class Peer(Protocol):
    """The module of a peer's file: two functions. Importing it must import all libraries that it computes with."""

    def variants(self, task: Task, compiled: bool) -> list[str]:
        """Return the names of its contestants for this task.

        Args:
            task: network and steps to run.
            compiled: whether to include variants that must be compiled first.

        Raises:
            TinyDDPMError: it has none for this task.
        """
        ...

    def make(self, task: Task, variant: str) -> Contestant:
        """Return the contestant of this name, ready for its first step."""
        ...


def make_task(config: Config, preset_name: str | None) -> Task:
    """Return the task of a configuration. It is checked here, before any process starts.

    No data set is read: the shape of samples is that of the preset, at `data.image_size` if that is set.

    Args:
        config: the configuration.
        preset_name: the preset whose shape of samples is used; None for that of the data set.

    Raises:
        ConfigError: the shape of samples is unknown, or the network does not fit it.
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
    # NumPy's default number of threads for every backend, so that all contestants have the same.
    backend = load_backend("numpy")
    config = replace(config, training=replace(config.training, threads=backend.threads(config.training.threads)))
    model = Model(config, shape, class_names(classes), backend)
    return Task(config, shape, classes, model.layout.size)


def class_names(classes: int) -> tuple[str, ...]:
    """Return the names of this many classes: "0", "1", …"""
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
