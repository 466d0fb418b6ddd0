"""Captions as a condition: a transformer turns the tokens of a caption into the tokens that the network attends to.

A token is a word of the vocabulary, or a byte of a word that is not in it.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Sized
from itertools import chain, count
from typing import Any, Literal

import numpy as np

from tinyddpm.conditions.base import Asked, Given, HostArray, Known, Wish, refuse_others
from tinyddpm.errors import ConfigError, TinyDDPMWarning
from tinyddpm.nn import Gradients, Parameter, Parts, Told, Weights, Widths
from tinyddpm.nn.blocks import Chain
from tinyddpm.nn.layers import Embedding, LayerNorm, Linear, Pass
from tinyddpm.nn.network import DEEPEST, WIDEST
from tinyddpm.nn.parameters import Init
from tinyddpm.nn.transformer import TransformerBlock
from tinyddpm.ops import Operations, Saved

CAPTIONS = "text"
"""The column of captions; in the columns that `read` returns, of their tokens' numbers."""

EMPTY, START, FIRST_BYTE = 0, 1, 2
FIRST_WORD = FIRST_BYTE + 256
"""Numbers of tokens: padding after the caption, its start, the first of 256 bytes, and the first word."""

WORD = re.compile(r"\w+|[^\w\s]")

AT_ONCE = 2**16
"""Captions processed at a time, which bounds memory. A piece between spaces that many share is cut into words once."""

LEAST = 2
"""Least number of occurrences of a word in the vocabulary. A word that occurs once is better spelled in bytes, whose
embeddings must be trained as well."""


class Text(Parts):
    """A condition on captions: a bidirectional transformer on their tokens (GLIDE, section 3; LDM, section 3.3).

    It gives its last states as tokens, and as the vector a linear map of the first, which is that of the caption's
    start and has attended to all others. The null is the empty caption, which has the start alone.

    Args:
        sample_shape: unused.
        classes: unused.
        width: width of the vector.
        null: whether the model is trained with the empty caption, which needs no parameters.
        vocabulary: "words", those of the training captions in lower case, and bytes for all others; or "bytes" alone.
        words: the words of the vocabulary, see `learned`.
        depth: number of blocks.
        token_width: width of a token, in the transformer and for the network.
        heads: attention heads; they divide the width of a token.
        length: largest number of tokens, the start included. Longer captions are cut, with a warning.

    Raises:
        ConfigError: an option is out of range.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        classes: int,
        width: int,
        null: bool,
        *,
        vocabulary: Literal["words", "bytes"] = "words",
        words: Sequence[str] = (),
        depth: int = 2,
        token_width: int = 128,
        heads: int = 4,
        length: int = 64,
    ) -> None:
        _check(vocabulary, words, depth, token_width, heads, length)
        self.gives = Widths(vector=width, tokens=token_width)
        self.knows_null, self.length, self.spells = null, length, vocabulary == "bytes"
        self.numbers = {word: FIRST_WORD + number for number, word in enumerate(words)}
        self.null: Mapping[str, HostArray] = {CAPTIONS: self._rows([""])[0][0]}
        self.embedding = Embedding("text/embedding", FIRST_WORD + len(words), token_width)
        self.positions = Parameter("text/positions", (length, token_width), Init("normal", 0.1))
        self.blocks = Chain(
            *(TransformerBlock(f"text/block_{i}", token_width, heads, 4 * token_width) for i in range(depth))
        )
        self.norm = LayerNorm("text/norm", token_width)
        self.vector = Linear("text/vector", token_width, width)

    @staticmethod
    def learned(known: Known, **options: Any) -> Mapping[str, Any]:
        """Return the options with `words`, those that occur at least twice in the captions, in alphabetical order.

        Raises:
            ConfigError: the data have no captions.
        """
        if options.get("vocabulary", "words") != "words" or "words" in options:
            return options
        captions, counts = _captions(known), Counter[str]()
        for begin in range(0, len(captions), AT_ONCE):
            pieces = Counter(chain.from_iterable(map(str.split, captions[begin : begin + AT_ONCE])))
            for piece, times in pieces.items():
                for word in words_of(piece):
                    counts[word] += times
        return {**options, "words": sorted(word for word, count in counts.items() if count >= LEAST)}

    def read(self, known: Known) -> Mapping[str, HostArray]:
        """Return `text`, the numbers of each caption's tokens, (n, length) int64; longer captions are cut.

        Raises:
            ConfigError: the data have no captions.
        """
        captions = _captions(known)
        rows, counts = self._rows(captions)
        cut = int((counts >= self.length).sum())
        if cut:
            longest = 1 + int(counts.max())
            message = (
                f"{cut} of {len(captions)} captions are cut after {self.length} tokens, the longest has {longest}: "
                f"--set condition.length={longest} would hold all"
            )
            warnings.warn(message, TinyDDPMWarning, stacklevel=2)
        return {CAPTIONS: rows}

    def asked(self, wish: Wish, shown: Known | None = None) -> Asked:
        """Return the prompts of the wish, or else the captions of the samples shown, or else the empty caption.

        Raises:
            ConfigError: the wish has another part, or is empty and the model was trained without the empty caption.
        """
        refuse_others(wish, "prompts")
        if wish.prompts is not None:
            return Asked(None, {CAPTIONS: np.asarray([*wish.prompts], object)})
        if shown is not None:
            return Asked(None, {CAPTIONS: _captions(shown)})
        if not self.knows_null:
            raise ConfigError(
                "the model draws from captions: give one with --prompt, or train one with --condition-dropout 0.1"
            )
        warnings.warn("no prompt is given: samples are drawn for the empty caption", TinyDDPMWarning, stacklevel=2)
        return Asked(None, {CAPTIONS: np.asarray([""], object)})

    def words(self, known: Known) -> Sequence[str]:
        """Return the captions."""
        return [str(caption) for caption in _captions(known)]

    def tokens(self, caption: str) -> list[int]:
        """Return the numbers of a caption's tokens, without its start.

        A word that is not in the vocabulary becomes its bytes in UTF-8 and a space, which ends it.
        """
        return [int(number) for number in self._numbers([caption])[0]]

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return a vector and (N, length, token_width) tokens, with a mask that is False for padding."""
        run, index, xp = Pass(ops, w), given[CAPTIONS], ops.xp
        run.told["mask"] = index != EMPTY
        h = self.embedding.forward(run, xp.reshape(index, (-1,)))
        h = xp.reshape(h, (*index.shape, -1)) + w[self.positions.path]
        h = self.blocks.forward(run, h)
        tokens = self.norm.forward(run, h)
        vector = self.vector.forward(run, tokens[:, 0, :])
        return Told(vector=vector, tokens=tokens, mask=run.told["mask"]), run if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Add the gradients of the parameters to `dw`; a caption has none."""
        run: Pass = saved
        run.dw = dw
        xp, path = run.ops.xp, self.positions.path
        dfirst = self.vector.backward(run, dtold.vector)[:, None, :] + dtold.tokens[:, :1, :]
        dh = self.norm.backward(run, xp.concat([dfirst, dtold.tokens[:, 1:, :]], axis=1))
        dh = self.blocks.backward(run, dh)
        dw[path] += xp.sum(dh, axis=0, dtype=dw[path].dtype)
        self.embedding.backward(run, xp.reshape(dh, (-1, dh.shape[-1])))

    def _rows(self, captions: Sequence[str] | HostArray) -> tuple[HostArray, HostArray]:
        """Return the row of each of n captions, (n, length), and its number of tokens without the start, (n,).

        A row is the start, the tokens as far as there is room, and padding.
        """
        rows = np.full((len(captions), self.length), EMPTY, np.int64)
        rows[:, 0] = START
        counts = np.zeros(len(captions), np.int64)
        for begin in range(0, len(captions), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            numbers, counts[part] = self._numbers(captions[part])
            row, column = np.repeat(np.arange(len(counts[part])), counts[part]), 1 + _count_up(counts[part])
            fits = column < self.length
            rows[part][row[fits], column[fits]] = numbers[fits]
        return rows, counts

    def _numbers(self, captions: Sequence[str] | HostArray) -> tuple[HostArray, HostArray]:
        """Return the numbers of all tokens of n captions, one after the other, and each caption's count, (n,)."""
        if self.spells:
            spelled = [caption.encode("utf-8", "replace") for caption in captions]
            return np.frombuffer(b"".join(spelled), np.uint8) + np.int64(FIRST_BYTE), _lengths(spelled)
        cut = [caption.split() for caption in captions]
        places: defaultdict[str, int] = defaultdict(count().__next__)  # each new piece gets the next number
        place = np.fromiter(map(places.__getitem__, chain.from_iterable(cut)), np.int64)
        numbers = [[number for word in words_of(piece) for number in self._word(word)] for piece in places]
        table, lengths = np.fromiter(chain.from_iterable(numbers), np.int64), _lengths(numbers)
        of_piece = lengths[place]
        of_caption = np.diff(_starts(of_piece)[_starts(_lengths(cut))])
        return table[np.repeat(_starts(lengths)[place], of_piece) + _count_up(of_piece)], of_caption

    def _word(self, word: str) -> Iterator[int]:
        if word in self.numbers:
            yield self.numbers[word]
        else:
            yield from (FIRST_BYTE + byte for byte in f"{word} ".encode("utf-8", "replace"))


def _lengths(parts: Sequence[Sized]) -> HostArray:
    return np.fromiter(map(len, parts), np.int64, len(parts))


def _starts(lengths: HostArray) -> HostArray:
    """Return the starts of k adjacent parts of these lengths, and the end of the last, (k + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)])


def _count_up(counts: HostArray) -> HostArray:
    """Return `range(count)` of each of `counts`, one after the other in one array."""
    starts: HostArray = np.repeat(_starts(counts)[:-1], counts)
    return np.arange(len(starts)) - starts


def words_of(caption: str) -> list[str]:
    """Return the words of a caption in lower case, and its punctuation marks."""
    return WORD.findall(caption.lower())


def _captions(known: Known) -> HostArray:
    if CAPTIONS not in known.columns:
        raise ConfigError("there are no captions: give data with captions, or give them with --prompt")
    return known.columns[CAPTIONS]


def _check(vocabulary: str, words: Sequence[str], depth: int, token_width: int, heads: int, length: int) -> None:
    """Raise ConfigError for options of which no condition can be built."""
    if vocabulary not in ("words", "bytes"):
        raise ConfigError(f"condition.vocabulary is {vocabulary!r}: give 'words' or 'bytes'")
    if vocabulary == "bytes" and words:
        raise ConfigError(f"condition.words names {len(words)} words for a vocabulary of bytes: leave one of them out")
    if any(not isinstance(word, str) for word in words) or len(set(words)) < len(words):
        raise ConfigError("condition.words must be different texts: leave it out, and they are learned from the data")
    for name, value, least, most in (
        ("depth", depth, 1, DEEPEST),
        ("token_width", token_width, 1, WIDEST),
        ("heads", heads, 1, WIDEST),
        ("length", length, 2, WIDEST),
    ):
        if not least <= value <= most:
            raise ConfigError(f"condition.{name} is {value}: it must be at least {least} and at most {most}")
    if token_width % heads:
        raise ConfigError(f"condition.heads is {heads}: it must divide condition.token_width, {token_width}")
