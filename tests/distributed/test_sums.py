"""Sums, parts, gathers and the like of real ranks, against NumPy's own."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from distributed.sums_of_ranks import BACKENDS, SIZES, numbers, word
from helpers.ranks import on_ranks
from tinyddpm.backend.workers import parts
from tinyddpm.distributed.ranks import _packed, _unpacked

pytestmark = pytest.mark.slow

Found = list[dict[str, np.ndarray[Any, Any]]]


@pytest.fixture(scope="module", params=[("mpiexec", 2), ("mpiexec", 3), ("mpiexec", 4), ("torchrun", 3)], ids=str)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of so many ranks has found."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    launcher, count = request.param
    on_ranks(count, "distributed.sums_of_ranks", folder, launcher=launcher)
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(count)]


def rounded(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(invalid="ignore"):  # NaN
        return array.astype(bfloat16).astype(np.float32)


def expected(ranks: int, n: int, sums: str) -> np.ndarray[Any, Any]:
    """Return the sum of what ranks add, or what they send of it, in float32 and in their order."""
    added = [numbers(rank, n) for rank in range(ranks)]
    return reduce(np.add, added if sums == "fp32" else map(rounded, added))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_are_those_of_the_numbers(found: Found, backend: str, n: int) -> None:
    """In float32 to the rounding of each addition; and each rank has the same bits."""
    mine = [one[f"sum {backend} {n} fp32"] for one in found]
    added = np.stack([numbers(rank, n) for rank in range(len(found))]).astype(np.float64)
    assert (abs(mine[0] - added.sum(0)) <= (len(found) - 1) * 2.0**-24 * abs(added).sum(0)).all()
    assert {one.tobytes() for one in mine} == {mine[0].tobytes()}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_sums_are_rounded_before_and_after(found: Found, backend: str, n: int) -> None:
    for one in found:
        np.testing.assert_array_equal(one[f"sum {backend} {n} bf16"], rounded(expected(len(found), n, "bf16")))


@pytest.mark.parametrize("sums", ["fp32", "bf16"])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_rank_has_its_part_of_the_sum(found: Found, backend: str, n: int, sums: str) -> None:
    """Added in the order of ranks, in float32. The last ranks have nothing where there are fewer numbers."""
    whole = np.concatenate([one[f"part {backend} {n} {sums}"] for one in found])
    np.testing.assert_array_equal(whole, expected(len(found), n, sums))
    lengths = [part.stop - part.start for part in parts(n, len(found))]
    have = [len(one[f"part {backend} {n} {sums}"]) for one in found]
    assert have == lengths + [0] * (len(found) - len(lengths))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_parts_are_gathered(found: Found, backend: str, n: int) -> None:
    whole = np.concatenate([numbers(rank, n)[part] for rank, part in enumerate(parts(n, len(found)))])
    for one in found:
        np.testing.assert_array_equal(one[f"gathered {backend} {n}"], whole)


def test_what_is_gathered_and_told(found: Found) -> None:
    ranks = range(len(found))
    for one in found:
        assert one["texts"].tolist() == [word(rank)["text"] for rank in ranks]
        assert one["told"].tolist() == [word(5)["text"], "None"]
        assert one["most"].tolist() == [len(found) - 1, -3, 2**62]
        assert one["total"].tolist() == [
            sum(0.1 * (rank + 1) for rank in ranks),
            sum(1e17 if rank == 1 else 1.0 for rank in ranks),
        ]


def test_bfloat16_is_what_others_round_to(rng: np.random.Generator) -> None:
    """A million bit patterns of float32, with NaN, infinities, ties, what overflows and what is less than normal."""
    bits = rng.integers(0, 2**32, 1_000_000, np.uint32)
    bits[: 2**16] = (np.arange(2**16, dtype=np.uint32) << 16) | 0x8000  # ties
    floats = bits.view(np.float32)
    sent = _packed(floats, "bf16")
    assert sent.dtype == np.uint16
    found, truth = _unpacked(sent), rounded(floats)
    number = ~np.isnan(truth)
    np.testing.assert_array_equal(np.isnan(found), ~number)
    assert found[number].tobytes() == truth[number].tobytes()
