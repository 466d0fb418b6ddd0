"""What a network is: the protocol that the U-Net, the MLP and every plugin implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.nn.parameters import Gradients, Parameter, Weights
from tinyddpm.ops import Operations, Saved

Condition: TypeAlias = Mapping[str, Array]
"""What a sample is conditioned on, by kind: `label` is (N,) integers below the number of classes. May be empty."""


class DropoutNoise:
    """The dropout masks of one training step, each a function of (seed, step, sample, layer, element).

    Args:
        random: the numbers of the seed.
        step: the step's number; for random numbers that are drawn on a GPU also where it lies there, (1,) int64.
        samples: (N,) indices of the samples, on the host; on a GPU likewise int64.
    """

    def __init__(self, random: Random, step: int | Array, samples: np.ndarray[Any, Any] | Array) -> None:
        self.random, self.step, self.samples = random, step, samples

    def keep(self, shape: tuple[int, ...], rate: float, layer: int) -> Array:
        """Return a boolean mask of `shape` (N, ...), True with probability 1 − rate; layers differ by their number."""
        return self.random.keep_mask(Purpose.DROPOUT, self.step, self.samples, shape[1:], rate, layer)


class Network(Protocol):
    """A function of noisy samples and time with a hand-derived backward, and no state of its own.

    An entry of group `tinyddpm.networks` is a callable `(sample_shape, classes, out_channels, **options) -> Network`:

    - sample_shape: (H, W, C) of one image, or (D,) of one point;
    - classes: the number of classes it is conditioned on, 0 for none;
    - out_channels: how many channels (or coordinates) it predicts;
    - options: keyword-only, all with defaults; ConfigError for a bad one, before anything is computed.
    """

    @property
    def parameters(self) -> Sequence[Parameter]:
        """Declared once, in the order of the flat buffer. `Parts` finds those of what is made of layers."""
        ...

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, cond: Condition, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the prediction and the residuals (None when `ops.training` is False).

        Args:
            ops: the operations of the backend that x lives on.
            w: parameters by path; never written to.
            x: (N, *sample_shape).
            t: (N,) 0-based time steps.
            cond: what the samples are conditioned on.
            noise: dropout masks; None for no dropout.
        """
        ...

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> Array:
        """Add the gradients of the parameters to `dw` in place, use up `saved`, and return dx.

        Args:
            saved: what `forward` returned: the residuals, and the operations and weights they were made with.
            dw: gradients by parameter path.
            dout: (N, ..., out_channels), the gradient that reaches the prediction.
        """
        ...


def make_network(
    name: str, sample_shape: tuple[int, ...], classes: int, out_channels: int, options: Mapping[str, Any]
) -> Network:
    """Return the network registered as `name`, built for these samples.

    Raises:
        RegistryError: no such network, or its plugin is broken.
        ConfigError: an option is unknown or out of range, or the sizes do not fit.
    """
    network: Network = registry.build("networks", name, (sample_shape, classes, out_channels), options)
    return network
