"""The U-Net of DDPM (appendix B), with IDDPM's options."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from math import inf
from typing import Literal

from tinyddpm.backend import Array
from tinyddpm.errors import ConfigError
from tinyddpm.nn.blocks import (
    NEAR_ZERO,
    AttentionBlock,
    Block,
    CentredHalving,
    Chain,
    CrossAttentionBlock,
    ResidualBlock,
    TimeEmbedding,
    Upsample,
)
from tinyddpm.nn.layers import Conv, GroupNormSiLU, Norms, Pass
from tinyddpm.nn.network import DEEPEST, WIDEST, DropoutNoise, Told, Widths
from tinyddpm.nn.parameters import Gradients, Parts, Weights
from tinyddpm.ops import Operations, Saved
from tinyddpm.ops.normalisation import EPS

MOST_LEVELS = 16
"""Upper limit of levels: 16 halve an image of 32,768 pixels a side to one pixel."""


class UNet(Parts):
    """Levels of residual blocks down to small feature maps and up again, with a skip from every step down to a step up.

    A level is `blocks` residual blocks on the way down and `blocks` + 1 on the way up, each followed by self-attention
    where its feature map is one of `attention`. Levels are joined by stride-2 convolutions down, and nearest-neighbour
    doubling and a convolution up. In the middle are two residual blocks around an attention. With the defaults and
    32×32 images of 3 channels this is DDPM's CIFAR-10 network, 35,746,307 parameters. If there are tokens, every
    attention to pixels attends to the tokens too.

    Args:
        sample_shape: (H, W, C) of the images; H and W are multiples of 2^(levels − 1).
        told: widths of the conditions; it takes a vector, tokens of any width, and an image of any number of channels.
        out_channels: channels predicted.
        channels: channels of the first level, even, at least 4.
        multipliers: channels of each level, as multiples of `channels`.
        blocks: residual blocks per level.
        attention: sizes of the feature maps (their larger side, in pixels) that attend; "auto" for all of at most 16
            pixels, and the smallest in any case.
        heads: attention heads.
        head_channels: channels of each head, from which the number of heads follows; 0 for `heads` of them.
        adaptive: inject time by scale and shift (adaptive group norm) rather than by addition.
        dropout: rate of dropout in each residual block, in [0, 1).
        text: how tokens are attended to: "cross", by a cross-attention after each self-attention (LDM,
            arXiv 2112.10752); or "concat", their keys and values appended to the pixels' (GLIDE, arXiv 2112.10741).
        groups: groups of every norm; 0 for a number by its channels, 32 from 128 channels on (`Norms`).
        norm_eps: number added to the variance in norms.
        halving: which pixels output i of the convolutions down reads: "from" 2i on (DDPM), or "around" 2i.
        frequency_shift: s, from 0 to 1, of the sinusoids of t, whose frequencies are 10000^(−i / (channels/2 − s)).
        time_scale: factor of t before the sinusoids; 1000/T gives chains of all lengths the same times (IDDPM).
        time_channels: channels of the sinusoids, even, at least 4; 0 for `channels`.
        resampling: what joins levels: "convolutions" (DDPM), or "blocks", residual blocks that halve or double before
            their first convolution (ADM, arXiv 2105.05233), for which `halving` has no effect.

    Raises:
        ConfigError: an option is out of range, or the levels cannot halve the image.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        told: Widths,
        out_channels: int,
        *,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | Literal["auto"] = (16,),
        heads: int = 1,
        adaptive: bool = False,
        dropout: float = 0.1,
        text: Literal["cross", "concat"] = "cross",
        head_channels: int = 0,
        groups: int = 0,
        norm_eps: float = EPS,
        halving: Literal["from", "around"] = "from",
        frequency_shift: float = 1.0,
        time_scale: float = 1.0,
        time_channels: int = 0,
        resampling: Literal["convolutions", "blocks"] = "convolutions",
    ) -> None:
        _check(sample_shape, channels, multipliers, blocks, attention, heads, dropout, text)
        _check_divisors(channels, multipliers, heads, head_channels, groups)
        _check_variants(norm_eps, halving, frequency_shift, time_scale, time_channels, resampling)
        height, width, c_image = sample_shape
        sides = [max(height, width) >> level for level in range(len(multipliers))]
        attending = ([side for side in sides if side <= 16] or sides[-1:]) if attention == "auto" else attention
        time_channels = time_channels or channels
        dim = 4 * time_channels
        norms = Norms(groups, 1, norm_eps) if groups else Norms(eps=norm_eps)
        make_block = partial(ResidualBlock, adaptive=adaptive, dropout=dropout, norms=norms)
        numbers = count()

        def residual(path: str, c_in: int, c_out: int, resample: Literal["", "halve", "double"] = "") -> ResidualBlock:
            return make_block(path, c_in, c_out, dim, layer=next(numbers), resample=resample)

        def halve(path: str, c: int) -> Block:
            if resampling == "blocks":
                return Chain(residual(path, c, c, "halve"))
            return Conv(path, c, c, stride=2) if halving == "from" else CentredHalving(path, c)

        def double(path: str, c: int) -> Block:
            return residual(path, c, c, "double") if resampling == "blocks" else Upsample(path, c)

        def attend(folder: str, number: str, c: int) -> list[Block]:
            beside = told.tokens if text == "concat" else 0
            own = c // head_channels if head_channels else heads
            found: list[Block] = [AttentionBlock(f"{folder}/attention{number}", c, own, beside, norms)]
            if told.tokens and text == "cross":
                found.append(CrossAttentionBlock(f"{folder}/cross{number}", c, told.tokens, own, norms))
            return found

        widths = [channels * m for m in multipliers]
        last = len(widths) - 1
        self.takes = Widths(vector=dim, tokens=told.tokens, image=told.image)
        self.time = TimeEmbedding("time", time_channels, dim, frequency_shift, time_scale)
        self.conv_in = Conv("conv_in", c_image + told.image, channels)

        # Every step down adds a skip; the steps up, equally many, take them in the opposite order.
        c, skips = channels, [channels]
        self.down: list[Block] = []
        for level, c_out in enumerate(widths):
            for block in range(blocks):
                self.down.append(
                    Chain(
                        residual(f"down_{level}/block_{block}", c, c_out),
                        *(attend(f"down_{level}", f"_{block}", c_out) if sides[level] in attending else ()),
                    )
                )
                c = c_out
                skips.append(c)
            if level < last:
                self.down.append(halve(f"down_{level}/halve", c))
                skips.append(c)

        self.middle = Chain(
            residual("middle/block_0", c, c),
            *attend("middle", "", c),
            residual("middle/block_1", c, c),
        )

        self.up: list[Block] = []
        for level, c_out in reversed(list(enumerate(widths))):
            for block in range(blocks + 1):
                self.up.append(
                    Chain(
                        residual(f"up_{level}/block_{block}", c + skips.pop(), c_out),
                        *(attend(f"up_{level}", f"_{block}", c_out) if sides[level] in attending else ()),
                        double(f"up_{level}/double", c_out) if block == blocks and level > 0 else None,
                    )
                )
                c = c_out

        self.norm_out = GroupNormSiLU("norm_out", c, norms)
        self.conv_out = Conv("conv_out", c, out_channels, scale=NEAR_ZERO)

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the prediction, (N, H, W, out_channels), and the residuals."""
        run = Pass(ops, w, noise=noise)
        self.time.forward(run, t, told)
        if self.takes.tokens:
            run.told["tokens"], run.told["mask"] = told.tokens, told.mask

        if self.takes.image:
            x = run.do(ops.concat, x, told.image)
        h = self.conv_in.forward(run, x)
        skips = [h]
        for step in self.down:
            h = step.forward(run, h)
            skips.append(h)
        h = self.middle.forward(run, h)
        for step in self.up:
            h = run.do(ops.concat, h, skips.pop())
            h = step.forward(run, h)

        h = self.norm_out.forward(run, h)
        return self.conv_out.forward(run, h), run if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        """Add the parameters' gradients to `dw`, use up `saved`, and return dx and dtold."""
        run: Pass = saved
        run.dw = dw

        dh = self.conv_out.backward(run, dout)
        dh = self.norm_out.backward(run, dh)

        dskips = []
        for step in reversed(self.up):
            dh = step.backward(run, dh)
            dh, dskip = run.undo(run.ops.concat_backward, dh)
            dskips.append(dskip)
        dh = self.middle.backward(run, dh, dskips.pop())
        for step in reversed(self.down):
            dh = step.backward(run, dh, dskips.pop())
        dx = self.conv_in.backward(run, dh)

        dimage = None
        if self.takes.image:
            dx, dimage = run.undo(run.ops.concat_backward, dx)
        return dx, Told(vector=self.time.backward(run), tokens=run.dtold.get("tokens"), image=dimage)


def _check(
    sample_shape: tuple[int, ...],
    channels: int,
    multipliers: Sequence[int],
    blocks: int,
    attention: Sequence[int] | Literal["auto"],
    heads: int,
    dropout: float,
    text: str,
) -> None:
    """Raise ConfigError for options of which no network can be built."""
    if len(sample_shape) != 3:
        raise ConfigError(
            f"the U-Net takes images, not samples of shape {sample_shape}: use the network 'mlp' for points"
        )
    if not 4 <= channels <= WIDEST or channels % 2:
        raise ConfigError(f"U-Net channels is {channels}: it must be even, at least 4 and at most {WIDEST}")
    if not 1 <= len(multipliers) <= MOST_LEVELS or not all(1 <= m <= WIDEST for m in multipliers):
        raise ConfigError(
            f"U-Net multipliers is {list(multipliers)[:MOST_LEVELS]}: give one whole number from 1 to {WIDEST} per"
            f" level, for at most {MOST_LEVELS} levels"
        )
    if not 1 <= blocks <= DEEPEST:
        raise ConfigError(f"U-Net blocks is {blocks}: each level needs at least 1 and at most {DEEPEST}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"U-Net dropout is {dropout}: it must lie in [0, 1)")
    if heads < 1 or any(channels * m % heads for m in multipliers):
        raise ConfigError(
            f"U-Net heads is {heads}: it must divide the channels of every level, {channels} times {list(multipliers)}"
        )
    if text not in ("cross", "concat"):
        raise ConfigError(f"U-Net text is {text!r}: give 'cross' or 'concat'")
    height, width, _ = sample_shape
    levels = len(multipliers)
    unit = 1 << (levels - 1)
    if height % unit or width % unit:
        smaller = f"{max(unit, height // unit * unit)}x{max(unit, width // unit * unit)}"
        larger = f"{-(-height // unit) * unit}x{-(-width // unit) * unit}"
        raise ConfigError(
            f"{height}x{width} images cannot be halved {levels - 1} times by {levels} levels: both sides must be "
            f"multiples of {unit}; --image-size {' or '.join(dict.fromkeys((smaller, larger)))} would work, or fewer "
            "multipliers"
        )
    sides = [max(height, width) >> level for level in range(levels)]
    for side in () if attention == "auto" else attention:
        if side not in sides:
            raise ConfigError(
                f"U-Net attention at {side} meets no feature map of {height}x{width} images: give some of their sides,"
                f" {sides}, or 'auto' for those of at most 16 and the smallest"
            )


def _check_divisors(channels: int, multipliers: Sequence[int], heads: int, head_channels: int, groups: int) -> None:
    """Raise ConfigError for heads and groups that do not divide the channels."""
    for name, number in {"head_channels": head_channels, "groups": groups}.items():
        if number < 0 or (number and any(channels * m % number for m in multipliers)):
            raise ConfigError(
                f"U-Net {name} is {number}: it must divide the channels of every level, {channels} times"
                f" {list(multipliers)}, or be 0"
            )
    if head_channels and heads != 1:
        raise ConfigError(f"U-Net heads is {heads} and head_channels {head_channels}: give one of them")


def _check_variants(
    norm_eps: float, halving: str, frequency_shift: float, time_scale: float, time_channels: int, resampling: str
) -> None:
    """Raise ConfigError for variants that do not exist and numbers out of range."""
    if not 0 < norm_eps <= 1:
        raise ConfigError(f"U-Net norm_eps is {norm_eps}: it must lie above 0 and at most at 1")
    if halving not in ("from", "around"):
        raise ConfigError(f"U-Net halving is {halving!r}: give 'from' or 'around'")
    if not 0 <= frequency_shift <= 1:
        raise ConfigError(f"U-Net frequency_shift is {frequency_shift}: it must lie in [0, 1]")
    if not 0 < time_scale < inf:
        raise ConfigError(f"U-Net time_scale is {time_scale}: it must lie above 0 (IDDPM takes 1000/T)")
    if time_channels and (not 4 <= time_channels <= WIDEST or time_channels % 2):
        raise ConfigError(
            f"U-Net time_channels is {time_channels}: it must be even, at least 4 and at most {WIDEST}, or be 0"
        )
    if resampling not in ("convolutions", "blocks"):
        raise ConfigError(f"U-Net resampling is {resampling!r}: give 'convolutions' or 'blocks'")
