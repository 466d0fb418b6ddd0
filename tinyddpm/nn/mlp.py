"""A multilayer perceptron for points of any dimension."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.errors import ConfigError
from tinyddpm.nn.blocks import NEAR_ZERO, Chain, TimeEmbedding
from tinyddpm.nn.layers import Linear, Pass
from tinyddpm.nn.network import DEEPEST, WIDEST, DropoutNoise, Told, Widths
from tinyddpm.nn.parameters import Gradients, Parts, Weights
from tinyddpm.ops import Operations, Saved


class MLP(Parts):
    """Dense residual blocks x + W₂ silu(W₁ silu(x) + W_t time), between a dense layer in and one out.

    Args:
        sample_shape: (D,), the dimension of a point.
        told: widths of the conditions; the MLP takes a vector of them.
        out_channels: coordinates predicted.
        width: width of the hidden layers, even, at least 4.
        depth: number of residual blocks.

    Raises:
        ConfigError: an option is out of range, or the samples are not points.
    """

    def __init__(
        self, sample_shape: tuple[int, ...], told: Widths, out_channels: int, *, width: int = 128, depth: int = 3
    ) -> None:
        if len(sample_shape) != 1:
            raise ConfigError(
                f"the MLP takes points, not samples of shape {sample_shape}: use the network 'unet' for images"
            )
        if not 4 <= width <= WIDEST or width % 2:
            raise ConfigError(f"MLP width is {width}: it must be even, at least 4 and at most {WIDEST}")
        if not 1 <= depth <= DEEPEST:
            raise ConfigError(f"MLP depth is {depth}: it must be at least 1 and at most {DEEPEST}")
        self.takes = Widths(vector=width)
        self.time = TimeEmbedding("time", width, width)
        self.dense_in = Linear("dense_in", sample_shape[0], width)
        self.blocks = Chain(*(_Block(f"block_{i}", width) for i in range(depth)))
        self.dense_out = Linear("dense_out", width, out_channels, scale=NEAR_ZERO)

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the prediction, (N, out_channels), and the residuals. There is no dropout."""
        run = Pass(ops, w)
        self.time.forward(run, t, told)
        h = self.dense_in.forward(run, x)
        h = self.blocks.forward(run, h)
        h = run.do(ops.silu, h)
        return self.dense_out.forward(run, h), run if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        """Add the parameters' gradients to `dw`, use up `saved`, and return dx and dtold."""
        run: Pass = saved
        run.dw = dw
        dh = self.dense_out.backward(run, dout)
        dh = run.undo(run.ops.silu_backward, dh)
        dh = self.blocks.backward(run, dh)
        dx = self.dense_in.backward(run, dh)
        return dx, Told(vector=self.time.backward(run))


class _Block(Parts):
    """One residual block: h + dense_2(silu(dense_1(silu(h)) + time))."""

    def __init__(self, path: str, width: int) -> None:
        self.dense_1 = Linear(f"{path}/dense_1", width, width)
        self.time = Linear(f"{path}/time", width, width)
        self.dense_2 = Linear(f"{path}/dense_2", width, width)

    def forward(self, run: Pass, x: Array) -> Array:
        h = run.do(run.ops.silu, x)
        h = self.dense_1.forward(run, h)
        h = h + self.time.forward(run, run.told["time"])
        h = run.do(run.ops.silu, h)
        return x + self.dense_2.forward(run, h)

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        dh = self.dense_2.backward(run, dy)
        dh = run.undo(run.ops.silu_backward, dh)
        run.dtold["time"] = self.time.backward(run, dh, *run.gathered("time"))
        dh = self.dense_1.backward(run, dh)
        return sum(added, start=dy + run.undo(run.ops.silu_backward, dh))
