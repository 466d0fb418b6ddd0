"""In a grid each class has columns of its own, whatever was asked for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.command_line import ONE_LEVEL, TWO_STEPS, says
from tinyddpm.figures.images import grid
from tinyddpm.figures.samples import WIDEST, by_class
from tinyddpm.model.sampling import HostArray

SIDE, GAP, WHITE = 48, 2, 255
"""Of images that are not enlarged, and of the grid around them."""


def marked(labels: list[int]) -> HostArray:
    """Images of one level each, (class, number) as two of its pixels."""
    images = np.zeros((len(labels), SIDE, SIDE, 1), np.uint8)
    images[:, 1, 1, 0], images[:, 1, 2, 0] = labels, np.arange(len(labels))
    return images


def tiles(picture: HostArray) -> HostArray:
    """(class, number) of each tile, (rows, columns, 2), white where there is none. Bands lie a gap further apart."""
    rows, top = [], GAP
    while top < len(picture):
        rows.append(np.stack([picture[top + 1, GAP + 1 + i :: SIDE + GAP, 0] for i in range(2)], axis=-1))
        top += SIDE + GAP
        if top < len(picture) and (picture[top : top + GAP] == WHITE).all():
            top += GAP
    return np.stack(rows)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=120))
def test_no_column_mixes_classes_and_no_image_is_lost(labels: list[int]) -> None:
    found = tiles(by_class(marked(labels), np.asarray(labels)))
    order, square = list(dict.fromkeys(labels)), math.ceil(math.sqrt(len(labels)))
    seen: list[tuple[int, int]] = []
    columns: list[list[int]] = []
    for column in found.transpose(1, 0, 2):
        there = [tuple(tile) for tile in column if tuple(tile) != (WHITE, WHITE)]
        seen += there
        columns.append(list(dict.fromkeys(label for label, _ in there)))
    assert sorted(seen) == sorted(zip(labels, range(len(labels)), strict=True))
    if len(order) <= max(WIDEST, square):
        assert max(map(len, columns)) == 1
        assert list(dict.fromkeys(label for (label,) in filter(None, columns))) == order
    for column in found.transpose(1, 0, 2):  # those of a class stand together, in their order
        names = [label for label, _ in column.tolist() if label != WHITE]
        assert len([a for a, b in zip(names, [None, *names], strict=False) if a != b]) == len(set(names))
    assert found.shape[1] <= max(WIDEST, square)


@pytest.mark.parametrize(("classes", "count"), [(10, 80), (10, 64), (10, 7), (4, 6), (20, 50)])
def test_all_in_turn_fill_rows_as_they_come(classes: int, count: int) -> None:
    labels = np.arange(count) % classes
    images = marked(labels.tolist())
    np.testing.assert_array_equal(by_class(images, labels), grid(images, min(classes, count)))


@pytest.mark.parametrize(("asked", "count", "shape"), [("3,5", 64, (8, 8)), ("3", 64, (8, 8)), ("1,2,3", 10, (4, 3))])
def test_few_classes_have_several_columns_each(asked: str, count: int, shape: tuple[int, int]) -> None:
    labels = np.resize(np.asarray([int(label) for label in asked.split(",")]), count)
    found = tiles(by_class(marked(labels.tolist()), labels))
    assert found.shape[:2] == shape
    wide = shape[1] // len(asked.split(","))
    np.testing.assert_array_equal(found[0, :, 0], np.repeat([int(label) for label in asked.split(",")], wide))


@pytest.mark.slow
def test_the_command_draws_what_was_asked_for_in_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An odd number of two classes."""
    monkeypatch.chdir(tmp_path)
    says("train", *TWO_STEPS, *ONE_LEVEL, "--out", "run")
    says("sample", "run", "--labels", "3,5", "--count", "9", "--npz", "--out", "s")
    with np.load("s/samples.npz") as arrays, Image.open("s/grid.png") as drawn:
        images, labels = arrays["images"], arrays["labels"]
        np.testing.assert_array_equal(np.asarray(drawn)[..., None], by_class(images, labels))
    assert labels.tolist() == [3, 5, 3, 5, 3, 5, 3, 5, 3]
