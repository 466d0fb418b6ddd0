"""The U-Net of DDPM (appendix B) in Torch modules, NCHW, written after the papers: the reference for ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.comparison import HostArray

Masks = Iterator[Tensor] | None
Words = tuple[Tensor, Tensor] | None
"""Tokens (N, L, D), and the mask (N, L) of those that are not padding."""


Norm = Callable[[int], nn.GroupNorm]


def norms(groups: int, eps: float) -> Norm:
    """Return the group norm for a number of channels: by default 32 groups, as in DDPM, or one for each 4 channels."""
    return lambda channels: nn.GroupNorm(groups or min(32, channels // 4), channels, eps=eps)


class ResidualBlock(nn.Module):
    """A residual block; `change` alters the resolution inside it."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        c_time: int,
        adaptive: bool,
        dropout: float,
        norm: Norm,
        change: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        self.change = change
        self.norm_1, self.norm_2 = norm(c_in), norm(c_out)
        self.conv_1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv_2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.time = nn.Linear(c_time, 2 * c_out if adaptive else c_out)
        self.adaptive, self.dropout = adaptive, dropout
        if c_in != c_out:
            self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, temb: Tensor, masks: Masks, told: Words) -> Tensor:
        h = self.conv_1(self.change(functional.silu(self.norm_1(x))))
        x = self.change(x)
        time = self.time(functional.silu(temb))[:, :, None, None]
        if self.adaptive:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm_2(h) * (1 + scale) + shift
        else:
            h = self.norm_2(h + time)
        h = functional.silu(h)
        if masks is not None and self.dropout > 0:
            h = torch.where(next(masks), h / (1 - self.dropout), 0.0)
        return self.conv_2(h) + (self.shortcut(x) if hasattr(self, "shortcut") else x)


class AttentionBlock(nn.Module):
    """Self-attention; if the width of tokens is given, also to tokens, in the same softmax."""

    def __init__(self, channels: int, heads: int, norm: Norm, tokens: int = 0) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.heads = heads
        if tokens:
            self.context_k, self.context_v = nn.Linear(tokens, channels), nn.Linear(tokens, channels)

    def forward(self, x: Tensor, temb: Tensor, masks: Masks, told: Words) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).unflatten(1, (self.heads, -1)).flatten(3).mT for layer in (self.q, self.k, self.v))
        there = None
        if hasattr(self, "context_k"):
            assert told is not None
            tokens, mask = told
            more = [
                layer(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
                for layer in (self.context_k, self.context_v)
            ]
            k, v = torch.cat([k, more[0]], dim=2), torch.cat([v, more[1]], dim=2)
            there = torch.cat([torch.ones(len(x), q.shape[2], dtype=torch.bool), mask], dim=1)[:, None, None]
        h = functional.scaled_dot_product_attention(q, k, v, there)
        return x + self.out(h.mT.reshape(x.shape))


class CrossAttentionBlock(nn.Module):
    def __init__(self, channels: int, heads: int, norm: Norm, tokens: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.k, self.v = nn.Linear(tokens, channels), nn.Linear(tokens, channels)
        self.heads = heads

    def forward(self, x: Tensor, temb: Tensor, masks: Masks, told: Words) -> Tensor:
        assert told is not None
        tokens, mask = told
        pixels = self.norm(x).flatten(2).mT
        q, k, v = (
            layer(a).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, a in ((self.q, pixels), (self.k, tokens), (self.v, tokens))
        )
        h = functional.scaled_dot_product_attention(q, k, v, mask[:, None, None])
        return x + self.out(h.transpose(1, 2).flatten(2)).mT.reshape(x.shape)


class Downsample(nn.Conv2d):
    def forward(self, x: Tensor, temb: Tensor, masks: Masks, told: Words) -> Tensor:  # type: ignore[override]
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


class CentredDownsample(nn.Conv2d):
    """A downsampling convolution that is padded by one on all sides, with weights rotated by 180 degrees."""

    def forward(self, x: Tensor, temb: Tensor, masks: Masks, told: Words) -> Tensor:  # type: ignore[override]
        return functional.conv2d(x, self.weight.flip(2, 3), self.bias, stride=2, padding=1)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, temb: Tensor, masks: Masks, told: Words) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class TorchUNet(nn.Module):
    """The U-Net, with the arguments of `tinyddpm.nn.unet.UNet`, but the number of classes, and the widths of image and
    tokens, in the place of `told`.

    Modules have the names of our parameters' paths.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        classes: int,
        out_channels: int,
        *,
        channels: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        heads: int = 1,
        adaptive: bool = False,
        dropout: float = 0.0,
        image: int = 0,
        tokens: int = 0,
        text: str = "cross",
        head_channels: int = 0,
        groups: int = 0,
        norm_eps: float = 1e-6,
        halving: str = "from",
        frequency_shift: float = 1.0,
        time_scale: float = 1.0,
        time_channels: int = 0,
        resampling: str = "convolutions",
    ) -> None:
        super().__init__()
        height, width, c_image = sample_shape
        self.channels, self.shift, self.scale = time_channels or channels, frequency_shift, time_scale
        c_time = 4 * self.channels
        norm = norms(groups, norm_eps)
        self.steps = nn.ModuleDict()

        def residual(path: str, c_in: int, c_out: int, change: Callable[[Tensor], Tensor] = lambda x: x) -> None:
            self.steps[path] = ResidualBlock(c_in, c_out, c_time, adaptive, dropout, norm, change)

        def attend(folder: str, number: str, c: int) -> str:
            own, beside = c // head_channels if head_channels else heads, tokens if text == "concat" else 0
            self.steps[f"{folder}/attention{number}"] = AttentionBlock(c, own, norm, beside)
            if not tokens or text == "concat":
                return f"{folder}/attention{number}"
            self.steps[f"{folder}/cross{number}"] = CrossAttentionBlock(c, own, norm, tokens)
            return f"{folder}/cross{number}"

        self.time = nn.ModuleDict({"dense_1": nn.Linear(self.channels, c_time), "dense_2": nn.Linear(c_time, c_time)})
        if classes:
            self.time["label"] = nn.Embedding(classes, c_time)
        self.conv_in = nn.Conv2d(c_image + image, channels, 3, padding=1)
        self.norm_out = norm(channels * multipliers[0])
        self.conv_out = nn.Conv2d(channels * multipliers[0], out_channels, 3, padding=1)

        # The steps in order; a skip is left after each name in `leave`, and taken before each in `take`.
        self.leave: set[str] = set()
        self.take: set[str] = set()
        c, skips = channels, [channels]
        side = max(height, width)
        for level, multiplier in enumerate(multipliers):
            for block in range(blocks):
                last = f"down_{level}/block_{block}"
                residual(last, c, channels * multiplier)
                c = channels * multiplier
                if side in attention:
                    last = attend(f"down_{level}", f"_{block}", c)
                self.leave.add(last)
                skips.append(c)
            if level + 1 < len(multipliers):
                halve = Downsample if halving == "from" else CentredDownsample
                if resampling == "blocks":
                    residual(f"down_{level}/halve", c, c, nn.AvgPool2d(2))
                else:
                    self.steps[f"down_{level}/halve"] = halve(c, c, 3, stride=2)
                self.leave.add(f"down_{level}/halve")
                skips.append(c)
                side //= 2
        residual("middle/block_0", c, c)
        attend("middle", "", c)
        residual("middle/block_1", c, c)
        for level in range(len(multipliers) - 1, -1, -1):
            for block in range(blocks + 1):
                residual(f"up_{level}/block_{block}", c + skips.pop(), channels * multipliers[level])
                self.take.add(f"up_{level}/block_{block}")
                c = channels * multipliers[level]
                if side in attention:
                    attend(f"up_{level}", f"_{block}", c)
            if level:
                if resampling == "blocks":
                    residual(f"up_{level}/double", c, c, nn.UpsamplingNearest2d(scale_factor=2))
                else:
                    self.steps[f"up_{level}/double"] = Upsample(c)
                side *= 2

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None, masks: Masks, told: Words = None) -> Tensor:
        half = self.channels // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=x.dtype, device=x.device) / (half - self.shift))
        angles = torch.outer(t.to(x.dtype) * self.scale, rates)
        temb = self.time["dense_1"](torch.cat([torch.sin(angles), torch.cos(angles)], dim=1))
        temb = self.time["dense_2"](functional.silu(temb))
        if label is not None:
            temb = temb + self.time["label"](label)

        h = self.conv_in(x)
        skips = [h]
        for path, step in self.steps.items():
            if path in self.take:
                h = torch.cat([h, skips.pop()], dim=1)
            h = step(h, temb, masks, told)
            if path in self.leave:
                skips.append(h)
        return self.conv_out(functional.silu(self.norm_out(h)))


def _path(name: str, module: nn.Module) -> str:
    """Return our path of the parameter `name` of a module, such as w for a convolution's weight."""
    layer, _, kind = name.removeprefix("steps.").rpartition(".")
    if isinstance(module, nn.GroupNorm):
        kind = {"weight": "scale", "bias": "shift"}[kind]
    elif isinstance(module, nn.Embedding):
        kind = "table"
    else:
        kind = {"weight": "w", "bias": "b"}[kind]
    return f"{layer.replace('.', '/')}/{kind}"


def _named(twin: TorchUNet) -> dict[str, nn.Parameter]:
    owners = dict(twin.named_modules())
    return {_path(name, owners[name.rpartition(".")[0]]): parameter for name, parameter in twin.named_parameters()}


def load_weights(twin: TorchUNet, weights: Mapping[str, HostArray]) -> None:
    """Copy our weights by path into the twin; a path that only one of both has is an error."""
    named = _named(twin)
    assert set(named) == set(weights)
    with torch.no_grad():
        for path, parameter in named.items():
            w = np.array(weights[path])
            if path.endswith("/w"):
                w = np.moveaxis(w, (-1, -2), (0, 1))  # (..., in, out) to (out, in, ...)
            parameter.copy_(torch.from_numpy(w).reshape(parameter.shape))


def store_weights(twin: TorchUNet, values: Sequence[Tensor], weights: Mapping[str, HostArray]) -> None:
    """Copy values of the twin's parameters, in their order, into our arrays by path: the inverse of `load_weights`."""
    named = _named(twin)
    assert set(named) == set(weights)
    for path, value in zip(named, values, strict=True):
        weights[path][...] = _as_ours(path, value.detach(), weights[path].shape)


def gradients(twin: TorchUNet, like: Mapping[str, HostArray]) -> dict[str, HostArray]:
    """Return the gradients by path, in our shapes."""
    result: dict[str, HostArray] = {}
    for path, parameter in _named(twin).items():
        assert parameter.grad is not None, path
        result[path] = _as_ours(path, parameter.grad, like[path].shape)
    return result


def _as_ours(path: str, value: Tensor, shape: tuple[int, ...]) -> HostArray:
    """Return an array of the shape of the twin's parameter in our shape of it."""
    ours: HostArray = value.numpy()
    if path.endswith("/w"):
        ours = np.moveaxis(ours, (0, 1), (-1, -2))  # (out, in, ...) to (..., in, out)
    return ours.reshape(shape)
