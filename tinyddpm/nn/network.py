"""The contract of networks, which the U-Net, the MLP and every plugin implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, Purpose, Random
from tinyddpm.nn.parameters import Gradients, Parameter, Weights
from tinyddpm.ops import Operations, Saved

WIDEST, DEEPEST = 2**16, 1000
"""Upper limits of channels and blocks. A file that asks for more is refused before anything is built."""


class Told(NamedTuple):
    """The inputs of a network beside x_t and t, for N samples, or their gradients. A part that is not used is None.

    Attributes:
        vector: (N, D), added to the embedded time.
        tokens: (N, L, D), attended to.
        mask: (N, L) booleans, False for padding; None if there is none. It has no gradient.
        image: (N, H, W, C), of the height and width of x_t, and concatenated to it.
    """

    vector: Array = None
    tokens: Array = None
    mask: Array = None
    image: Array = None


class Widths(NamedTuple):
    """The widths of the parts of `Told`: the sizes D, D and C of their last axes; 0 for a part that is not used."""

    vector: int = 0
    tokens: int = 0
    image: int = 0


class DropoutNoise:
    """The dropout masks of one training step, each a function of (seed, step, sample, layer, element).

    Args:
        random: the source of random numbers.
        step: the step's number; for masks drawn on a GPU it may be an array there, (1,) int64.
        samples: (N,) indices of the samples on the host; for masks drawn on a GPU an int64 array there.
    """

    def __init__(self, random: Random, step: int | Array, samples: np.ndarray[Any, Any] | Array) -> None:
        self.random, self.step, self.samples = random, step, samples

    def keep(self, shape: tuple[int, ...], rate: float, layer: int) -> Array:
        """Return a boolean mask of `shape` (N, ...), True with probability 1 − rate; each layer has its own number."""
        return self.random.keep_mask(Purpose.DROPOUT, self.step, self.samples, shape[1:], rate, layer)


class Network(Protocol):
    """A function of noisy samples and time with a hand-derived backward, and no state of its own.

    An entry of group `tinyddpm.networks` is a callable `(sample_shape, told, out_channels, **options) -> Network`:

    - sample_shape: (H, W, C) of one image, or (D,) of one point;
    - told: widths of the conditions that there are; the network may ignore some, and says in `takes` what it uses;
    - out_channels: number of channels (or coordinates) that it predicts;
    - options: keyword-only, all with defaults; ConfigError for a bad one, before anything is computed.

    Attributes:
        takes: widths of the parts of `Told` that `forward` needs, 0 for those that it ignores. The vector's is always
            the width of the embedded time.
    """

    takes: Widths

    @property
    def parameters(self) -> Sequence[Parameter]:
        """The parameters in the order of the flat buffer. `Parts` finds them for networks that are made of layers."""
        ...

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the prediction and the residuals (None when `ops.training` is False).

        Args:
            ops: the operations of the backend that x lives on.
            w: parameters by path; never written to.
            x: (N, *sample_shape).
            t: (N,) 0-based time steps.
            told: the conditions of the samples: the parts that it `takes`.
            noise: dropout masks; None for no dropout.
        """
        ...

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        """Add the gradients of the parameters to `dw` in place, use up `saved`, and return dx and dtold.

        Args:
            saved: the residuals from `forward`, with the operations and weights they were made with.
            dw: gradients by parameter path.
            dout: (N, ..., out_channels), the gradient with respect to the prediction.
        """
        ...


def make_network(
    name: str, sample_shape: tuple[int, ...], told: Widths, out_channels: int, options: Mapping[str, Any]
) -> Network:
    """Return the network registered as `name`, built for these samples.

    Raises:
        RegistryError: no such network, or its plugin is broken.
        ConfigError: an option is unknown or out of range, or the sizes do not fit.
    """
    network: Network = registry.build("networks", name, (sample_shape, told, out_channels), options)
    registry.require("networks", name, network, ("takes", "parameters", "forward", "backward"))
    return network
