"""Mixed precision: activations and matrices in bfloat16, everything that adds up in float32.

Micikevicius et al. 2018 (arXiv 1710.03740). Their scaling of the loss is not needed: bfloat16 has float32's exponents.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from tinyddpm.backend import Array
from tinyddpm.nn.network import Condition, DropoutNoise, Network
from tinyddpm.nn.parameters import Gradients, Weights
from tinyddpm.ops import Operations, Saved


class MixedPrecision:
    """A network whose activations are of another type than what goes in and comes out.

    Args:
        network: computes in the type of its input.
        storage: the type of its activations.
    """

    def __init__(self, network: Network, storage: Any) -> None:
        self._network, self._storage = network, storage
        self.parameters = network.parameters

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, cond: Condition, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the prediction in x's type, and the residuals; `w` is as `ops.weights` makes it."""
        out, saved = self._network.forward(ops, w, ops.xp.astype(x, self._storage), t, cond, noise)
        return ops.xp.astype(out, x.dtype), saved

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> Array:
        """Add the parameters' gradients to `dw`, which is float32, use up `saved`, and return dx in dout's type."""
        xp = array_namespace(dout)
        dx = self._network.backward(saved, dw, xp.astype(dout, self._storage))
        return xp.astype(dx, dout.dtype)
