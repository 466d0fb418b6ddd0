"""The contract of guidance: the denoisers that it combines, and its own arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from tinyddpm import registry
from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess

Pair: TypeAlias = Callable[[Array, int], tuple[Prediction, Prediction]]
"""A function of x_t, (N, ...), and t that returns the predictions of two denoisers."""


class Side(Protocol):
    """A denoiser that guidance combines: it knows its chain and can be called together with another.

    Attributes:
        process: the chain that the denoiser was made for.
    """

    process: GaussianProcess

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...); see `Denoiser`."""
        ...

    def beside(self, other: Side) -> Pair:
        """Return the `Pair` of this denoiser and another: one call of the network if they share it, else two."""
        ...


class Lone:
    """A `Side` made of any denoiser, which is always called on its own.

    Args:
        process: the chain that the denoiser was made for.
        denoiser: the denoiser.
    """

    def __init__(self, process: GaussianProcess, denoiser: Denoiser) -> None:
        self.process, self.denoiser = process, denoiser

    def __call__(self, x_t: Array, t: int) -> Prediction:
        """Return the prediction for x_t, (N, ...)."""
        return self.denoiser(x_t, t)

    def beside(self, other: Side) -> Pair:
        """Return the `Pair` that calls this denoiser first, then the other."""
        return lambda x_t, t: (self(x_t, t), other(x_t, t))


class Guidance(Protocol):
    """A function that makes one denoiser of several, an entry of group `tinyddpm.guidance`. Options are keyword-only.

    A wrong option is refused by this function, not by the denoiser that it returns.
    """

    def __call__(self, conditional: Side, unconditional: Side | None, **options: Any) -> Denoiser:
        """Return the guided denoiser. The learned variance is the conditional's; nothing is clipped.

        Args:
            conditional: the model with its condition.
            unconditional: the same model without; None if it was not trained for that.
            options: the guidance's own. An option called `weak` is another model: a configuration names its run, this
                call gets its `Side` with the condition.

        Raises:
            ConfigError: the value of an option is not allowed, or a denoiser that is needed is missing.
        """
        ...


def make_guidance(name: str, conditional: Side, unconditional: Side | None, /, **options: Any) -> Denoiser:
    """Return the denoiser that the guidance registered as `name` makes; see `Guidance`.

    Raises:
        RegistryError: no such guidance, or its plugin is broken.
        ConfigError: an option is unknown, its type or value is wrong, or a denoiser is missing.
    """
    guided: Denoiser = registry.build("guidance", name, (conditional, unconditional), options)
    return guided
