"""A model: the network, its parameters' layout and the process, built from a configuration for samples of one shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, Backend, Purpose
from tinyddpm.backend.workers import Workers
from tinyddpm.diffusion.denoiser import Threshold, make_threshold
from tinyddpm.diffusion.likelihood import Decoder
from tinyddpm.diffusion.objectives import Objective, objective_class
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.diffusion.weightings import make_weights
from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config, SamplingConfig, WeightingConfig
from tinyddpm.model.denoiser import NetworkDenoiser
from tinyddpm.model.scaled import ScaledInput
from tinyddpm.nn import Condition, Layout, Weights, make_network
from tinyddpm.nn.precision import MixedPrecision
from tinyddpm.ops import Operations, load_operations
from tinyddpm.samplers import Pairs, Step, make_pairs


class Model:
    """What a configuration describes, on a backend.

    Args:
        config: the run's configuration.
        sample_shape: (H, W, C) or (D,).
        classes: the names of the classes; () for an unconditional model.
        backend: where it computes.
        threads: the threads that share a batch; 0 for as many as help on this backend.

    Raises:
        RegistryError: the network, schedule, weighting, sampler or spacing is not installed.
        ConfigError: an option is wrong, settings contradict each other, or the network does not fit the samples.
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
        network, schedule = config.network, config.schedule
        betas = make_betas(schedule.name, schedule.timesteps, **schedule.options)
        self.process = GaussianProcess(backend, zero_terminal_snr(betas) if schedule.zero_terminal_snr else betas)
        self.parametrisation = make_parametrisation(
            self.process, config.training.predict, **config.parametrisation.options
        )
        self.objective = self._objective()
        channels = sample_shape[-1] * (2 if self.objective.learned_variance else 1)
        self.network = make_network(network.name, sample_shape, len(classes), channels, network.options)
        if backend.precision == "bf16":
            self.network = MixedPrecision(self.network, backend.storage)
        if np.any(self.parametrisation.scale != 1):
            self.network = ScaledInput(self.network, self.process.table(self.parametrisation.scale))
        self.layout = Layout(self.network.parameters)
        self.workers = Workers(backend.threads(threads))
        registry.checked("samplers", config.sampling.name, config.sampling.options)
        self.pairs(config.sampling)
        self._threshold(config.sampling)

    @property
    def is_image(self) -> bool:
        """Whether samples are images in [−1, 1], rather than points."""
        return len(self.sample_shape) == 3

    def weights(self, buffer: Array, ops: Operations) -> Weights:
        """Return flat parameters by path, as these operations read them; to be asked again when the buffer changes."""
        return dict(zip(self.layout.paths, ops.weights(buffer, self.layout.shapes), strict=True))

    def condition(self, labels: np.ndarray[Any, Any] | None) -> Condition:
        """Return the condition that `labels`, (n,) integers, make; nothing for an unconditional model."""
        if not self.classes or labels is None:
            return {}
        return {"label": self.backend.asarray(labels, dtype=self.backend.xp.int64)}

    def denoiser(
        self, weights: Array, labels: np.ndarray[Any, Any] | None, sampling: SamplingConfig
    ) -> NetworkDenoiser:
        """Return the network as a denoiser with the given weights, for the classes `labels`, (n,), one a row."""
        ops = load_operations(self.backend)
        with self.backend.scope():
            w = self.weights(weights, ops)
        return NetworkDenoiser(
            self.network,
            ops,
            w,
            self.parametrisation,
            self.condition(labels),
            threshold=self._threshold(sampling),
            workers=self.workers,
            learned_variance=self.objective.learned_variance,
        )

    def pairs(self, sampling: SamplingConfig) -> Pairs:
        """Return the steps that `sampling` takes.

        Raises:
            RegistryError: there is no such spacing.
            ConfigError: the chain has fewer steps than are asked for.
        """
        return make_pairs(sampling.spacing, self.process.alpha_bar, sampling.steps or None)

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
            sampling: which sampler, its options, how many steps at which times, and the threshold.
        """
        backend = self.backend
        random = backend.random(seed)
        denoiser = self.denoiser(weights, labels, sampling)
        with backend.scope():
            x = random.normal(Purpose.SAMPLE_START, 0, samples, self.sample_shape)

        def noise(t: int) -> Array:
            return random.normal(Purpose.SAMPLE_STEP, t, samples, self.sample_shape)

        pairs = self.pairs(sampling)
        steps = registry.build("samplers", sampling.name, (self.process, denoiser, x, pairs, noise), sampling.options)
        iterator: Iterator[Step] = iter(steps)
        while True:
            with backend.scope():
                step = next(iterator, None)
            if step is None:
                return
            yield step

    def _objective(self) -> Objective:
        training, weighting, weights = self.config.training, self.config.weighting, None
        kind = objective_class(training.loss)
        if kind.weighted:
            weights = make_weights(weighting.name, self.process.alpha_bar, self.parametrisation, **weighting.options)
        elif weighting != WeightingConfig():
            raise ConfigError(
                f"the loss {training.loss!r} has weights of its own, so weighting {weighting.name!r} cannot be given "
                "with it: use the loss 'hybrid' or 'simple'"
            )
        decoder: Decoder = "pixels" if self.is_image else "points"
        options = self.config.objective.options
        if "vlb_weight" in registry.options(kind):
            options = {"vlb_weight": training.vlb_weight, **options}
        objective: Objective = registry.build(
            "objectives", training.loss, (self.parametrisation, weights, decoder), options
        )
        return objective

    def _threshold(self, sampling: SamplingConfig) -> Threshold | None:
        """Return what keeps predictions in the range of images; points have no range."""
        threshold = make_threshold(sampling.threshold, sampling.percentile)
        return threshold if self.is_image else None
