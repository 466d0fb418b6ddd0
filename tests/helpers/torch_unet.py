"""The U-Net of DDPM (appendix B) in Torch modules, NCHW, after the papers' description: the oracle of ours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.comparison import HostArray

Masks = Iterator[Tensor] | None


def norm(channels: int) -> nn.GroupNorm:
    """32 groups as in DDPM, fewer where they would have less than four channels."""
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, c_time: int, adaptive: bool, dropout: float) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = norm(c_in), norm(c_out)
        self.conv_1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv_2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.time = nn.Linear(c_time, 2 * c_out if adaptive else c_out)
        self.adaptive, self.dropout = adaptive, dropout
        if c_in != c_out:
            self.shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, temb: Tensor, masks: Masks) -> Tensor:
        h = self.conv_1(functional.silu(self.norm_1(x)))
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
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.heads = heads

    def forward(self, x: Tensor, temb: Tensor, masks: Masks) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).unflatten(1, (self.heads, -1)).flatten(3).mT for layer in (self.q, self.k, self.v))
        h = functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.mT.reshape(x.shape))


class Downsample(nn.Conv2d):
    def forward(self, x: Tensor, temb: Tensor, masks: Masks) -> Tensor:  # type: ignore[override]
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, temb: Tensor, masks: Masks) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class TorchUNet(nn.Module):
    """Takes the arguments of `tinyddpm.nn.unet.UNet`, but the classes of a label, and the channels of an image told.

    Its steps are named as in the paths of their parameters.
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
    ) -> None:
        super().__init__()
        height, width, c_image = sample_shape
        c_time = 4 * channels
        self.channels = channels
        self.steps = nn.ModuleDict()

        def residual(path: str, c_in: int, c_out: int) -> None:
            self.steps[path] = ResidualBlock(c_in, c_out, c_time, adaptive, dropout)

        self.time = nn.ModuleDict({"dense_1": nn.Linear(channels, c_time), "dense_2": nn.Linear(c_time, c_time)})
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
                    last = f"down_{level}/attention_{block}"
                    self.steps[last] = AttentionBlock(c, heads)
                self.leave.add(last)
                skips.append(c)
            if level + 1 < len(multipliers):
                self.steps[f"down_{level}/halve"] = Downsample(c, c, 3, stride=2)
                self.leave.add(f"down_{level}/halve")
                skips.append(c)
                side //= 2
        residual("middle/block_0", c, c)
        self.steps["middle/attention"] = AttentionBlock(c, heads)
        residual("middle/block_1", c, c)
        for level in range(len(multipliers) - 1, -1, -1):
            for block in range(blocks + 1):
                residual(f"up_{level}/block_{block}", c + skips.pop(), channels * multipliers[level])
                self.take.add(f"up_{level}/block_{block}")
                c = channels * multipliers[level]
                if side in attention:
                    self.steps[f"up_{level}/attention_{block}"] = AttentionBlock(c, heads)
            if level:
                self.steps[f"up_{level}/double"] = Upsample(c)
                side *= 2

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None, masks: Masks) -> Tensor:
        half = self.channels // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=x.dtype, device=x.device) / (half - 1))
        angles = torch.outer(t.to(x.dtype), rates)
        temb = self.time["dense_1"](torch.cat([torch.sin(angles), torch.cos(angles)], dim=1))
        temb = self.time["dense_2"](functional.silu(temb))
        if label is not None:
            temb = temb + self.time["label"](label)

        h = self.conv_in(x)
        skips = [h]
        for path, step in self.steps.items():
            if path in self.take:
                h = torch.cat([h, skips.pop()], dim=1)
            h = step(h, temb, masks)
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
    """Copy our weights by path; a path that only one side has is an error."""
    named = _named(twin)
    assert set(named) == set(weights)
    with torch.no_grad():
        for path, parameter in named.items():
            w = np.array(weights[path])
            if path.endswith("/w"):
                w = np.moveaxis(w, (-1, -2), (0, 1))  # (..., in, out) to (out, in, ...)
            parameter.copy_(torch.from_numpy(w).reshape(parameter.shape))


def gradients(twin: TorchUNet, like: Mapping[str, HostArray]) -> dict[str, HostArray]:
    """Return the gradients by path, in our shapes."""
    result: dict[str, Any] = {}
    for path, parameter in _named(twin).items():
        assert parameter.grad is not None, path
        g = parameter.grad.numpy()
        if path.endswith("/w"):
            g = np.moveaxis(g, (0, 1), (-1, -2))
        result[path] = g.reshape(like[path].shape)
    return result
