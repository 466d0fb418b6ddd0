"""Operations on Torch tensors on any device: the reference's, with functions of ATen, Torch's library, where faster.

ATen's forward and backward functions are called directly on tensors; autograd records nothing. A contiguous NHWC array
with permuted axes is an NCHW tensor in channels-last memory, so no data moves between the two layouts. Resampling and
the products of attention are not overridden: on tensors, the reference already calls ATen.

Activations and matrices have one dtype. If it is bfloat16, biases, scales and shifts are float32, and so are the
gradients of parameters, the arithmetic of norms, and every sum of many terms. A processor without bfloat16
instructions multiplies in float32 and rounds the results that it stores.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from tinyddpm.backend import Array
from tinyddpm.ops import Operations
from tinyddpm.ops.base import Saved
from tinyddpm.ops.convolution import same_padding
from tinyddpm.ops.normalisation import EPS

aten = torch.ops.aten


class TorchOperations(Operations):
    """The reference operations on Torch: convolution, linear maps and activations by ATen, a faster group norm."""

    def conv2d(
        self, x: Array, w: Array, b: Array, stride: int = 1, residual: Array | None = None
    ) -> tuple[Array, Saved]:
        """Return the convolution, computed by ATen with oneDNN or cuDNN; the residual is added in place."""
        x_factor, w_factor = _factors(x, w)
        padded, padding = _padded(x_factor, w_factor, stride)
        y = aten.convolution(padded, _kernel(w_factor), b.to(padded.dtype), *_geometry(stride, padding))
        y = _channels_last(y).to(x.dtype)
        if residual is not None:
            y += residual
        return y, self._save(x, w, stride)

    def conv2d_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dw, db) of `conv2d`; gradients of the zeros that pad x are dropped."""
        x, w, stride = saved
        x_factor, w, dy = _factors(x, w, dy)
        padded, padding = _padded(x_factor, w, stride)
        dx, dw, db = aten.convolution_backward(
            _channels_first(dy), padded, _kernel(w), [w.shape[3]], *_geometry(stride, padding), (True, True, True)
        )
        dx = _channels_last(dx[..., : x.shape[1], : x.shape[2]]).to(x.dtype)
        return dx, _wide(dw).permute(2, 3, 1, 0), _wide(db)

    def conv2d_costs(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int = 1) -> dict[str, float]:
        """Return the multiply-adds of the direct algorithm; the library behind ATen chooses its own."""
        (direct,) = super().conv2d_costs(x_shape, w_shape, stride).values()
        return {"ATen": direct}

    def linear(self, x: Array, w: Array, b: Array, residual: Array | None = None) -> tuple[Array, Saved]:
        """Return x W + b by a single function, the residual added in place."""
        x_factor, w_factor = _factors(x, w)
        y = torch.addmm(b.to(x_factor.dtype), x_factor.reshape(-1, w.shape[0]), w_factor).to(x.dtype)
        y = y.reshape(*x.shape[:-1], w.shape[1])
        if residual is not None:
            y += residual
        return y, self._save(x, w)

    def linear_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dw, db) of `linear`."""
        *factors, dy_factor = _factors(*saved, dy)
        dx, dw, db = super().linear_backward(factors, dy_factor)
        return dx.to(dy.dtype), _wide(dw), _wide(db)

    def embedding_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dtable of `embedding`."""
        return super().embedding_backward(saved, _wide(dy))

    def group_norm(self, x: Array, scale: Array, shift: Array, groups: int, eps: float = EPS) -> tuple[Array, Saved]:
        """Return the group norm, with one pass for scale and shift.

        ATen's group norm is not used: in channels-last memory it computes the variance as E[x²] − E[x]².
        """
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        wide = _wide(rows)
        mean = self._group_mean(wide, groups)
        centred = wide - mean
        r = (self._group_mean(centred.square(), groups) + eps) ** -0.5
        y = torch.addcmul(shift, centred, r * scale)
        return y.to(x.dtype).reshape(x.shape), self._save(rows, mean, r, scale, groups)

    def group_norm_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) of `group_norm`.

        With a and b the means of dy and of dy (x − μ) over pixels, the means over groups are means G of a and b:

            dx = dy r scale − (x − μ) along − r G(scale a),   along = r² G(scale r b)
        """
        rows, mean, r, scale, groups = saved
        dy_rows, centred, pixels = _wide(dy).reshape(rows.shape), rows - mean, rows.shape[1]
        a, b = dy_rows.mean(dim=1, keepdim=True), (dy_rows * centred).mean(dim=1, keepdim=True)
        along = r**2 * self._group_mean(scale * r * b, groups)
        dx = torch.addcmul(-r * self._group_mean(scale * a, groups), centred, -along).addcmul_(dy_rows, r * scale)
        dx = dx.to(dy.dtype).reshape(dy.shape)
        return dx, pixels * (r * b).sum(dim=(0, 1)), pixels * a.sum(dim=(0, 1))

    def layer_norm(self, x: Array, scale: Array, shift: Array, eps: float = EPS) -> tuple[Array, Saved]:
        """Return the layer norm in x's dtype, computed in float32 at least."""
        y, saved = super().layer_norm(_wide(x), scale, shift, eps)
        return y.to(x.dtype), saved

    def layer_norm_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dscale, dshift) of `layer_norm`, dx in dy's dtype."""
        dx, dscale, dshift = super().layer_norm_backward(saved, _wide(dy))
        return dx.to(dy.dtype), dscale, dshift

    def silu(self, x: Array) -> tuple[Array, Saved]:
        """Return x σ(x) in one pass."""
        return aten.silu(x), self._save(x)

    def silu_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `silu` in one pass."""
        (x,) = saved
        return aten.silu_backward(dy, x)

    def gelu(self, x: Array) -> tuple[Array, Saved]:
        """Return GELU's tanh form in one pass."""
        return aten.gelu(x, approximate="tanh"), self._save(x)

    def gelu_backward(self, saved: Saved, dy: Array) -> Array:
        """Return dx of `gelu` in one pass."""
        (x,) = saved
        return aten.gelu_backward(dy, x, approximate="tanh")

    def attention(self, q: Array, k: Array, v: Array, heads: int = 1, mask: Array | None = None) -> tuple[Array, Saved]:
        """Return the attention's O, and residuals, in q's dtype."""
        q_factor, k_factor, v_factor = _factors(q, k, v)
        y, saved = super().attention(q_factor, k_factor, v_factor, heads, mask)
        return y.to(q.dtype), saved and tuple(a.to(q.dtype) for a in saved)

    def attention_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dq, dk, dv) of `attention` in dy's dtype."""
        *factors, dy_factor = _factors(*saved, dy)
        dq, dk, dv = super().attention_backward(factors, dy_factor)
        return dq.to(dy.dtype), dk.to(dy.dtype), dv.to(dy.dtype)

    def _softmax(self, s: Array) -> Array:
        return torch.softmax(s, dim=-1)


def _wide(x: Array) -> Array:
    """Return x as float32 if it is bfloat16, else x itself."""
    return x.float() if x.dtype == torch.bfloat16 else x


def _factors(*arrays: Array) -> tuple[Array, ...]:
    """Return arrays in the dtype for products: bfloat16 becomes float32 on a processor without bfloat16 instructions.

    There, ATen would use loops of its own, which add a convolution's dw sample by sample in bfloat16, and its dx tap by
    tap, so that errors grow with the batch. Products in float32 are also ten times as fast.
    """
    as_stored = arrays[0].device.type != "cpu" or _multiplies_bfloat16()
    return arrays if as_stored else tuple(_wide(a) for a in arrays)


@cache
def _multiplies_bfloat16() -> bool:
    """Return whether oneDNN, which sums in float32, supports bfloat16 on this processor."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _channels_first(x: Array) -> Array:
    """Return an NHWC array as an NCHW tensor in channels-last memory: a view if the array is contiguous."""
    return x.contiguous().permute(0, 3, 1, 2)


def _channels_last(x: Array) -> Array:
    """Return an NCHW tensor as a contiguous NHWC array: a view if its memory is channels-last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _kernel(w: Array) -> Array:
    """Return weights (kh, kw, C_in, C_out) in Torch's order, (C_out, C_in, kh, kw), in channels-last memory.

    With one output channel they are contiguous instead: dy then has both formats, ATen takes it for contiguous, and its
    float64 backward fails for weights in channels-last memory.
    """
    one = w.shape[3] == 1
    return w.permute(3, 2, 0, 1).contiguous(memory_format=torch.contiguous_format if one else torch.channels_last)


def _padded(x: Array, w: Array, stride: int) -> tuple[Array, tuple[int, int]]:
    """Return x channels first, and the (vertical, horizontal) padding for ATen, which pads both sides alike.

    If `same_padding` has one more zero after than before, as at stride 2 on an even side, that zero is added to x here.
    """
    (top, bottom), (left, right) = (
        same_padding(*sizes, stride) for sizes in zip(x.shape[1:3], w.shape[:2], strict=True)
    )
    if (top, left) != (bottom, right):
        x = torch.nn.functional.pad(x, (0, 0, 0, right - left, 0, bottom - top))
    return _channels_first(x), (top, left)


def _geometry(stride: int, padding: tuple[int, int]) -> tuple[Any, ...]:
    """Return ATen's arguments for a convolution: stride, padding, dilation, transposed, output padding, groups."""
    return (stride, stride), padding, (1, 1), False, (0, 0), 1
