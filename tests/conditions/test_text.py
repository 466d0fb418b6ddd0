"""Captions: their tokens, what is learned of them, and the transformer against a Torch twin of the same weights."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from helpers.comparison import assert_close
from tinyddpm.backend import Backend, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.conditions.text import EMPTY, FIRST_BYTE, FIRST_WORD, START, Text
from tinyddpm.errors import ConfigError, TinyDDPMWarning
from tinyddpm.nn import Layout, Told
from tinyddpm.ops import load_operations
from tinyddpm.testing import check_condition, random_weights

NUMPY = load_backend("numpy")
CAPTIONS = ("thumbs up: dark skin tone", "red apple", "", "flag: Åland", "thumbs up: light skin tone")
SMALL: dict[str, Any] = {"token_width": 8, "heads": 2, "depth": 2, "length": 12}

pytestmark = pytest.mark.filterwarnings("ignore::tinyddpm.errors.TinyDDPMWarning")


def known(captions: Sequence[str] = CAPTIONS) -> Asked:
    return Asked(None, {"text": np.asarray([*captions], object)})


def text(width: int = 6, **options: Any) -> Text:
    learned = Text.learned(known(), **{**SMALL, **options})
    return Text((4, 4, 1), 0, width, True, **learned)


@pytest.mark.parametrize("vocabulary", ["words", "bytes"])
def test_keeps_the_contract(vocabulary: str) -> None:
    """Gradients of every path, with captions of all lengths, cut ones among them, and the null."""
    words = [*text().numbers] if vocabulary == "words" else []
    check_condition("text", known(), exempt=["*/k/b"], vocabulary=vocabulary, words=words, **SMALL)


def test_words_that_occur_twice_are_learned_and_others_are_spelled() -> None:
    """In lower case, punctuation as words of its own; a word that was not learned ends with a space."""
    ours = text()
    assert list(ours.numbers) == [":", "skin", "thumbs", "tone", "up"]
    number = ours.numbers
    assert ours.tokens("Up:  thumbs") == [number["up"], number[":"], number["thumbs"]]
    assert ours.tokens("skin Ä") == [number["skin"], *(FIRST_BYTE + byte for byte in "ä ".encode())]
    assert ours.tokens("ab c") != ours.tokens("a bc")
    assert min(number.values()) == FIRST_WORD
    assert ours.tokens("") == []


def test_bytes_alone_keep_every_caption() -> None:
    """What differs in a byte differs in a token; nothing is learned."""
    ours = text(vocabulary="bytes")
    assert "words" not in Text.learned(known(), vocabulary="bytes")
    assert bytes(token - FIRST_BYTE for token in ours.tokens("Ä: 山")) == "Ä: 山".encode()
    assert not ours.numbers


def test_what_was_learned_is_not_learned_again() -> None:
    assert Text.learned(known(), words=["own"])["words"] == ["own"]


def test_rows_are_a_start_the_tokens_and_empty_places() -> None:
    ours = text()
    rows = ours.read(known(["up up", ""]))["text"]
    up = ours.numbers["up"]
    np.testing.assert_array_equal(rows, [[START, up, up] + 9 * [EMPTY], [START] + 11 * [EMPTY]])
    np.testing.assert_array_equal(ours.null["text"], rows[1])


def test_what_is_too_long_is_cut_with_one_warning_that_counts() -> None:
    ours = text(vocabulary="bytes")
    with pytest.warns(TinyDDPMWarning, match=r"2 of 3 captions are cut after 12 tokens, the longest has 21:") as caught:
        rows = ours.read(known(["a" * 12, "b" * 11, "c" * 20]))["text"]
    assert len(caught) == 1
    np.testing.assert_array_equal(rows[2], [START] + 11 * [FIRST_BYTE + ord("c")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.read(known(["b" * 11]))


LETTERS = st.text("aAbB1_ ,.-\n\r\t\x00\x1c\x85\u2028ΣσςİßÅ山é\u0301😀\ud83d", max_size=40)


@pytest.mark.slow
@given(captions=st.lists(LETTERS | st.text(max_size=20), max_size=9), at_once=st.integers(1, 4))
@pytest.mark.parametrize("vocabulary", ["words", "bytes"])
def test_captions_become_numbers_all_at_once_as_one_by_one(vocabulary: str, captions: list[str], at_once: int) -> None:
    """Beside the definition, word by word, whatever the letters, and however many captions are cut at a time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tinyddpm.conditions.text.AT_ONCE", at_once)
        ours = (
            text(vocabulary=vocabulary) if vocabulary == "bytes" else Text((4, 4, 1), 0, 6, True, **learned(captions))
        )
        rows = ours.read(known(captions))["text"]
    cut = [re.findall(r"\w+|[^\w\s]", caption.lower()) for caption in captions]
    counts = Counter(word for words in cut for word in words)
    if vocabulary == "words":
        assert [*ours.numbers] == sorted(word for word in counts if counts[word] >= 2)
    for row, caption, words in zip(rows, captions, cut, strict=True):
        tokens: list[int] = []
        for word in words if vocabulary == "words" else [caption]:
            spelled = [FIRST_BYTE + byte for byte in f"{word} ".encode("utf-8", "replace")]
            tokens += (
                spelled[:-1] if vocabulary == "bytes" else [ours.numbers[word]] if word in ours.numbers else spelled
            )
        assert ours.tokens(caption) == tokens
        padded = [START, *tokens, *[EMPTY] * ours.length]
        assert row.tolist() == padded[: ours.length]


def learned(captions: Sequence[str]) -> dict[str, Any]:
    return dict(Text.learned(known(captions), **SMALL))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"vocabulary": "letters"}, "condition.vocabulary is 'letters'"),
        ({"vocabulary": "bytes", "words": ["a"]}, "1 words for a vocabulary of bytes"),
        ({"words": ["a", "a"]}, "condition.words must be different texts"),
        ({"length": 1}, "condition.length is 1: it must be at least 2"),
        ({"heads": 3}, "condition.heads is 3: it must divide condition.token_width, 8"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Text((4, 4, 1), 0, 6, False, **{**SMALL, **options})


def test_without_captions_there_is_one_line() -> None:
    for ask in (lambda: text().read(Asked(None)), lambda: Text.learned(Asked(None))):
        with pytest.raises(ConfigError, match="there are no captions: give data with captions"):
            ask()


def told(ours: Text, backend: Backend, w: Any, captions: Sequence[str]) -> Told:
    return ours.forward(load_operations(backend), w, ours.read(known(captions)))[0]


def test_neighbours_and_padding_change_no_bit() -> None:
    """What is told of a caption that is there, in float32 on NumPy, whatever stands beside it in the batch.

    And whatever the empty places were embedded as.
    """
    ours = text()
    w = {path: array.astype(np.float32) for path, array in random_weights(ours, 3).items()}
    first = told(ours, NUMPY, w, CAPTIONS)
    other = told(ours, NUMPY, w, ["up", CAPTIONS[1], "tone tone tone", "", "thumbs"])
    padded = dict(w)
    padded["text/embedding/table"] = w["text/embedding/table"].copy()
    padded["text/embedding/table"][EMPTY] = 1e6
    changed = told(ours, NUMPY, padded, CAPTIONS)
    there = first.mask
    np.testing.assert_array_equal(changed.tokens[there], first.tokens[there])
    np.testing.assert_array_equal(changed.vector, first.vector)
    np.testing.assert_array_equal(other.tokens[1][there[1]], first.tokens[1][there[1]])
    np.testing.assert_array_equal(other.vector[1], first.vector[1])


def twin(w: dict[str, torch.Tensor], index: torch.Tensor, depth: int, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The transformer written a second time, on Torch's own operations: tokens and vector."""

    def linear(path: str, h: torch.Tensor) -> torch.Tensor:
        return functional.linear(h, w[f"text/{path}/w"].T, w[f"text/{path}/b"])

    def norm(path: str, h: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(h, h.shape[-1:], w[f"text/{path}/scale"], w[f"text/{path}/shift"], eps=1e-6)

    there = (index != EMPTY)[:, None, None, :]
    h = functional.embedding(index, w["text/embedding/table"]) + w["text/positions"]
    for i in range(depth):
        a = norm(f"block_{i}/norm_1", h)
        q, k, v = (linear(f"block_{i}/{name}", a).unflatten(-1, (heads, -1)).transpose(1, 2) for name in "qkv")
        a = functional.scaled_dot_product_attention(q, k, v, there).transpose(1, 2).flatten(2)
        h = h + linear(f"block_{i}/out", a)
        a = functional.gelu(linear(f"block_{i}/dense_1", norm(f"block_{i}/norm_2", h)), approximate="tanh")
        h = h + linear(f"block_{i}/dense_2", a)
    tokens = norm("norm", h)
    return tokens, linear("vector", tokens[:, 0])


@pytest.mark.parametrize("recompute", [False, True])
def test_agrees_with_torch(recompute: bool) -> None:
    """Tokens, vector and the gradient of every path in float64, within 1e-10 of the largest element."""
    ours, rng = text(), np.random.default_rng(5)
    w, given = random_weights(ours, 5), ours.read(known())
    ops = load_operations(NUMPY, training=True, recompute=recompute)
    found, saved = ours.forward(ops, w, given)
    dtold = Told(vector=rng.normal(size=found.vector.shape), tokens=rng.normal(size=found.tokens.shape))
    layout = Layout(ours.parameters)
    dw = layout.views(np.zeros(layout.size), np)
    ours.backward(saved, dw, dtold)

    leaves = {path: torch.tensor(array, requires_grad=True) for path, array in w.items()}
    tokens, vector = twin(leaves, torch.tensor(given["text"]), depth=2, heads=2)
    torch.autograd.backward([tokens, vector], [torch.tensor(dtold.tokens), torch.tensor(dtold.vector)])
    assert_close(found.tokens, tokens.detach().numpy(), 1e-10, "tokens")
    assert_close(found.vector, vector.detach().numpy(), 1e-10, "vector")
    for path, leaf in leaves.items():
        assert leaf.grad is not None
        assert_close(dw[path], leaf.grad.numpy(), 1e-10, path, floor=1.0)


@pytest.mark.parametrize("name", ["numba", "torch"])
def test_other_backends_read_the_same(name: str) -> None:
    """In float32, to rounding: what is told, and every gradient."""
    pytest.importorskip(name)
    ours, found = text(), {}
    w = {path: array.astype(np.float32) for path, array in random_weights(ours, 3).items()}
    given, layout = ours.read(known()), Layout(ours.parameters)
    for backend in (NUMPY, load_backend(name)):
        with backend.scope():
            ops, buffer = load_operations(backend, training=True), backend.asarray(np.zeros(layout.size, np.float32))
            there = {path: backend.asarray(array) for path, array in w.items()}
            told, saved = ours.forward(ops, there, {key: backend.asarray(rows) for key, rows in given.items()})
            ours.backward(saved, layout.views(buffer, backend.xp), Told(vector=told.vector, tokens=told.tokens))
            found[backend.name] = [backend.to_numpy(a) for a in (told.vector, told.tokens, told.mask, buffer)]
    for expected, actual in zip(found["numpy"], found[name], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
