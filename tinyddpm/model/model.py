"""The model: network, layout of parameters, process and condition, built from a configuration for one sample shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, Backend, Purpose, Random
from tinyddpm.backend.workers import Workers
from tinyddpm.conditions import (
    OF_CLASSES,
    TRANSFORMS,
    Asked,
    Condition,
    Conditioned,
    Given,
    Known,
    Transformed,
    Unconditional,
    check_fit,
    count,
    make_condition,
    some,
)
from tinyddpm.conditions.base import HostArray
from tinyddpm.data.base import Dataset
from tinyddpm.diffusion.denoiser import Denoiser, Threshold, Thresholded, make_threshold
from tinyddpm.diffusion.likelihood import Decoder
from tinyddpm.diffusion.objectives import Objective, objective_class
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.diffusion.weightings import make_weights
from tinyddpm.errors import ConfigError
from tinyddpm.guidance import make_guidance
from tinyddpm.model.config import Config
from tinyddpm.model.denoiser import NetworkDenoiser
from tinyddpm.model.scaled import ScaledInput
from tinyddpm.model.tables import ConditionConfig, GuidanceConfig, SamplingConfig, WeightingConfig
from tinyddpm.nn import Layout, Network, Weights, Widths, make_network
from tinyddpm.nn.precision import MixedPrecision
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.images import to_model
from tinyddpm.samplers import Pairs, Step, make_pairs, make_sampler
from tinyddpm.transforms import Transforms


def classes_learned(config: Config, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that a model is conditioned on: all `classes` of the data, or ().

    If `config.data.labels` is None, it is all of them, unless the condition is not that of classes.
    """
    learned = config.data.labels
    if learned is None:
        learned = config.condition.name in ("", OF_CLASSES)
    return tuple(classes) if learned else ()


class Model:
    """The network, process, objective and condition that a configuration describes, on a backend, without weights.

    Args:
        config: the run's configuration.
        sample_shape: (H, W, C) of an image or (D,) of a point.
        classes: the names of the classes; () for a model without classes.
        backend: the backend to compute on.
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

        def declared(told: Widths) -> Network:
            return make_network(network.name, sample_shape, told, channels, network.options)

        width = declared(Widths()).takes.vector
        self.condition = self._condition(width)
        told = self._told_transforms(width)
        net = declared(self.condition.gives._replace(vector=width) if told else self.condition.gives)
        check_fit(network.name, net.takes, self.condition_name, self.condition.gives)
        if backend.precision == "bf16":
            net = MixedPrecision(net, backend.storage)
        if np.any(self.parametrisation.scale != 1):
            net = ScaledInput(net, self.process.table(self.parametrisation.scale))
        telling = Transformed(self.condition, told, width) if told else self.condition
        self.network = Conditioned(net, telling, network.name)
        self._observed = getattr(self.condition, "observed", None)
        self.layout = Layout(self.network.parameters)
        with backend.scope():
            self._null = {name: backend.asarray(value[None, ...]) for name, value in self.condition.null.items()}
        self.workers = Workers(backend.threads(threads))
        self._others: dict[str, tuple[Model, Array]] = {}
        registry.checked("samplers", config.sampling.name, config.sampling.options)
        self.pairs(config.sampling)
        self._threshold(config.sampling)

    @property
    def is_image(self) -> bool:
        """Whether samples are images in [−1, 1], rather than points."""
        return len(self.sample_shape) == 3

    @cached_property
    def transforms(self) -> Transforms:
        """The transforms of training samples, built when first asked for: drawing needs none.

        Raises:
            RegistryError: a transform is not installed, or broken.
            ConfigError: an option is wrong, or images would be mirrored twice.
        """
        chosen = self.config.transforms
        if "flip" in chosen and self.config.data.flip:
            raise ConfigError("data.flip mirrors images, and so does the transform 'flip': give --no-flip with it")
        return Transforms(chosen, self.sample_shape)

    def weights(self, buffer: Array, ops: Operations) -> Weights:
        """Return the parameters in a flat buffer by path, in the form that `ops` reads.

        Operations may convert them, so call this again after the buffer has changed.
        """
        return dict(zip(self.layout.paths, ops.weights(buffer, self.layout.shapes), strict=True))

    @property
    def condition_name(self) -> str:
        """The name of the condition: the configured one, or else that of classes, if any; "" if unconditional."""
        return self.config.condition.name or (OF_CLASSES if self.classes else "")

    def read(self, known: Known) -> Mapping[str, HostArray]:
        """Return the condition's columns of a data set or of requested conditions, on the host, by name."""
        return self.condition.read(known)

    def columns(self, dataset: Dataset) -> Mapping[str, HostArray]:
        """Return the condition's columns of a data set; {} if the condition computes them from the samples."""
        return {} if self._observed else self.read(dataset)

    def known(self, dataset: Dataset, rows: HostArray) -> Asked:
        """Return what is known of the samples `rows` of a data set, with the columns computed from the samples."""
        known = some(dataset, rows)
        if not self._observed:
            return known
        with self.backend.scope():
            x = self.backend.asarray(dataset.read(rows))
            made = self.observed({}, to_model(x) if self.is_image else x)
            columns = {name: self.backend.to_numpy(column) for name, column in made.items()}
        return Asked(known.labels, {**known.columns, **columns})

    def given(self, columns: Mapping[str, HostArray], rows: HostArray | slice) -> Given:
        """Return the rows `rows` of the condition's columns on the device."""
        return {name: self.backend.asarray(column[rows]) for name, column in columns.items()}

    def asked(self, known: Known) -> Given:
        """Return the condition's columns for requested conditions, one row a sample, on the device.

        Raises:
            ConfigError: the request lacks what the model is conditioned on, or asks for something unknown.
        """
        return self.given(self.read(known), slice(None))

    def nothing(self, n: int) -> Given:
        """Return the null condition's columns for n samples, on the device.

        Raises:
            ConfigError: the model was trained without condition dropout, so it has not learned the null condition.
        """
        if not self.config.condition.dropout:
            raise ConfigError("the model has not learned a null condition: train one with --condition-dropout 0.1")
        null = self.condition.null.items()
        return {name: self.backend.asarray(np.repeat(value[None, ...], n, axis=0)) for name, value in null}

    def observed(self, given: Given, x_0: Array) -> Given:
        """Return the condition's columns of the samples x_0: `given`, or columns computed from x_0."""
        return self._observed(self.backend.xp, x_0) if self._observed else given

    def in_training(
        self,
        given: Given,
        x_0: Array,
        random: Random,
        step: int | Array,
        samples: HostArray | Array,
        done: Array,
    ) -> Given:
        """Return the condition's columns of a training batch: as `observed`, with noise of this step and with dropout.

        Args:
            given: the columns read from the data set.
            x_0: the samples, on the device.
            random: random numbers of the training's seed.
            step: the training step.
            samples: (N,) the slots of the batch.
            done: (N, k) what transforms did to the samples; None without transforms.
        """
        if self._observed:
            given = self._observed(self.backend.xp, x_0, random, step, samples)
        given = self.partly_nothing(given, random, step, samples)
        return {**given, TRANSFORMS: done} if self.config.data.tell_transforms else given

    def partly_nothing(self, given: Given, random: Random, step: int | Array, samples: HostArray | Array) -> Given:
        """Return `given` with the null condition for a random fraction of the samples (CFG, Algorithm 1).

        The fraction is `condition.dropout`. For the other arguments see `Random`.
        """
        rate, xp = self.config.condition.dropout, self.backend.xp
        if not rate:
            return given
        said = random.keep_mask(Purpose.CONDITION, step, samples, (), rate)
        return {
            name: xp.where(xp.reshape(said, (-1,) + (1,) * (column.ndim - 1)), column, self._null[name])
            for name, column in given.items()
        }

    def network_denoiser(self, weights: Array, asked: Known) -> NetworkDenoiser:
        """Return the network as a denoiser with flat weights, for the requested conditions, one row a sample."""
        ops = load_operations(self.backend)
        with self.backend.scope():
            w = self.weights(weights, ops)
        return NetworkDenoiser(
            self.network,
            ops,
            w,
            self.parametrisation,
            self.asked(asked),
            workers=self.workers,
            learned_variance=self.objective.learned_variance,
        )

    def guided(self, weights: Array, asked: Known, guidance: GuidanceConfig | None = None) -> Denoiser:
        """Return the network's denoiser with guidance; its predictions may lie outside the range of images.

        Args:
            weights: flat parameters on the device.
            asked: the requested conditions, one row a sample.
            guidance: the guidance and its options; the configuration's own by default.

        Raises:
            RegistryError: there is no such guidance.
            ConfigError: an option is wrong, or a denoiser that the guidance needs is missing.
            CheckpointError: the run of the option `weak` cannot be read.
        """
        guidance = guidance or self.config.guidance
        conditional = self.network_denoiser(weights, asked)
        if guidance.name == "none":
            if guidance.options:
                raise ConfigError(f"there is no guidance for option {next(iter(guidance.options))}: name one")
            return conditional
        unconditional = None
        if self.config.condition.dropout:
            n = len(next(iter(conditional.given.values())))
            unconditional = conditional.told(self.nothing(n))
        options = dict(guidance.options)
        if "weak" in options:
            options["weak"] = self._weak(str(options["weak"]), asked)
        return make_guidance(guidance.name, conditional, unconditional, **options)

    def thresholded(self, denoiser: Denoiser, sampling: SamplingConfig) -> Denoiser:
        """Return a denoiser whose predicted images `sampling.threshold` keeps in range; apply it after all guidance."""
        threshold = self._threshold(sampling)
        return denoiser if threshold is None else Thresholded(self.process, denoiser, threshold)

    def denoiser(
        self,
        weights: Array,
        asked: Known,
        sampling: SamplingConfig,
        guidance: GuidanceConfig | None = None,
    ) -> Denoiser:
        """Return the denoiser for samplers: the network's, `guided` and then `thresholded`."""
        return self.thresholded(self.guided(weights, asked, guidance), sampling)

    def pairs(self, sampling: SamplingConfig) -> Pairs:
        """Return the pairs (t, t_prev) of the steps that `sampling` takes.

        Raises:
            RegistryError: the spacing is unknown.
            ConfigError: `sampling.steps` exceeds the length of the chain.
        """
        spacing = sampling.spacing
        return make_pairs(spacing.name, self.process.alpha_bar, sampling.steps or None, **spacing.options)

    def sample(
        self,
        weights: Array,
        samples: np.ndarray[Any, Any],
        asked: Known,
        seed: int,
        sampling: SamplingConfig,
        guidance: GuidanceConfig | None = None,
    ) -> Iterator[Step]:
        """Draw one batch and yield every step; `x` of the last step is the samples, (n, *sample_shape).

        A sample depends on the seed, its number and its condition, not on the rest of the batch.

        Args:
            weights: flat parameters on the device.
            samples: (n,) the numbers of the samples.
            asked: the requested conditions, one row a sample; an unconditional model ignores them.
            seed: the seed of x_T and of the sampler's noise.
            sampling: the sampler, its options, its steps and their spacing, and the threshold.
            guidance: the guidance and its options; the configuration's own by default.

        Raises:
            ConfigError: `asked` has not one row for each sample, a requested condition is unknown, or `sampling` or
                `guidance` is wrong.
        """
        self._check_rows(asked, len(samples))
        backend = self.backend
        random = backend.random(seed)
        denoiser = self.denoiser(weights, asked, sampling, guidance)
        with backend.scope():
            numbers, _ = random.on_device(0, samples)  # once: no step waits for them
            x = random.normal(Purpose.SAMPLE_START, 0, numbers, self.sample_shape)

        def noise(t: int) -> Array:
            return random.normal(Purpose.SAMPLE_STEP, t, numbers, self.sample_shape)

        sampler = make_sampler(sampling.name, **sampling.options)
        return self._scoped(sampler(self.process, denoiser, x, self.pairs(sampling), noise))

    def _check_rows(self, asked: Known, n: int) -> None:
        """Raise a ConfigError if the requested conditions have not one row for each of n samples."""
        labels = asked.labels
        if self.classes and labels is not None and labels.shape != (n,):
            raise ConfigError(f"labels of shape {'x'.join(map(str, labels.shape))} for {n} samples: give one for each")
        if self.condition_name and count(asked) not in (0, n):
            raise ConfigError(f"{count(asked)} conditions are given for {n} samples: give one for each")

    def _scoped(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Yield the steps, each computed within the backend's scope."""
        while True:
            with self.backend.scope():
                step = next(steps, None)
            if step is None:
                return
            yield step

    def _weak(self, run: str, asked: Known) -> NetworkDenoiser:
        """Return the denoiser of another run, a weaker model, for the same requested conditions.

        Raises:
            CheckpointError: the run cannot be read.
            ConfigError: its samples, classes or noise differ from this model's.
        """
        from tinyddpm.model.load import load_model  # which imports this module

        if run not in self._others:
            self._others[run] = load_model(Path(run), self.backend, threads=self.workers.threads)[:2]
        other, weights = self._others[run]
        same = (
            other.sample_shape == self.sample_shape
            and other.classes in ((), self.classes)
            and np.array_equal(other.process.alpha_bar, self.process.alpha_bar)
        )
        if not same:
            raise ConfigError(f"the weaker model {run} has other samples, classes or noise: guide by one with the same")
        return other.network_denoiser(weights, asked)

    def _condition(self, width: int) -> Condition:
        """Return the configured condition, for a network that takes vectors of this width."""
        chosen, name = self.config.condition, self.condition_name
        null = chosen.dropout > 0
        if name:
            return make_condition(name, self.sample_shape, len(self.classes), width, null, chosen.options)
        if chosen != ConditionConfig():
            raise ConfigError("condition has settings, but nothing is conditioned on: give --labels or --condition")
        return Unconditional()

    def _told_transforms(self, width: int) -> int:
        """Return how many numbers per sample describe the transforms to the network; 0 if it is not told of them.

        Raises:
            ConfigError: there are no transforms, or the network takes no vector to be told by.
        """
        if not self.config.data.tell_transforms:
            return 0
        if not self.transforms.numbers:
            raise ConfigError("there are no transforms to tell of: give some, such as --transform shift")
        if not width:
            raise ConfigError(
                f"network {self.config.network.name!r} takes no vector, so it cannot be told of transforms: leave"
                " --tell-transforms out"
            )
        return self.transforms.numbers

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
        """Return the threshold that keeps predicted images in range; None for points, which have no range."""
        threshold = make_threshold(sampling.threshold, sampling.percentile)
        return threshold if self.is_image else None
