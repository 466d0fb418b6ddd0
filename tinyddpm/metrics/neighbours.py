"""Nearest neighbours and balls among many features, computed in blocks of distances on all cores.

|a − b|² = |a|² + |b|² − 2 a·b turns distances into a matrix product. In the features' precision it suffices to find the
neighbours; their distances are then computed again from the differences, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import load_backend
from tinyddpm.backend.workers import Workers
from tinyddpm.metrics.base import Part, Rows, Sets

BLOCK = 2000
"""Rows and columns of a block of distances: 16 MB in float32, large enough for a matrix product at full speed. It is no
power of two, at which the elements of a column would compete for the same cache lines."""

GROUP = 64
"""Distances in a group, of which only the smallest is compared at first."""

ROUNDING = 32
"""Roundings of |a|² + |b|² by which a distance may exceed a ball's radius: on the surface, a sample lies inside. In
pictures of few grey levels, and beside copies, many distances are equal to a radius."""

USUAL = (3, 5)
"""The usual k of balls: 3 for precision and recall, 5 for density and coverage. Both are computed in one pass."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Counts: TypeAlias = NDArray[np.int64]
Candidates: TypeAlias = tuple[NDArray[np.int64], Rows]
"""Indices of candidates for the neighbours of n samples, unordered, and their squared distances, (n, k) each."""


class Neighbours(NamedTuple):
    """The k nearest neighbours of each of n samples, nearest first.

    Attributes:
        which: (n, k), indices in the searched set.
        distance: float64 (n, k).
    """

    which: NDArray[np.int64]
    distance: NDArray[np.float64]


class Balls(NamedTuple):
    """How n drawn and m real samples lie in each other's balls.

    Attributes:
        around: (n,), number of real samples' balls that each drawn sample lies in.
        reached: (m,), whether the ball of each real sample contains a drawn one.
        covered: (m,), whether each real sample lies in the ball of a drawn one.
    """

    around: Counts
    reached: NDArray[np.bool_]
    covered: NDArray[np.bool_]


def nearest(part: Part, others: Part, k: int = 1) -> Neighbours:
    """Return the k nearest `others` of each sample of a set; all others if there are fewer than k."""
    a, b = part.features, others.features
    centre = b.mean(0)

    def block(pair: tuple[slice, slice]) -> tuple[slice, Candidates]:
        rows, columns = pair
        return rows, _smallest(_squared(a[rows], b[columns], centre), k, columns.start)

    found = _on_all_cores(block, [(rows, columns) for rows in _blocks(len(a)) for columns in _blocks(len(b))])
    return _together(a, b, found, min(k, len(b)))


def nearest_inside(part: Part, k: int) -> Neighbours:
    """Return the k nearest neighbours of each sample within its own set, itself excluded; all if there are fewer.

    The matrix of distances is symmetric: of a block and its mirror image only one is computed.
    """
    a = part.features
    centre, blocks = a.mean(0), _blocks(len(a))

    def block(pair: tuple[slice, slice]) -> list[tuple[slice, Candidates]]:
        """Return candidates for these rows among these columns, and off the diagonal also for the columns."""
        rows, columns = pair
        squared = _squared(a[rows], a[columns], centre)
        if rows == columns:
            np.fill_diagonal(squared, np.inf)
            return [(rows, _smallest(squared, k, columns.start))]
        across = _smallest(np.ascontiguousarray(squared.T), k, rows.start)
        return [(rows, _smallest(squared, k, columns.start)), (columns, across)]

    pairs = [(rows, columns) for i, rows in enumerate(blocks) for columns in blocks[i:]]
    found = [side for sides in _on_all_cores(block, pairs) for side in sides]
    return _together(a, a, found, min(k, len(a) - 1))


def radii(part: Part, k: int) -> NDArray[np.float64]:
    """Return each sample's distance to its k-th nearest neighbour in its own set, or to the farthest, (n,)."""
    kept = max(k, *USUAL)
    found = part.kept(f"{kept} nearest inside", lambda: nearest_inside(part, kept)).distance
    return found[:, min(k, len(part) - 1) - 1]


def balls(sets: Sets, k: int) -> Balls:
    """Return how samples lie in balls whose radius is the distance from the centre to its k-th nearest neighbour.

    A sample on a ball's surface, up to rounding, lies inside. One pass over the distances between drawn and real
    samples computes this for k and for the `USUAL` k.
    """
    several = sorted({k, *USUAL})
    return sets.kept(f"balls of {several}", lambda: _balls(sets, several))[several.index(k)]


def _balls(sets: Sets, several: list[int]) -> list[Balls]:
    """Return `Balls` for each of several k."""
    a, b = sets.drawn.features, sets.real.features
    centre = b.mean(0)
    of_drawn, of_real = ([(radii(part, k) ** 2).astype(b.dtype) for k in several] for part in (sets.drawn, sets.real))

    def block(pair: tuple[slice, slice]) -> tuple[slice, slice, list[Balls]]:
        """Return `Balls` of these drawn and real samples alone, for each k."""
        rows, columns = pair
        squared = _squared(a[rows], b[columns], centre, slack=ROUNDING * float(np.finfo(b.dtype).eps))
        found = []
        for around_drawn, around_real in zip(of_drawn, of_real, strict=True):
            inside = squared <= around_real[columns]
            covered = np.any(squared <= around_drawn[rows, None], axis=0)
            found.append(Balls(np.count_nonzero(inside, axis=1), np.any(inside, axis=0), covered))
        return rows, columns, found

    sums = [Balls(np.zeros(len(a), np.int64), *np.zeros((2, len(b)), bool)) for _ in several]
    pairs = [(rows, columns) for rows in _blocks(len(a)) for columns in _blocks(len(b))]
    for rows, columns, found in _on_all_cores(block, pairs):
        for whole, piece in zip(sums, found, strict=True):
            whole.around[rows] += piece.around
            whole.reached[columns] |= piece.reached
            whole.covered[columns] |= piece.covered
    return sums


def _blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def _on_all_cores(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return `function(item)` of all items in order, computed by parallel threads."""
    return Workers(load_backend("numpy").threads(0)).map(function, items)


def _squared(a: Rows, b: Rows, centre: Rows, slack: float = 0.0) -> Rows:
    """Return the squared distances of rows, (n, m), less `slack` times |a|² + |b|².

    Subtracting a centre keeps squares, and their rounding, small.
    """
    a, b = a - centre, b - centre
    squared: Rows = a @ (-2 * b).T
    squared += (1 - slack) * np.einsum("nd,nd->n", a, a)[:, None]
    squared += (1 - slack) * np.einsum("nd,nd->n", b, b)
    return squared


def _smallest(squared: Rows, k: int, first: int) -> Candidates:
    """Return the columns, plus `first`, and values of the k smallest elements of each row, unordered.

    Columns are split into groups. The k smallest elements lie in the k groups with the smallest minima, or among the
    columns left over.
    """
    n, m = squared.shape
    among, columns = squared, np.broadcast_to(np.arange(m), (n, m))
    groups = m // GROUP
    if groups > k:
        least = squared[:, : groups * GROUP].reshape(n, GROUP, groups).min(axis=1)
        chosen = np.argpartition(least, k - 1, axis=1)[:, None, :k]
        inside = (chosen + groups * np.arange(GROUP)[:, None]).reshape(n, -1)
        columns = np.concatenate([inside, columns[:, groups * GROUP :]], axis=1)
        among = np.take_along_axis(squared, columns, axis=1)
    kept = np.argpartition(among, min(k, m) - 1, axis=1)[:, :k]
    return first + np.take_along_axis(columns, kept, 1), np.take_along_axis(among, kept, 1)


def _together(a: Rows, b: Rows, found: list[tuple[slice, Candidates]], k: int) -> Neighbours:
    """Merge the candidates of all blocks into the k nearest, with distances computed from differences."""
    of_rows: dict[int, list[Candidates]] = {}
    for rows, piece in found:
        of_rows.setdefault(rows.start, []).append(piece)
    whole = [_nearest_of(a[start : start + BLOCK], b, of_rows[start], k) for start in sorted(of_rows)]
    return Neighbours(*(np.concatenate(parts) for parts in zip(*whole, strict=True)))


def _nearest_of(a: Rows, b: Rows, pieces: list[Candidates], k: int) -> Neighbours:
    which, squared = (np.concatenate(parts, axis=1) for parts in zip(*pieces, strict=True))
    kept = np.take_along_axis(which, np.argpartition(squared, k - 1, axis=1)[:, :k], 1)
    differences = (np.subtract(a, b[column], dtype=np.float64) for column in kept.T)
    distance = np.stack([np.linalg.norm(difference, axis=1) for difference in differences], axis=1)
    order = np.argsort(distance, axis=1, kind="stable")
    return Neighbours(np.take_along_axis(kept, order, 1), np.take_along_axis(distance, order, 1))
