"""Mixed precision: activations and matrices in bfloat16, all sums in float32.

Micikevicius et al. 2018 (arXiv 1710.03740). Their scaling of the loss is not needed: bfloat16 has float32's exponents.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from tinyddpm.backend import Array
from tinyddpm.nn.network import DropoutNoise, Network, Told
from tinyddpm.nn.parameters import Gradients, Weights
from tinyddpm.ops import Operations, Saved


class MixedPrecision:
    """A network whose activations have another type than its inputs and outputs.

    Args:
        network: the network, which computes in the type of its input.
        storage: the type of its activations.
    """

    def __init__(self, network: Network, storage: Any) -> None:
        self._network, self._storage = network, storage
        self.parameters, self.takes = network.parameters, network.takes

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the prediction in x's type, and the residuals; `w` comes from `ops.weights`."""
        out, saved = self._network.forward(ops, w, self._stored(x), t, self._stored_parts(told), noise)
        return ops.xp.astype(out, x.dtype), saved

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        """Add the parameters' gradients to `dw`, in float32, use up `saved`, return dx in dout's type and dtold."""
        xp = array_namespace(dout)
        dx, dtold = self._network.backward(saved, dw, self._stored(dout))
        return xp.astype(dx, dout.dtype), dtold

    def _stored(self, a: Array) -> Array:
        return array_namespace(a).astype(a, self._storage, copy=False)

    def _stored_parts(self, told: Told) -> Told:
        """Return the parts in the storage type; the mask, which is boolean, stays as it is."""
        parts = {name: self._stored(part) for name, part in told._asdict().items() if part is not None}
        return Told(**parts | ({} if told.mask is None else {"mask": told.mask}))
