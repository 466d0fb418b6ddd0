"""A network whose input x_t is scaled by a factor for each time: EDM's c_in."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.diffusion.process import ByTime
from tinyddpm.nn import DropoutNoise, Gradients, Network, Told, Weights
from tinyddpm.ops import Operations, Saved


class ScaledInput:
    """A network applied to scale_t x_t, as a network of x_t.

    Args:
        network: the network that sees the scaled input.
        scale: the factor of each time.
    """

    def __init__(self, network: Network, scale: ByTime) -> None:
        self._network, self._scale = network, scale
        self.parameters, self.takes = network.parameters, network.takes

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the network's output for scale_t x, and the residuals."""
        scale = self._scale(t, x)
        out, saved = self._network.forward(ops, w, scale * x, t, told, noise)
        return out, (scale, saved)

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        """Add the parameters' gradients to `dw`, use up `saved`, and return dx = scale_t d(scale_t x), and dtold."""
        scale, saved = saved
        dx, dtold = self._network.backward(saved, dw, dout)
        return scale * dx, dtold
