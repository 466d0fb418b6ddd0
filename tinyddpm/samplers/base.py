"""The contract of samplers: their arguments, their steps, and the levels of signal and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from tinyddpm import registry
from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError

Noise: TypeAlias = Callable[[int], Array]
"""A function of t that returns standard normal noise of the samples' shape, for the step from t."""

Pairs: TypeAlias = Sequence[tuple[int, int]]
"""The steps of a sampler, (t, t_prev), from T − 1 down to −1, the data."""


class Step(NamedTuple):
    """One step of a sampler: the time t it started from, the x it arrived at, (N, ...), and the x_0 predicted at t."""

    t: int
    x: Array
    x_0: Array


class Sampler(Protocol):
    """A loop over a denoiser, as an entry of group `tinyddpm.samplers`. Options are keyword-only, with defaults.

    A wrong option is refused by the call, not by the first step: a sampler with options to check is a plain function
    that checks them and returns a generator.
    """

    def __call__(
        self, process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, **options: Any
    ) -> Iterator[Step]:
        """Yield every step; the last one's `x` is the sample.

        Args:
            process: the chain that the denoiser was made for.
            denoiser: predicts x_0 and eps.
            x: (N, ...) standard normal noise, x at time T − 1.
            pairs: the steps to take.
            noise: fresh noise for each step; a deterministic sampler ignores it.
            options: the sampler's own.

        Raises:
            ConfigError: the value of an option is not allowed.
        """
        ...


def make_sampler(name: str, /, **options: Any) -> Sampler:
    """Return the sampler registered as `name` with the `options` given.

    Args:
        name: a name of the registry's `samplers` group.
        options: the sampler's own; further ones may be given with the call.

    Raises:
        RegistryError: no such sampler, or its plugin is broken.
        ConfigError: an option is unknown or of another type. The sampler's call raises it for a value that is not
            allowed, its steps for anything yielded that is no `Step` with samples of x's shape and type.
    """
    registry.checked("samplers", name, options)

    def sampler(
        process: GaussianProcess, denoiser: Denoiser, x: Array, pairs: Pairs, noise: Noise, **more: Any
    ) -> Iterator[Step]:
        steps = registry.build("samplers", name, (process, denoiser, x, pairs, noise), {**options, **more})
        if not isinstance(steps, Iterator):
            raise ConfigError(f"sampler {name!r} returns a {type(steps).__name__}: make it yield Step(t, x, x_0)")
        return _checked(name, steps, x)

    return sampler


def _checked(name: str, steps: Iterator[Step], x: Array) -> Iterator[Step]:
    for step in steps:
        if not isinstance(step, Step):
            raise ConfigError(f"sampler {name!r} yields a {type(step).__name__}: make it yield Step(t, x, x_0)")
        if step.x.shape != x.shape or step.x.dtype != x.dtype:
            raise ConfigError(
                f"sampler {name!r} yields {step.x.dtype} of shape {tuple(step.x.shape)} for {x.dtype} of shape"
                f" {tuple(x.shape)}: make it keep both"
            )
        yield step


class Level(NamedTuple):
    """The coefficients of x_t = alpha x_0 + sigma eps. Python's floats, which do not change the samples' type."""

    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Noise to signal, sigma / alpha: the sigma of EDM, and e^(−λ) for DPM-Solver's λ = log(alpha / sigma).

        Raises:
            ConfigError: there is no signal, as at the first step of a chain with zero terminal SNR.
        """
        if self.alpha == 0:
            raise ConfigError(
                "this sampler works in noise to signal, and the schedule ends with no signal: use ddim or ancestral"
            )
        return self.sigma / self.alpha

    @property
    def tau(self) -> float:
        """Rectified flow's time, 0 at the data, 1 at noise alone: x / (alpha + sigma) = (1 − τ) x_0 + τ eps."""
        return self.sigma / (self.alpha + self.sigma)


def level(process: GaussianProcess, t: int) -> Level:
    """Return alpha = √alpha_bar and sigma = √(1 − alpha_bar) at t; 1 and 0 at t = −1, the data."""
    alpha_bar = float(process.alpha_bar[t]) if t >= 0 else 1.0
    return Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)
