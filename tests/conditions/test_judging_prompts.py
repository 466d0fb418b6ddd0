"""The judge of prompts in the examples: what is right, and what is not."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyddpm.data.emoji import Pair

JUDGE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "judge_prompts.py"))

GESTURES, TONES = ("fist", "foot", "nose"), ("light", "dark")


def real() -> Any:
    """Six pictures: a gesture is a shape of its own, a tone what it is filled with."""
    pairs = [Pair(gesture, tone) for gesture in GESTURES for tone in TONES]
    shapes = np.random.default_rng(0).integers(0, 2, (len(GESTURES), 4, 4, 3))
    images = np.stack([shape * fill for shape in shapes for fill in (200, 100)]).astype(np.uint8)
    return JUDGE["Real"]([f"{p.gesture}: {p.tone} skin tone" for p in pairs], images, pairs)


@pytest.mark.parametrize(
    ("drawn", "tone", "gesture"),
    [(("foot", "dark"), True, True), (("foot", "light"), False, True), (("nose", "dark"), True, False)],
)
def test_half_a_prompt_that_is_obeyed_is_half_right(drawn: tuple[str, str], tone: bool, gesture: bool) -> None:
    """A foot in a dark tone is wanted; drawn is a real picture or another, a grey level brighter."""
    known = real()
    picture = known.images[known.pairs.index(Pair(*drawn))][None] + 1
    verdict = JUDGE["judged"](picture, [Pair("foot", "dark")], known)
    assert (verdict.tone.tolist(), verdict.gesture.tolist()) == ([tone], [gesture])


def test_real_pictures_that_are_alike_are_both_right() -> None:
    """A light and a dark foot that the font draws alike cannot be told apart."""
    known = real()
    known.images[2] = known.images[3]
    for tone in TONES:
        verdict = JUDGE["judged"](known.images[2][None], [Pair("foot", tone)], known)
        assert (verdict.tone.all(), verdict.gesture.all()) == (True, True)


def test_chance_is_one_among_those_that_are_compared() -> None:
    known = real()
    verdict = JUDGE["judged"](known.images, known.pairs, known)
    assert verdict.chance == pytest.approx((1 / len(TONES), 1 / len(GESTURES)))
    assert str(verdict).split() == ["100.0", "100.0", "100.0"]
