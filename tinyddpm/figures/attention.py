"""Attention of pixels to the words of a caption, recorded while a picture is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from tinyddpm.backend import Array, Backend
from tinyddpm.conditions import Condition
from tinyddpm.conditions.text import Text, words_of
from tinyddpm.errors import ConfigError
from tinyddpm.figures.line_law import Floats
from tinyddpm.figures.marks import Mark
from tinyddpm.figures.style import COLOURS, DENSITIES, drawing
from tinyddpm.figures.tiles import tiles_of
from tinyddpm.model.denoiser import NetworkDenoiser
from tinyddpm.ops import Operations, Saved

HostArray = np.ndarray[Any, Any]


class Call(NamedTuple):
    """The arguments of one call of `Attention.attention` with a mask."""

    q: Array
    k: Array
    v: Array
    heads: int
    mask: Array


class Recorder:
    """A proxy of operations that records the arguments of each masked attention: only attention to tokens has a mask.

    Args:
        ops: the operations that compute.

    Attributes:
        calls: the recorded calls, in order.
    """

    def __init__(self, ops: Operations) -> None:
        self._ops = ops
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def attention(self, q: Array, k: Array, v: Array, heads: int = 1, mask: Array | None = None) -> tuple[Array, Saved]:
        """Record the call if it has a mask, and return the operations' result."""
        if mask is not None:
            self.calls.append(Call(q, k, v, heads, mask))
        return self._ops.attention(q, k, v, heads, mask)


def attention_weights(call: Call, backend: Backend) -> Array:
    """Return P = softmax(Q Kᵀ / √d) of an attention, (N, heads, L, M), a residual of the reference operation."""
    _, (_, _, _, weights) = Operations(backend, training=True).attention(*call)
    return weights


def attention_to_tokens(denoiser: NetworkDenoiser, condition: Condition, x_t: Array, t: int) -> Floats:
    """Return the attention of each pixel to each token at one time, (N, H, W, M), the mean over heads and layers.

    Coarser maps are upsampled by repetition. In layers whose keys are both pixels and tokens, the weights of the tokens
    sum to less than 1.

    Args:
        denoiser: a network that attends to tokens, with the samples' conditions.
        condition: the condition that makes the tokens.
        x_t: (N, H, W, C).
        t: the time, 0-based.

    Raises:
        ConfigError: the network does not attend to tokens pixel by pixel.
    """
    backend = denoiser.ops.backend
    recorder = Recorder(denoiser.ops)
    ops = cast(Operations, recorder)
    steps = backend.asarray([t] * x_t.shape[0], dtype=backend.xp.int64)
    with backend.scope():
        told, _ = condition.forward(ops, denoiser.w, denoiser.given)
        read = len(recorder.calls)  # attentions of the condition's own encoder
        recorder.calls.clear()
        denoiser.network.forward(ops, denoiser.w, x_t, steps, denoiser.given)
        M = 0 if told.tokens is None else told.tokens.shape[1]
        maps = [
            _upsampled(backend.to_numpy(attention_weights(call, backend)).mean(axis=1)[..., -M:], x_t.shape[1:3])
            for call in recorder.calls[read:]
        ]
    if not maps or not M:
        raise ConfigError("this model's pixels attend to no words: text-attention is for a U-Net trained with captions")
    mean: Floats = np.mean(maps, axis=0, dtype=np.float64)
    return mean


def _upsampled(weights: HostArray, size: tuple[int, int]) -> HostArray:
    """Upsample weights (N, L, M) of a feature map with L pixels to (N, H, W, M).

    Raises:
        ConfigError: no repeated halving of H×W has L pixels.
    """
    (n, L, M), (H, W) = weights.shape, size
    for factor in (1, 2, 4, 8, 16, 32, 64):
        h, w = -(-H // factor), -(-W // factor)
        if h * w == L:
            return weights.reshape(n, h, w, M).repeat(factor, 1).repeat(factor, 2)[:, :H, :W]
    raise ConfigError(f"attention of {L} positions fits no map of {H}x{W} pixels: text-attention is for the U-Net")


def word_spans(condition: Condition, caption: str) -> dict[str, slice]:
    """Return the range of tokens of each word of a caption, in order, beginning with the start token, token 0.

    A word outside the vocabulary is spelt as several tokens. Tokens beyond the condition's length are omitted. Repeated
    words get a number, such as "red #2".

    Raises:
        ConfigError: the condition reads no captions.
    """
    if not isinstance(condition, Text):
        raise ConfigError("this model reads no captions: text-attention is for --condition text")
    spans, place = {"(start)": slice(0, 1)}, 1
    words = [f"{word} " for word in caption.split(" ")] if condition.spells else words_of(caption)
    for word in words:
        end = min(place + len(condition.tokens(word)), condition.length)
        if place < end:
            again = sum(name.partition(" #")[0] == word.strip() for name in spans)
            spans[word.strip() + (f" #{again + 1}" if again else "")] = slice(place, end)
        place = end
    return spans


class WordAttention(NamedTuple):
    """Attention of pixels to words while n pictures were drawn.

    Attributes:
        words: the start token's name, then the words.
        t: (K,) times, decreasing.
        maps: (K, n, H, W, words), the weight on each word.
        pictures: (n, H, W, C), the samples in [−1, 1].
    """

    words: Sequence[str]
    t: Sequence[int]
    maps: Floats
    pictures: HostArray


def by_word(maps: Floats, spans: Mapping[str, slice]) -> Floats:
    """Sum attention to tokens, (…, M), over the tokens of each word: (…, words)."""
    return np.stack([maps[..., span].sum(axis=-1) for span in spans.values()], axis=-1)


def draw_attention(found: WordAttention, path: str | os.PathLike[str], mark: Mark | None = None) -> None:
    """Write the figure `text-attention`: beside each picture a map for each word, and the words' shares over time.

    Args:
        found: the recorded attention.
        path: the file to write, PNG or SVG.
        mark: provenance record, stored in the file.

    Raises:
        ConfigError: matplotlib is missing, or the file name ends in neither .png nor .svg.
        DataError: the samples cannot be shown as pictures, or the file cannot be written.
    """
    n, words = len(found.pictures), found.words
    over_time = found.maps.mean(axis=0)  # (n, H, W, words)
    shares = found.maps.mean(axis=(1, 2, 3))  # (K, words)
    with drawing(path, (max(6.5, 1.35 * (1 + len(words))), 1.5 * n + 3.6), mark) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(1.5 * n + 0.4, 3.2))
        grid = above.subplots(n, 1 + len(words), squeeze=False)
        for row, picture, maps in zip(grid, tiles_of(found.pictures), over_time, strict=True):
            row[0].imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
            for place, chart in enumerate(row[1:]):
                chart.imshow(maps[..., place], cmap=DENSITIES, interpolation="nearest")
        for chart, title in zip(grid[0], ["drawn", *words], strict=True):
            chart.set_title(title, fontsize=9)
        for chart in grid.flat:
            chart.set_axis_off()
        chart = below.subplots()
        for place, word in enumerate(words):
            style = {"color": COLOURS[place % len(COLOURS)], "linestyle": "-" if place < len(COLOURS) else "--"}
            chart.plot(found.t, 100 * shares[:, place], label=word, **style)
        chart.invert_xaxis()
        chart.set(title="Share of the attention, from noise to picture", xlabel="t", ylabel="%", ylim=(0, None))
        chart.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
