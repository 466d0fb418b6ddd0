"""Pieces of the gradient are sent while the backward pass runs: each when all is in it, and not before."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from helpers.runs import DIGITS, POINTS, config
from tinyddpm.backend import load_backend
from tinyddpm.data import open_dataset
from tinyddpm.nn.parameters import ZEROS, Layout, Parameter
from tinyddpm.training import pieces as pieces_module
from tinyddpm.training.assembly import make_trainer, with_learned
from tinyddpm.training.host_step import HostStep
from tinyddpm.training.pieces import Pieces

CASES = {
    "points": POINTS.updated({"network": {"width": 8, "depth": 3}}),
    "images by class": DIGITS.updated({"data": {"labels": True}}),
}


@pytest.mark.parametrize(("sizes", "ends"), [((4, 3, 1, 9), (4, 8, 17)), ((2, 3, 2), (5, 7)), ((1,), (1,))])
def test_pieces_are_runs_of_whole_parameters(
    sizes: tuple[int, ...], ends: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of at least four numbers here, but for the last; none is empty."""
    monkeypatch.setattr(pieces_module, "LEAST", 4)
    pieces = Pieces(Layout([Parameter(f"w{k}", (size,), ZEROS) for k, size in enumerate(sizes)]))
    assert pieces.slices == [slice(*each) for each in pairwise((0, *ends))]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_a_piece_that_is_complete_changes_no_more(
    case: str, accumulate: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second step on, most are complete before the last layer's gradient is; all are told of once."""
    if backend == "numba":
        pytest.importorskip("numba")
    monkeypatch.setattr(pieces_module, "LEAST", 100)
    there = load_backend(backend)
    settings = config(CASES[case], batch_size=8, threads=1)
    dataset = open_dataset(settings.data.source)
    step = make_trainer(with_learned(settings, dataset), there, dataset).advance
    assert isinstance(step, HostStep)
    layout = step.model.layout
    pieces, w = Pieces(layout), step.model.weights(step.state.weights, step.ops)
    assert [i for piece in pieces.slices for i in (piece.start, piece.stop)][1:-1:2] == [
        piece.start for piece in pieces.slices[1:]
    ]
    for number in range(3):
        gradient = np.zeros(layout.size, np.float32)
        told: list[tuple[slice, np.ndarray]] = []
        early = 0

        def complete(piece: slice, gradient: np.ndarray = gradient, told: list[Any] = told) -> None:
            told.append((piece, gradient[piece].copy()))

        dw = pieces.watched(layout.views(gradient, there.xp), there.join, complete)
        with there.scope():
            for part in np.array_split(np.arange(8), accumulate):
                step._part_gradient(number, w, dw, part)
        early = len(told)
        dw.close()
        assert sorted(piece.start for piece, _ in told) == [piece.start for piece in pieces.slices]
        for piece, then in told:
            np.testing.assert_array_equal(then, gradient[piece])
        assert early == 0 if number == 0 else early > 0.6 * len(pieces.slices)
        assert np.any(gradient)
