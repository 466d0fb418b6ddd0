"""DiT, the diffusion transformer (Peebles, Xie 2022, arXiv 2212.09748), as a plugin of tinyddpm.

An image is cut into a sequence of patches, each of which becomes a token. Blocks of self-attention and a perceptron
transform them, conditioned on time and a vector by adaLN-zero: a linear layer of each block computes scale and shift of
each branch's norm, and a gate of its output, from their embedding. Its weights start at zero, so that every block
starts as the identity. A backward reads as its forward upside down.

Tokens of a condition, such as a text's, follow the patches in the sequence ("in-context conditioning" of the paper), or
each block attends to them by a cross-attention between its two branches. A condition's image is concatenated to x_t.
"""

from __future__ import annotations

from typing import Literal

from array_api_compat import device

from tinyddpm.backend import Array
from tinyddpm.errors import ConfigError
from tinyddpm.nn import DropoutNoise, Gradients, Parts, Told, Weights, Widths
from tinyddpm.nn.blocks import Chain, CrossAttention, TimeEmbedding
from tinyddpm.nn.layers import Linear, Pass
from tinyddpm.ops import Operations, Saved

FREQUENCIES = 256
"""Number of sinusoids that embed the time, as in DiT."""


class DiT(Parts):
    """A transformer on patches of an image. DiT-S/2 is patch 2, width 384, depth 12, heads 6.

    Args:
        sample_shape: (H, W, C) of the images.
        told: widths of the condition's parts; tokens and an image are taken in any width.
        out_channels: number of channels to predict.
        patch: side of a patch in pixels, a divisor of H and W.
        width: width of a token, a multiple of 4, at least 8.
        depth: number of blocks.
        heads: number of attention heads, a divisor of the width.
        mlp_ratio: width of a block's hidden layer, as a multiple of `width`.
        text: use of the condition's tokens: "context", in the sequence after the patches; or "cross", by the
            cross-attention of each block.

    Raises:
        ConfigError: an option is out of range, or the patches do not fit the image.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        told: Widths,
        out_channels: int,
        *,
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 4,
        text: Literal["context", "cross"] = "context",
    ) -> None:
        _check(sample_shape, patch, width, depth, heads, mlp_ratio, text)
        self.patch, self.width = patch, width
        self.takes = Widths(vector=width, tokens=told.tokens, image=told.image)
        self.time = TimeEmbedding("time", FREQUENCIES, width)
        self.tokens_in = Linear("tokens_in", patch * patch * (sample_shape[-1] + told.image), width)
        self.context = Linear("context", told.tokens, width) if told.tokens and text == "context" else None
        asked = told.tokens if text == "cross" else 0
        self.blocks = Chain(*(Block(f"block_{i}", width, heads, mlp_ratio * width, asked) for i in range(depth)))
        self.modulation = Linear("modulation", width, 2 * width, scale=0.0)
        self.tokens_out = Linear("tokens_out", width, patch * patch * out_channels, scale=0.0)

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the prediction, (N, H, W, out_channels), and the residuals. It has no dropout."""
        run = Pass(ops, w)
        self.time.forward(run, t, told)

        if self.takes.image:
            x = run.do(ops.concat, x, told.image)
        rows, columns = (side // self.patch for side in x.shape[1:3])
        h = self.tokens_in.forward(run, _to_tokens(ops, x, self.patch))
        h = h + _positions(ops, rows, columns, self.width, like=h)
        if self.context:
            h = self._beside(run, h, told)
        elif self.takes.tokens:
            run.told["tokens"] = told.tokens
            if told.mask is not None:
                run.told["mask"] = told.mask
        h = self.blocks.forward(run, h)

        h = h[:, : rows * columns, :]
        scale, shift = _parts(self.modulation.forward(run, run.told["time"]), 2)
        h = _standardise(run, h)
        h = run.do(ops.modulate, h, scale, shift)
        h = self.tokens_out.forward(run, h)
        return _to_image(ops, h, rows, columns, self.patch), run if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        """Add the parameters' gradients to `dw`, use up `saved`, and return dx and dtold."""
        run: Pass = saved
        run.dw = dw
        rows, columns = (side // self.patch for side in dout.shape[1:3])

        dh = _to_tokens(run.ops, dout, self.patch)
        dh = self.tokens_out.backward(run, dh)
        dh, dscale, dshift = run.undo(run.ops.modulate_backward, dh)
        dh = _standardise_backward(run, dh)
        run.dtold["time"] = self.modulation.backward(run, run.ops.xp.concat([dscale, dshift], axis=-1))
        if self.context:
            dh = run.ops.xp.concat([dh, run.ops.xp.zeros_like(run.told["context"])], axis=1)

        dh = self.blocks.backward(run, dh)
        dtokens = run.dtold.get("tokens")
        if self.context:
            dtokens = self.context.backward(run, dh[:, rows * columns :, :])
        dh = self.tokens_in.backward(run, dh[:, : rows * columns, :])
        dx, dimage = _to_image(run.ops, dh, rows, columns, self.patch), None
        if self.takes.image:
            dx, dimage = run.undo(run.ops.concat_backward, dx)
        return dx, Told(vector=self.time.backward(run), tokens=dtokens, image=dimage)

    def _beside(self, run: Pass, patches: Array, told: Told) -> Array:
        """Return the patches, (N, L, width), followed by the condition's tokens in the same width; extend the mask."""
        assert self.context
        xp, context = run.ops.xp, self.context.forward(run, told.tokens)
        run.told["context"] = context
        if told.mask is not None:
            there = xp.ones(patches.shape[:2], dtype=xp.bool, device=device(patches))
            run.told["mask"] = xp.concat([there, told.mask], axis=1)
        return xp.concat([patches, context], axis=1)


class Block(Parts):
    """A transformer block with adaLN-zero: attention, then a perceptron, each modulated, gated, added to its input.

    If `tokens`, the width of the condition's tokens, is not 0, a cross-attention to them stands between the two. Its
    output starts at zero.
    """

    def __init__(self, path: str, width: int, heads: int, hidden: int, tokens: int = 0) -> None:
        self.heads = heads
        self.modulation = Linear(f"{path}/modulation", width, 6 * width, scale=0.0)
        self.q, self.k, self.v, self.out = (Linear(f"{path}/{name}", width, width) for name in ("q", "k", "v", "out"))
        self.dense_1 = Linear(f"{path}/dense_1", width, hidden)
        self.dense_2 = Linear(f"{path}/dense_2", hidden, width)
        self.cross = CrossAttention(f"{path}/cross", width, tokens, heads, scale=0.0) if tokens else None

    def forward(self, run: Pass, x: Array) -> Array:
        """(N, L, width) -> the same shape. `run.told` has "time", "tokens" if it takes them, and the "mask" of keys."""
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = _parts(self.modulation.forward(run, run.told["time"]), 6)

        h = _standardise(run, x)
        h = run.do(run.ops.modulate, h, scale_1, shift_1)
        q, k, v = (layer.forward(run, h) for layer in (self.q, self.k, self.v))
        h = run.do(run.ops.attention, q, k, v, self.heads, None if self.cross else run.told.get("mask"))
        h = self.out.forward(run, h)
        x = x + _gate(run, h, gate_1)

        if self.cross:
            x = self.cross.forward(run, _standardise(run, x), x)

        h = _standardise(run, x)
        h = run.do(run.ops.modulate, h, scale_2, shift_2)
        h = self.dense_1.forward(run, h)
        h = run.do(run.ops.gelu, h)
        h = self.dense_2.forward(run, h)
        return x + _gate(run, h, gate_2)

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx, and add to the gradient of "time"; `added` are further gradients of x."""
        dh, dgate_2 = _gate_backward(run, dy)
        dh = self.dense_2.backward(run, dh)
        dh = run.undo(run.ops.gelu_backward, dh)
        dh = self.dense_1.backward(run, dh)
        dh, dscale_2, dshift_2 = run.undo(run.ops.modulate_backward, dh)
        dx = dy + _standardise_backward(run, dh)

        if self.cross:
            dx = dx + _standardise_backward(run, self.cross.backward(run, dx))

        dh, dgate_1 = _gate_backward(run, dx)
        dh = self.out.backward(run, dh)
        dq, dk, dv = run.undo(run.ops.attention_backward, dh)
        dh = self.v.backward(run, dv)
        dh = self.k.backward(run, dk, dh)
        dh = self.q.backward(run, dq, dh)
        dh, dscale_1, dshift_1 = run.undo(run.ops.modulate_backward, dh)
        dx = dx + _standardise_backward(run, dh)

        dmodulation = run.ops.xp.concat([dscale_1, dshift_1, dgate_1, dscale_2, dshift_2, dgate_2], axis=-1)
        run.dtold["time"] = self.modulation.backward(run, dmodulation, *run.gathered("time"))
        return sum(added, start=dx)


def _gate(run: Pass, h: Array, g: Array) -> Array:
    """Return y = h g, with a gate per sample and channel: h is (N, L, C), g is (N, C). h and g are saved."""
    if run.ops.training:
        run.stack.append((h, g))
    return h * g[:, None, :]


def _gate_backward(run: Pass, dy: Array) -> tuple[Array, Array]:
    """Return dh = dy g, and dg = Σ dy h over the tokens, summed in float32 or a wider type."""
    (h, g), xp = run.stack.pop(), run.ops.xp
    dg = xp.sum(dy * h, axis=1, dtype=xp.result_type(g.dtype, xp.float32))
    return dy * g[:, None, :], xp.astype(dg, g.dtype, copy=False)


def _standardise(run: Pass, x: Array) -> Array:
    """Return the layer norm of x without scale and shift (1 and 0, in the type of biases): the modulation has them."""
    width, xp, bias = x.shape[-1:], run.ops.xp, run.w["tokens_in/b"]
    ones, zeros = (make(width, dtype=bias.dtype, device=device(x)) for make in (xp.ones, xp.zeros))
    return run.do(run.ops.layer_norm, x, ones, zeros)


def _standardise_backward(run: Pass, dy: Array) -> Array:
    dx, _, _ = run.undo(run.ops.layer_norm_backward, dy)
    return dx


def _to_tokens(ops: Operations, x: Array, patch: int) -> Array:
    """Return (N, H, W, C) as (N, H/p · W/p, p·p·C), a token for each patch. Its transpose is its inverse."""
    n, height, width, c = x.shape
    grid = ops.xp.reshape(x, (n, height // patch, patch, width // patch, patch, c))
    return ops.xp.reshape(ops.xp.permute_dims(grid, (0, 1, 3, 2, 4, 5)), (n, -1, patch * patch * c))


def _to_image(ops: Operations, tokens: Array, rows: int, columns: int, patch: int) -> Array:
    """Return (N, rows · columns, p·p·C) as (N, H, W, C), the inverse of `_to_tokens`."""
    n, _, values = tokens.shape
    grid = ops.xp.reshape(tokens, (n, rows, columns, patch, patch, values // patch**2))
    return ops.xp.reshape(ops.xp.permute_dims(grid, (0, 1, 3, 2, 4, 5)), (n, rows * patch, columns * patch, -1))


def _positions(ops: Operations, rows: int, columns: int, width: int, like: Array) -> Array:
    """Return the fixed embedding of each position, (rows · columns, width): half for its row, half for its column.

    The sinusoids are those of the time embedding. Their lowest frequency is 1/10000; DiT's is slightly higher.
    """
    xp = ops.xp
    row, column = (
        ops.sinusoidal(xp.arange(size, dtype=xp.int64, device=device(like)), width // 2, like.dtype)
        for size in (rows, columns)
    )
    grid = (rows, columns, width // 2)
    both = [xp.broadcast_to(row[:, None, :], grid), xp.broadcast_to(column[None, :, :], grid)]
    return xp.reshape(xp.concat(both, axis=-1), (rows * columns, width))


def _parts(a: Array, count: int) -> list[Array]:
    """Return (N, count · C) cut into `count` arrays (N, C)."""
    c = a.shape[-1] // count
    return [a[:, i * c : (i + 1) * c] for i in range(count)]


def _check(
    sample_shape: tuple[int, ...], patch: int, width: int, depth: int, heads: int, mlp_ratio: int, text: str
) -> None:
    """Raise ConfigError if the options are out of range or do not fit the images."""
    if len(sample_shape) != 3:
        raise ConfigError(f"DiT takes images, not samples of shape {sample_shape}: use the network 'mlp' for points")
    for name, value in (("patch", patch), ("depth", depth), ("heads", heads), ("mlp_ratio", mlp_ratio)):
        if value < 1:
            raise ConfigError(f"DiT {name} is {value}: it must be at least 1")
    if width < 8 or width % 4:
        raise ConfigError(f"DiT width is {width}: it must be a multiple of 4, at least 8")
    if width % heads:
        raise ConfigError(f"DiT heads is {heads}: it must divide the width, {width}")
    if text not in ("context", "cross"):
        raise ConfigError(f"DiT text is {text!r}: give 'context' or 'cross'")
    height, width_of_image, _ = sample_shape
    if height % patch or width_of_image % patch:
        fit = [p for p in range(1, min(height, width_of_image) + 1) if height % p == 0 and width_of_image % p == 0]
        raise ConfigError(
            f"DiT patch is {patch}, which does not divide {height}x{width_of_image} images: use one of {fit}"
        )
