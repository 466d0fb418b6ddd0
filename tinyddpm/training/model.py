"""A model: the network, its parameters' layout and the process, built from a configuration for samples of one shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, Backend, Purpose
from tinyddpm.backend.workers import Workers
from tinyddpm.diffusion.denoiser import NetworkDenoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.nn import Condition, Layout, make_network
from tinyddpm.ops import load_operations
from tinyddpm.samplers import Step, uniform_pairs
from tinyddpm.training.config import Config, SamplingConfig


class Model:
    """What a configuration describes, on a backend.

    Args:
        config: the run's configuration.
        sample_shape: (H, W, C) or (D,).
        classes: the names of the classes; () for an unconditional model.
        backend: where it computes.
        threads: the threads that share a batch; 0 for as many as help on this backend.

    Raises:
        RegistryError: the network, schedule or sampler is not installed.
        ConfigError: an option is wrong, or the network does not fit the samples.
    """

    def __init__(
        self,
        config: Config,
        sample_shape: tuple[int, ...],
        classes: Sequence[str],
        backend: Backend,
        threads: int = 1,
    ) -> None:
        self.config, self.sample_shape, self.classes, self.backend = config, sample_shape, tuple(classes), backend
        network = config.network
        self.network = make_network(network.name, sample_shape, len(classes), sample_shape[-1], network.options)
        self.layout = Layout(self.network.parameters)
        betas = make_betas(config.schedule.name, config.schedule.timesteps, **config.schedule.options)
        self.process = GaussianProcess(backend, betas)
        self.workers = Workers(backend.threads(threads))
        registry.checked("samplers", config.sampling.name, config.sampling.options)

    @property
    def is_image(self) -> bool:
        """Whether samples are images in [−1, 1], rather than points."""
        return len(self.sample_shape) == 3

    def condition(self, labels: np.ndarray[Any, Any] | None) -> Condition:
        """Return the condition that `labels`, (n,) integers, make; nothing for an unconditional model."""
        if not self.classes or labels is None:
            return {}
        return {"label": self.backend.asarray(labels, dtype=self.backend.xp.int64)}

    def sample(
        self,
        weights: Array,
        samples: np.ndarray[Any, Any],
        labels: np.ndarray[Any, Any],
        seed: int,
        sampling: SamplingConfig,
    ) -> Iterator[Step]:
        """Draw one batch, yielding every step; the last one's `x` is the samples, (n, *sample_shape).

        Sample i depends on the seed and on its own number and label, not on what else is in the batch.

        Args:
            weights: flat parameters on the device.
            samples: (n,) the numbers of the samples.
            labels: (n,) classes; an unconditional model ignores them.
            seed: of x_T and of the noise on the way.
            sampling: which sampler, its options, and how many steps.
        """
        backend = self.backend
        random = backend.random(seed)
        w = self.layout.views(weights, backend.xp)
        denoiser = NetworkDenoiser(
            self.network,
            load_operations(backend),
            w,
            self.process,
            self.condition(labels),
            clip=self.is_image,
            workers=self.workers,
        )
        with backend.scope():
            x = random.normal(Purpose.SAMPLE_START, 0, samples, self.sample_shape)

        def noise(t: int) -> Array:
            return random.normal(Purpose.SAMPLE_STEP, t, samples, self.sample_shape)

        pairs = uniform_pairs(self.process.T, sampling.steps or None)
        steps = registry.build("samplers", sampling.name, (self.process, denoiser, x, pairs, noise), sampling.options)
        iterator: Iterator[Step] = iter(steps)
        while True:
            with backend.scope():
                step = next(iterator, None)
            if step is None:
                return
            yield step
