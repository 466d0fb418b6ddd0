"""The blocks of DDPM's U-Net. Each backward is its forward read upwards."""

from __future__ import annotations

from typing import Literal, Protocol

from array_api_compat import device

from tinyddpm.backend import Array
from tinyddpm.nn.layers import EDM_NORMS, Conv, GroupNorm, GroupNormSiLU, Linear, Norms, Pass
from tinyddpm.nn.network import Told
from tinyddpm.nn.parameters import Parts
from tinyddpm.ops.activation import Dropout

NEAR_ZERO = 1e-10
"""DDPM's initial scale of the last layer of each branch, whose output starts near zero."""


class Block(Protocol):
    """A part of a network with a forward and a backward."""

    def forward(self, run: Pass, x: Array) -> Array:
        """Return y and push the residuals on the pass."""
        ...

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Pop the residuals, add to `run.dw`, and return dx, to which other gradients of x are added."""
        ...


class TimeEmbedding(Parts):
    """The embedding of time: sinusoids of t, a two-layer perceptron, and the vector of `Told` added to the result.

    The SiLU that DDPM applies in every block before its projection is applied here, once for all blocks.
    """

    def __init__(self, path: str, channels: int, dim: int, shift: float = 1.0, scale: float = 1.0) -> None:
        self.channels, self.shift, self.scale = channels, shift, scale
        self.dense_1 = Linear(f"{path}/dense_1", channels, dim)
        self.dense_2 = Linear(f"{path}/dense_2", dim, dim)

    def forward(self, run: Pass, t: Array, told: Told) -> None:
        """(N,) times, and the vector of `told`, (N, dim), if any -> `run.told["time"]`, (N, dim)."""
        if self.scale != 1:
            t = run.ops.xp.astype(t, run.ops.xp.float32) * self.scale
        h = run.ops.sinusoidal(t, self.channels, next(iter(run.w.values())).dtype, self.shift)
        h = self.dense_1.forward(run, h)
        h = run.do(run.ops.silu, h)
        h = self.dense_2.forward(run, h)
        if told.vector is not None:
            h = h + told.vector
        run.told["time"] = run.do(run.ops.silu, h)

    def backward(self, run: Pass) -> Array:
        """Propagate the gradient of "time" to the parameters, and return the vector's, (N, dim); t has none."""
        dvector: Array = run.undo(run.ops.silu_backward, run.dtold["time"])
        dh = self.dense_2.backward(run, dvector)
        dh = run.undo(run.ops.silu_backward, dh)
        self.dense_1.backward(run, dh)
        return dvector


class ResidualBlock(Parts):
    """A residual block: norm, SiLU and convolution, twice, added to the input (DDPM appendix B).

    Time enters after the first convolution by addition (DDPM), or as scale and shift of the second norm, adaptive
    group norm (IDDPM appendix A). Where channels change, the shortcut is a 1×1 convolution.

    `resample` changes the resolution of the shortcut, and of the branch between the first SiLU and the first
    convolution: "halve" by means of 2×2 squares, "double" by the nearest pixel (ADM, arXiv 2105.05233, after BigGAN).
    """

    def __init__(
        self,
        path: str,
        c_in: int,
        c_out: int,
        c_time: int,
        *,
        adaptive: bool,
        dropout: float,
        layer: int,
        norms: Norms = EDM_NORMS,
        resample: Literal["", "halve", "double"] = "",
    ) -> None:
        self.adaptive, self.dropout, self.layer, self.resample = adaptive, dropout, layer, resample
        self.norm_1 = GroupNormSiLU(f"{path}/norm_1", c_in, norms)
        self.conv_1 = Conv(f"{path}/conv_1", c_in, c_out)
        self.time = Linear(f"{path}/time", c_time, 2 * c_out if adaptive else c_out)
        self.norm_2 = GroupNormSiLU(f"{path}/norm_2", c_out, norms)
        self.conv_2 = Conv(f"{path}/conv_2", c_out, c_out, scale=NEAR_ZERO)
        self.shortcut = Linear(f"{path}/shortcut", c_in, c_out) if c_in != c_out else None

    def forward(self, run: Pass, x: Array) -> Array:
        """(N, H, W, c_in) and `run.told["time"]` -> (N, H, W, c_out), H and W halved or doubled by `resample`."""
        h = self.norm_1.forward(run, x)
        if self.resample:
            change = run.ops.average_pool if self.resample == "halve" else run.ops.upsample
            h, x = run.do(change, h), run.do(change, x)
        h = self.conv_1.forward(run, h)
        time = self.time.forward(run, run.told["time"])
        modulation = _halves(time) if self.adaptive else ()
        if not self.adaptive:
            h = run.do(run.ops.add_vector, h, time)
        dropout = Dropout(run.noise, self.dropout, self.layer) if run.noise and self.dropout else None
        h = self.norm_2.forward(run, h, modulation, dropout)
        shortcut = self.shortcut.forward(run, x) if self.shortcut else x
        return self.conv_2.forward(run, h, shortcut)

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx, and add to the gradient of "time"."""
        dh = self.conv_2.backward(run, dy)
        dshortcut = self.shortcut.backward(run, dy) if self.shortcut else dy
        dh, dmodulation = self.norm_2.modulated_backward(run, dh)
        if self.adaptive:
            dtime = run.ops.xp.concat(dmodulation, axis=-1)
        else:
            dh, dtime = run.undo(run.ops.add_vector_backward, dh)
        run.dtold["time"] = self.time.backward(run, dtime, *run.gathered("time"))
        dh = self.conv_1.backward(run, dh)
        if self.resample:
            back = run.ops.average_pool_backward if self.resample == "halve" else run.ops.upsample_backward
            dshortcut = run.undo(back, dshortcut)
            dh = run.undo(back, dh)
        return self.norm_1.backward(run, dh, dshortcut, *added)


class AttentionBlock(Parts):
    """Self-attention over all pixels, added to the input; q, k, v and out are 1×1 convolutions (DDPM appendix B).

    If `tokens`, the width of tokens, is not 0, their keys and values are appended to the pixels' own (GLIDE,
    section 3, after Nichol et al. 2021): one softmax weighs both.
    """

    def __init__(self, path: str, channels: int, heads: int, tokens: int = 0, norms: Norms = EDM_NORMS) -> None:
        self.heads = heads
        self.norm = GroupNorm(f"{path}/norm", channels, norms)
        self.q, self.k, self.v = (Linear(f"{path}/{name}", channels, channels) for name in "qkv")
        self.out = Linear(f"{path}/out", channels, channels, scale=NEAR_ZERO)
        self.context = [Linear(f"{path}/context_{name}", tokens, channels) for name in "kv"] if tokens else []

    def forward(self, run: Pass, x: Array) -> Array:
        """(N, H, W, C), and "tokens" and "mask" of `run.told` if it takes tokens -> the same shape."""
        n, height, width, c = x.shape
        h = run.ops.xp.reshape(self.norm.forward(run, x), (n, height * width, c))
        q, k, v = (layer.forward(run, h) for layer in (self.q, self.k, self.v))
        mask = None
        if self.context:
            k, v, mask = self._beside(run, k, v)
        h = run.do(run.ops.attention, q, k, v, self.heads, mask)
        return self.out.forward(run, run.ops.xp.reshape(h, x.shape), x)

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx, and add to the gradient of the "tokens"."""
        n, height, width, c = dy.shape
        dh = run.ops.xp.reshape(self.out.backward(run, dy), (n, height * width, c))
        dq, dk, dv = run.undo(run.ops.attention_backward, dh)
        if self.context:
            own, (to_k, to_v) = height * width, self.context
            dtokens = to_v.backward(run, dv[:, own:, :], *run.gathered("tokens"))
            run.dtold["tokens"] = to_k.backward(run, dk[:, own:, :], dtokens)
            dk, dv = dk[:, :own, :], dv[:, :own, :]
        dh = self.v.backward(run, dv)
        dh = self.k.backward(run, dk, dh)
        dh = self.q.backward(run, dq, dh)
        return self.norm.backward(run, run.ops.xp.reshape(dh, dy.shape), dy, *added)

    def _beside(self, run: Pass, k: Array, v: Array) -> tuple[Array, Array, Array | None]:
        """Return keys and values of the pixels followed by those of the tokens, and the mask of both."""
        xp, mask = run.ops.xp, run.told.get("mask")
        k, v = (
            xp.concat([own, layer.forward(run, run.told["tokens"])], axis=1)
            for own, layer in zip((k, v), self.context, strict=True)
        )
        if mask is not None:
            pixels = xp.ones((k.shape[0], k.shape[1] - mask.shape[1]), dtype=xp.bool, device=device(k))
            mask = xp.concat([pixels, mask], axis=1)
        return k, v, mask


class CrossAttention(Parts):
    """Attention of a sequence to tokens, whose keys and values are linear maps (LDM, section 3.3)."""

    def __init__(self, path: str, channels: int, tokens: int, heads: int, scale: float) -> None:
        self.heads = heads
        self.q = Linear(f"{path}/q", channels, channels)
        self.k, self.v = (Linear(f"{path}/{name}", tokens, channels) for name in "kv")
        self.out = Linear(f"{path}/out", channels, channels, scale=scale)

    def forward(self, run: Pass, x: Array, residual: Array | None = None) -> Array:
        """(N, L, C), and "tokens" and, if there is padding, "mask" of `run.told` -> (N, L, C)."""
        q = self.q.forward(run, x)
        k, v = (layer.forward(run, run.told["tokens"]) for layer in (self.k, self.v))
        h = run.do(run.ops.attention, q, k, v, self.heads, run.told.get("mask"))
        return self.out.forward(run, h, residual)

    def backward(self, run: Pass, dy: Array) -> Array:
        """Return dx, and add to the gradient of the "tokens"; a residual's gradient is dy."""
        dq, dk, dv = run.undo(run.ops.attention_backward, self.out.backward(run, dy))
        dtokens = self.v.backward(run, dv, *run.gathered("tokens"))
        run.dtold["tokens"] = self.k.backward(run, dk, dtokens)
        return self.q.backward(run, dq)


class CrossAttentionBlock(Parts):
    """Attention of all pixels to tokens, added to the input."""

    def __init__(self, path: str, channels: int, tokens: int, heads: int, norms: Norms = EDM_NORMS) -> None:
        self.norm = GroupNorm(f"{path}/norm", channels, norms)
        self.attention = CrossAttention(path, channels, tokens, heads, scale=NEAR_ZERO)

    def forward(self, run: Pass, x: Array) -> Array:
        """(N, H, W, C), and "tokens" and "mask" of `run.told` -> the same shape."""
        xp, (n, height, width, c) = run.ops.xp, x.shape
        rows = n, height * width, c
        h = xp.reshape(self.norm.forward(run, x), rows)
        return xp.reshape(self.attention.forward(run, h, xp.reshape(x, rows)), x.shape)

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx, and add to the gradient of the "tokens"."""
        xp, (n, height, width, c) = run.ops.xp, dy.shape
        dh = self.attention.backward(run, xp.reshape(dy, (n, height * width, c)))
        return self.norm.backward(run, xp.reshape(dh, dy.shape), dy, *added)


class Chain(Parts):
    """Blocks one after the other.

    With `ops.recompute`, only the input of a block's forward is kept, and its backward runs the forward again (Chen et
    al. 2016, arXiv 1604.06174). Both forwards are the same, dropout included, so the gradients have the same bits. Only
    one block's residuals exist at a time, whatever the number of blocks.
    """

    def __init__(self, *blocks: Block | None) -> None:
        self.blocks = [block for block in blocks if block]

    def forward(self, run: Pass, x: Array) -> Array:
        """Return the output of the last block."""
        for block in self.blocks:
            x = _forward(block, run, x)
        return x

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx."""
        first, *others = self.blocks
        for block in reversed(others):
            dy = _backward(block, run, dy)
        return _backward(first, run, dy, *added)


class CentredHalving(Parts):
    """A convolution of stride 2 whose output i reads the pixels 2i − 1, 2i and 2i + 1; `Conv` reads 2i, 2i + 1, 2i + 2.

    Counted from the last pixel, one becomes the other: the image is mirrored both ways, convolved, and mirrored back.
    The weights are therefore stored mirrored, too. Sides are even.
    """

    def __init__(self, path: str, channels: int) -> None:
        self.conv = Conv(path, channels, channels, stride=2)

    def forward(self, run: Pass, x: Array) -> Array:
        """(N, H, W, C) -> (N, H/2, W/2, C)."""
        return _mirrored(run, self.conv.forward(run, _mirrored(run, x)))

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx."""
        dx = _mirrored(run, self.conv.backward(run, _mirrored(run, dy)))
        return sum(added, start=dx)


class Upsample(Parts):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, path: str, channels: int) -> None:
        self.conv = Conv(f"{path}/conv", channels, channels)

    def forward(self, run: Pass, x: Array) -> Array:
        """(N, H, W, C) -> (N, 2H, 2W, C)."""
        return self.conv.forward(run, run.do(run.ops.upsample, x))

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx."""
        dx: Array = run.undo(run.ops.upsample_backward, self.conv.backward(run, dy))
        return sum(added, start=dx)


def _forward(block: Block, run: Pass, x: Array) -> Array:
    kept = len(run.stack)
    y = block.forward(run, x)
    if run.ops.recompute:
        run.stack[kept:] = [x]
    return y


def _backward(block: Block, run: Pass, dy: Array, *added: Array) -> Array:
    if run.ops.recompute:
        block.forward(run, run.stack.pop())
    return block.backward(run, dy, *added)


def _mirrored(run: Pass, x: Array) -> Array:
    """Return images mirrored both ways, that is, turned by half a circle."""
    turned: Array = run.ops.xp.flip(x, axis=(1, 2))
    return turned


def _halves(a: Array) -> tuple[Array, Array]:
    half = a.shape[-1] // 2
    return a[..., :half], a[..., half:]
