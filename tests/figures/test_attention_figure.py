"""Attention to words: the weights are the operation's own, sum to one, and belong to their words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyddpm.backend import load_backend
from tinyddpm.conditions import Asked
from tinyddpm.errors import ConfigError
from tinyddpm.figures.attention import (
    Call,
    Recorder,
    WordAttention,
    _upsampled,
    attention_to_tokens,
    attention_weights,
    by_word,
    draw_attention,
    word_spans,
)
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model
from tinyddpm.ops import load_operations

NUMPY = load_backend("numpy")
LENGTH = 9


def model(text: str = "cross", **condition: Any) -> Model:
    tables = {
        "network": {
            "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [3, 6], "dropout": 0.0, "text": text,
        },
        "condition": {
            "name": "text", "token_width": 8, "depth": 2, "heads": 2, "length": LENGTH, "words": ["red", "square"],
            **condition,
        },
        "schedule": {"name": "cosine", "timesteps": 20},
    }  # fmt: skip
    return Model(Config.from_dict(tables), (6, 6, 3), (), NUMPY)


def denoiser(of: Model, caption: str, n: int = 2) -> Any:
    weights = np.random.default_rng(0).normal(0, 0.3, of.layout.size).astype(np.float32)
    return of.network_denoiser(weights, Asked(None, {"text": np.asarray([caption] * n, object)}))


def test_weights_are_those_of_the_operation() -> None:
    """They sum to 1 over the keys that are there, are 0 elsewhere, and weigh the values to what attention returns."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 5, 8))
    mask = np.array([[True, True, False, True, False], [True, False, False, False, False]])
    weights = attention_weights(Call(q, k, v, 2, mask), NUMPY)
    assert weights.shape == (2, 2, 5, 5)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
    assert (weights[~np.broadcast_to(mask[:, None, None, :], weights.shape)] == 0).all()
    out = (weights @ v.reshape(2, 5, 2, 4).transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3).reshape(2, 5, 8)
    np.testing.assert_allclose(load_operations(NUMPY).attention(q, k, v, 2, mask)[0], out, rtol=1e-10)


@pytest.mark.parametrize("text", ["cross", "concat"])
def test_every_pixel_looks_at_what_is_said(text: str) -> None:
    """All weight is on the caption's tokens where they are attended to alone, and some where pixels stand beside them.
    What the network says is not changed by being watched.
    """
    of = model(text)
    asked, x_t = denoiser(of, "red square"), np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype(np.float32)
    before = asked(x_t, 7).x_0
    maps = attention_to_tokens(asked, of.condition, x_t, 7)
    assert maps.shape == (2, 6, 6, LENGTH)
    assert (maps[..., 3:] == 0).all(), "the start and two words are three tokens"
    total = maps.sum(axis=-1)
    if text == "cross":
        np.testing.assert_allclose(total, 1, rtol=1e-5)
    else:
        assert ((total > 0) & (total < 0.9)).all()
    assert np.ptp(maps[0, :, :, 1]) > 0, "pixels differ"
    np.testing.assert_array_equal(asked(x_t, 7).x_0, before)


def test_the_text_s_own_attention_is_left_out() -> None:
    """It is to keys of which some are missing too, as many times as the condition is deep."""
    of = model()
    asked = denoiser(of, "red square", 1)
    recorder = Recorder(asked.ops)
    of.condition.forward(recorder, asked.w, asked.given)  # type: ignore[arg-type]
    assert [call.q.shape[1] for call in recorder.calls] == [LENGTH, LENGTH]


def test_words_are_summed_over_their_tokens() -> None:
    of = model()
    spans = word_spans(of.condition, "Red red ox square")
    # "ox" was not learned: two bytes and a space.
    assert spans == {
        "(start)": slice(0, 1), "red": slice(1, 2), "red #2": slice(2, 3), "ox": slice(3, 6), "square": slice(6, 7),
    }  # fmt: skip
    maps = np.arange(LENGTH, dtype=float) * np.ones((2, 6, 6, 1))
    np.testing.assert_array_equal(by_word(maps, spans)[0, 0, 0], [0, 1, 2, 12, 6])
    cut = word_spans(of.condition, "red square zebra red")
    assert cut == {"(start)": slice(0, 1), "red": slice(1, 2), "square": slice(2, 3), "zebra": slice(3, 9)}
    spelt = word_spans(model(vocabulary="bytes", words=[]).condition, "a bc")
    assert spelt == {"(start)": slice(0, 1), "a": slice(1, 3), "bc": slice(3, 6)}


def test_models_without_words_are_refused() -> None:
    tables = {"data": {"labels": True}, "network": {"channels": 8, "multipliers": [1, 2], "attention": [8]}}
    labels = Model(Config.from_dict(tables), (8, 8, 1), ("a", "b"), NUMPY)
    with pytest.raises(ConfigError, match="this model reads no captions: text-attention is for --condition text"):
        word_spans(labels.condition, "a")
    told = labels.network_denoiser(np.zeros(labels.layout.size, np.float32), Asked(np.zeros(1, int)))
    with pytest.raises(ConfigError, match="pixels attend to no words"):
        attention_to_tokens(told, labels.condition, np.zeros((1, 8, 8, 1), np.float32), 3)


def test_maps_are_upsampled_by_repeating() -> None:
    """Of an image of odd sides too, and not of another number of pixels than halving leaves."""
    weights = np.arange(6).reshape(1, 6, 1)
    np.testing.assert_array_equal(
        _upsampled(weights, (3, 5))[0, ..., 0], np.repeat([[0, 1, 2], [3, 4, 5]], 2, 1)[[0, 0, 1], :5]
    )
    with pytest.raises(ConfigError, match="attention of 6 positions fits no map of 4x4 pixels"):
        _upsampled(weights, (4, 4))


def test_maps_and_shares_are_drawn(tmp_path: Path, drawn: list[Any]) -> None:
    rng = np.random.default_rng(0)
    found = WordAttention(
        ["(start)", "red"], [9, 4, 0], rng.uniform(0, 0.5, (3, 2, 6, 6, 2)), rng.normal(size=(2, 6, 6, 3))
    )
    draw_attention(found, tmp_path / "a.png")
    *grid, chart = drawn[0].axes
    assert [axes.get_title() for axes in grid[:3]] == ["drawn", "(start)", "red"]
    assert len(grid) == 6
    np.testing.assert_allclose(grid[5].images[0].get_array(), found.maps[:, 1, :, :, 1].mean(axis=0))
    np.testing.assert_allclose(chart.lines[1].get_ydata(), 100 * found.maps[..., 1].mean(axis=(1, 2, 3)))
