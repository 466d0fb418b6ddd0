"""The operations by Torch's own functions, with NHWC arguments: the oracle of values and, by autograd, of gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from tinyddpm.ops.activation import Dropout


def _channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1)


def _padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """DDPM's padding by its cases: none for 1×1, right and bottom for stride 2 on an even side, else both sides."""
    if kernel == 1:
        return 0, 0
    return (0, 1) if stride == 2 and side % 2 == 0 else (1, 1)


def _conv2d(x: Tensor, w: Tensor, b: Tensor, stride: int, residual: Tensor | None = None) -> Tensor:
    _, height, width, _ = x.shape
    kernel = w.shape[0]
    padded = functional.pad(_channels_first(x), (*_padding(width, kernel, stride), *_padding(height, kernel, stride)))
    y = _channels_last(functional.conv2d(padded, w.permute(3, 2, 0, 1).contiguous(), b, stride))
    return y if residual is None else y + residual


def _linear(x: Tensor, w: Tensor, b: Tensor, residual: Tensor | None = None) -> Tensor:
    y = functional.linear(x, w.T, b)
    return y if residual is None else y + residual


def _embedding(table: Tensor, index: Tensor) -> Tensor:
    return functional.embedding(index, table)


def _group_norm(x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float = 1e-6) -> Tensor:
    return _channels_last(functional.group_norm(_channels_first(x)[..., None], groups, scale, shift, eps)[..., 0])


def _layer_norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    return functional.layer_norm(x, scale.shape, scale, shift, eps)


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.einsum("n...c,nc->n...c", x, 1 + scale) + torch.einsum("n...c,nc->n...c", torch.ones_like(x), shift)


def _silu(x: Tensor) -> Tensor:
    return functional.silu(x)


def _group_norm_silu(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    m_scale: Tensor | None = None,
    m_shift: Tensor | None = None,
    dropout: Dropout | None = None,
) -> Tensor:
    h = _group_norm(x, scale, shift, groups)
    y = functional.silu(h if m_scale is None or m_shift is None else _modulate(h, m_scale, m_shift))
    return _dropout(y, dropout) if dropout else y


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _dropout(x: Tensor, dropout: Dropout) -> Tensor:
    keep = torch.as_tensor(dropout.noise.keep(tuple(x.shape), dropout.rate, dropout.layer))
    return torch.where(keep, x / (1 - dropout.rate), 0.0)


def _add_vector(x: Tensor, v: Tensor) -> Tensor:
    return x + torch.einsum("n...c,nc->n...c", torch.ones_like(x), v)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    q, k, v = (a.unflatten(-1, (heads, -1)).transpose(1, 2) for a in (q, k, v))
    there = None if mask is None else mask[:, None, None, :]
    return functional.scaled_dot_product_attention(q, k, v, there).transpose(1, 2).flatten(2)


def _upsample(x: Tensor) -> Tensor:
    return _channels_last(functional.interpolate(_channels_first(x), scale_factor=2, mode="nearest"))


def _average_pool(x: Tensor) -> Tensor:
    return _channels_last(functional.avg_pool2d(_channels_first(x), 2))


def _concat(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], dim=-1)


def _mse(prediction: Tensor, target: Tensor) -> Tensor:
    return functional.mse_loss(prediction, target, reduction="none").flatten(1).mean(1)


def _gaussian_kl(mean: Tensor, log_variance: Tensor, q_mean: Tensor, q_log_variance: Tensor) -> Tensor:
    p, q = (Normal(m, (v / 2).exp()) for m, v in ((mean, log_variance), (q_mean, q_log_variance.expand_as(mean))))
    return kl_divergence(q, p)


def _gaussian_nll(mean: Tensor, log_variance: Tensor, x: Tensor) -> Tensor:
    return -Normal(mean, (log_variance / 2).exp()).log_prob(x)


def _pixel_nll(mean: Tensor, log_variance: Tensor, x: Tensor) -> Tensor:
    """The difference of two values of Φ's tanh approximation, ½ (1 + tanh(y)) = sigmoid(2 y), in the lower tail."""

    def phi(z: Tensor) -> Tensor:
        return torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3))

    inverse = (-log_variance / 2).exp()
    a, b = (x - 1 / 255 - mean) * inverse, (x + 1 / 255 - mean) * inverse
    inside = torch.where(a + b < 0, phi(b) - phi(a), phi(-a) - phi(-b))
    return -torch.where(x < -0.999, phi(b), torch.where(x > 0.999, phi(-a), inside)).log()


TORCH_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    "embedding": _embedding,
    "group_norm": _group_norm,
    "group_norm_silu": _group_norm_silu,
    "layer_norm": _layer_norm,
    "modulate": _modulate,
    "add_vector": _add_vector,
    "silu": _silu,
    "gelu": _gelu,
    "dropout": _dropout,
    "attention": _attention,
    "upsample": _upsample,
    "average_pool": _average_pool,
    "concat": _concat,
    "mse": _mse,
    "gaussian_kl": _gaussian_kl,
    "gaussian_nll": _gaussian_nll,
    "pixel_nll": _pixel_nll,
}
