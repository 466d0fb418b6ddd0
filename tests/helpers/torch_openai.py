"""The U-Net of improved-diffusion and guided-diffusion in Torch, after their papers and the names in their files.

Its parameters have the names that the published files have. It is written anew from these facts: 32 groups, eps 1e-5;
cosines before sines, of frequencies 10000^(−i/half); one 1×1 convolution for queries, keys and values, by head in
older models; convolutions down that are padded on all sides, or residual blocks that pool; scale and shift in this
order; skips from every step down, the first convolution's too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Kind:
    """The options of one of their models."""

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    rates: tuple[int, ...]
    """Factors of downsampling at which there is attention."""
    channels_out: int
    heads: int = 1
    head_channels: int = -1
    scale_shift: bool = True
    pooling_blocks: bool = False
    new_order: bool = False
    classes: int = 0
    dropout: float = 0.0


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-5)


class Residual(nn.Module):
    def __init__(self, kind: Kind, c_in: int, c_out: int, change: str = "") -> None:
        super().__init__()
        self.kind, self.change = kind, change
        self.in_layers = nn.Sequential(norm(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        told = nn.Linear(4 * kind.channels, c_out * (2 if kind.scale_shift else 1))
        self.emb_layers = nn.Sequential(nn.SiLU(), told)
        drop = nn.Dropout(kind.dropout)
        self.out_layers = nn.Sequential(norm(c_out), nn.SiLU(), drop, nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def _resized(self, x: Tensor) -> Tensor:
        if self.change == "down":
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2) if self.change == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        normed, act, conv = self.in_layers
        h = conv(self._resized(act(normed(x))))
        told = self.emb_layers(emb)[:, :, None, None]
        if self.kind.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[1:](h)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(self._resized(x)) + h


class Attention(nn.Module):
    def __init__(self, kind: Kind, c: int) -> None:
        super().__init__()
        self.heads = kind.heads if kind.head_channels == -1 else c // kind.head_channels
        self.new_order = kind.new_order
        self.norm, self.qkv, self.proj_out = norm(c), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        n, c, height, width = x.shape
        qkv = self.qkv(self.norm(x.flatten(2)))
        if self.new_order:
            q, k, v = (part.unflatten(1, (self.heads, -1)) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.unflatten(1, (self.heads, -1)).chunk(3, dim=2)
        rescale = q.shape[2] ** -0.25
        weights = torch.einsum("nhcq,nhck->nhqk", q * rescale, k * rescale).softmax(dim=-1)
        h = torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(n, c, -1)
        return x + self.proj_out(h).reshape(n, c, height, width)


class Down(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(c, c, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2))


class First(nn.Conv2d):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class OpenaiUNet(nn.Module):
    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        base, dim, first = kind.channels, 4 * kind.channels, kind.channels * kind.multipliers[0]
        self.time_embed = nn.Sequential(nn.Linear(base, dim), nn.SiLU(), nn.Linear(dim, dim))
        if kind.classes:
            self.label_emb = nn.Embedding(kind.classes, dim)

        def step(*layers: nn.Module) -> nn.ModuleList:
            return nn.ModuleList(layers)

        def block(c_in: int, c_out: int, rate: int) -> list[nn.Module]:
            return [Residual(kind, c_in, c_out), *([Attention(kind, c_out)] if rate in kind.rates else [])]

        c, left = first, [first]
        self.input_blocks = nn.ModuleList([step(First(3, first, 3, padding=1))])
        for level, multiplier in enumerate(kind.multipliers):
            for _ in range(kind.blocks):
                self.input_blocks.append(step(*block(c, base * multiplier, 2**level)))
                c = base * multiplier
                left.append(c)
            if level < len(kind.multipliers) - 1:
                self.input_blocks.append(step(Residual(kind, c, c, "down") if kind.pooling_blocks else Down(c)))
                left.append(c)
        self.middle_block = step(Residual(kind, c, c), Attention(kind, c), Residual(kind, c, c))
        self.output_blocks = nn.ModuleList()
        for level in range(len(kind.multipliers) - 1, -1, -1):
            for number in range(kind.blocks + 1):
                layers = block(c + left.pop(), base * kind.multipliers[level], 2**level)
                c = base * kind.multipliers[level]
                if level and number == kind.blocks:
                    layers.append(Residual(kind, c, c, "up") if kind.pooling_blocks else Up(c))
                self.output_blocks.append(step(*layers))
        self.out = nn.Sequential(norm(c), nn.SiLU(), nn.Conv2d(c, kind.channels_out, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Predict for images (N, C, H, W), times (N,) and classes (N,)."""
        half = self.kind.channels // 2
        angles = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        if label is not None:
            emb = emb + self.label_emb(label)
        skips = []
        for each in self.input_blocks:
            for layer in each:
                x = layer(x, emb)
            skips.append(x)
        for layer in self.middle_block:
            x = layer(x, emb)
        for each in self.output_blocks:
            x = torch.cat([x, skips.pop()], dim=1)
            for layer in each:
                x = layer(x, emb)
        return self.out(x)
