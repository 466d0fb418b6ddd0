"""The block of a transformer. Its backward is its forward read upwards."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.nn.layers import LayerNorm, Linear, Pass
from tinyddpm.nn.parameters import Parts


class TransformerBlock(Parts):
    """Self-attention, then a perceptron of one hidden layer, each behind a layer norm and added to its input.

    The norm comes first in each branch, which keeps the gradients of all layers of similar size from the first step on
    (Xiong et al. 2020, arXiv 2002.04745).
    """

    def __init__(self, path: str, width: int, heads: int, hidden: int) -> None:
        self.heads = heads
        self.norm_1 = LayerNorm(f"{path}/norm_1", width)
        self.q, self.k, self.v, self.out = (Linear(f"{path}/{name}", width, width) for name in ("q", "k", "v", "out"))
        self.norm_2 = LayerNorm(f"{path}/norm_2", width)
        self.dense_1 = Linear(f"{path}/dense_1", width, hidden)
        self.dense_2 = Linear(f"{path}/dense_2", hidden, width)

    def forward(self, run: Pass, x: Array) -> Array:
        """(N, L, width), and with padding "mask", (N, L), of `run.told` -> (N, L, width)."""
        h = self.norm_1.forward(run, x)
        q, k, v = (layer.forward(run, h) for layer in (self.q, self.k, self.v))
        h = run.do(run.ops.attention, q, k, v, self.heads, run.told.get("mask"))
        x = self.out.forward(run, h, x)

        h = self.norm_2.forward(run, x)
        h = self.dense_1.forward(run, h)
        h = run.do(run.ops.gelu, h)
        return self.dense_2.forward(run, h, x)

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx."""
        dh = self.dense_2.backward(run, dy)
        dh = run.undo(run.ops.gelu_backward, dh)
        dh = self.dense_1.backward(run, dh)
        dx = self.norm_2.backward(run, dh, dy)

        dh = self.out.backward(run, dx)
        dq, dk, dv = run.undo(run.ops.attention_backward, dh)
        dh = self.v.backward(run, dv)
        dh = self.k.backward(run, dk, dh)
        dh = self.q.backward(run, dq, dh)
        return self.norm_1.backward(run, dh, dx, *added)
