"""What a guidance is, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from tinyddpm import registry
from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess

Pair: TypeAlias = Callable[[Array, int], tuple[Prediction, Prediction]]
"""Two denoisers asked the same: x_t, (N, ...), and t; the predictions of both."""


class Side(Protocol):
    """A denoiser that guidance is made of: it knows its chain, and may be asked together with another.

    Attributes:
        process: the chain that the denoiser was made for.
    """

    process: GaussianProcess

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...); see `Denoiser`."""
        ...

    def beside(self, other: Side) -> Pair:
        """Return what asks this denoiser and another: at once where they share a network, else in turn."""
        ...


class Lone:
    """A denoiser as a `Side`: it is asked on its own.

    Args:
        process: the chain that the denoiser was made for.
        denoiser: what it says.
    """

    def __init__(self, process: GaussianProcess, denoiser: Denoiser) -> None:
        self.process, self.denoiser = process, denoiser

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...)."""
        return self.denoiser(x_t, t)

    def beside(self, other: Side) -> Pair:
        """Return what asks this denoiser first, then the other."""
        return lambda x_t, t: (self(x_t, t), other(x_t, t))


class Guidance(Protocol):
    """Makes one denoiser of several, as an entry of group `tinyddpm.guidance`. Options are keyword-only.

    A wrong option is refused by the call, not when the denoiser is asked.
    """

    def __call__(self, conditional: Side, unconditional: Side | None, **options: Any) -> Denoiser:
        """Return the guided denoiser. The learned variance is the conditional's; nothing is clipped.

        Args:
            conditional: the model, told what to draw.
            unconditional: the same model, told nothing; None where it was not trained for that.
            options: the guidance's own. One called `weak` is another model: its run in a configuration, its
                `Side`, told what to draw, in the call.

        Raises:
            ConfigError: an option has no such value, or a denoiser that is needed is missing.
        """
        ...


def make_guidance(name: str, conditional: Side, unconditional: Side | None, /, **options: Any) -> Denoiser:
    """Return the denoiser that the guidance registered as `name` makes; see `Guidance`.

    Raises:
        RegistryError: no such guidance, or its plugin is broken.
        ConfigError: an option is unknown, of another type or of no such value, or a denoiser is missing.
    """
    guided: Denoiser = registry.build("guidance", name, (conditional, unconditional), options)
    return guided
