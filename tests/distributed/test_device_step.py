"""Training steps on devices of two ranks, recorded with NCCL's sums or between MPI's: those of one process."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from cuda.conftest import make_shim
from distributed.device_steps_of_ranks import CASES, POINTS, STEPS, Case, Found, alone
from helpers import cupy_stand_in
from helpers.ranks import on_ranks
from tinyddpm.data.batching import batch_indices

pytestmark = pytest.mark.slow

Ranks = list[dict[Case, Found]]

POINT_CASES = [case for case in CASES if not case.pictures and not case.cut]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """What each of two ranks has found."""
    make_shim("CPU, little shared memory")
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(2, "distributed.device_steps_of_ranks", folder)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.fixture(scope="module")
def one(ranks: Ranks) -> dict[Case, Found]:
    """What one process finds."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("tinyddpm.training.feed.SHARE", 0.25)
        cupy_stand_in.install(monkeypatch)
        return dict(alone())


def bits(found: Found) -> list[bytes]:
    return [vector.tobytes() for vector in found.state]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_ranks_do_the_steps_of_one_process(ranks: Ranks, one: dict[Case, Found], case: Case) -> None:
    """To rounding, of 24 bits or of 8: losses, norms, and what weights, their average and Adam's moments come to."""
    found = ranks[0][case]
    alone = one[Case("none", accumulate=case.accumulate, pictures=case.pictures, precision=case.precision)]
    rounded = "bf16" in (case.sums, case.precision)
    assert found.losses[0] == pytest.approx(alone.losses[0], rel=1e-6)
    assert found.losses == pytest.approx(alone.losses, rel=1e-3 if rounded else 1e-5)
    assert found.norms == pytest.approx(alone.norms, rel=1e-2 if rounded else 1e-5)
    for vector, other in zip(found.state, alone.state, strict=True):
        assert np.linalg.norm(vector - other) < (1e-2 if rounded else 1e-4) * np.linalg.norm(other)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_have_the_same_bits(ranks: Ranks, case: Case) -> None:
    first, second = (rank[case] for rank in ranks)
    assert (first.losses, first.norms, bits(first)) == (second.losses, second.norms, bits(second))


@pytest.mark.parametrize("case", [case for case in CASES if case.kind == "nccl" and not case.cut], ids=str)
def test_sums_by_either_have_the_same_bits(ranks: Ranks, case: Case) -> None:
    """Where both are added in the order of ranks: all but the parts of bfloat16 sums, which MPI does not round."""
    found, other = ranks[0][case], ranks[0][replace(case, kind="mpi")]
    if case.shard and case.sums == "bf16":
        assert found.losses == pytest.approx(other.losses, rel=1e-3)
    else:
        assert (found.losses, found.norms, bits(found)) == (other.losses, other.norms, bits(other))


@pytest.mark.parametrize("case", [case for case in POINT_CASES if not case.graph or not case.whole], ids=str)
def test_how_it_is_fed_and_launched_changes_no_bit(ranks: Ranks, case: Case) -> None:
    found, other = ranks[0][case], ranks[0][replace(case, whole=True, graph=True)]
    assert (found.losses, found.norms, bits(found)) == (other.losses, other.norms, bits(other))


@pytest.mark.parametrize("case", [case for case in CASES if case.cut], ids=str)
def test_sums_of_pieces_change_no_bit(ranks: Ranks, case: Case) -> None:
    """They are recorded before the backward pass ends; the first step has them at its end."""
    found, other = ranks[0][case], ranks[0][replace(case, cut=False)]
    assert (found.losses, found.norms, bits(found)) == (other.losses, other.norms, bits(other))
    assert found.sums.count("1 allReduce") == found.sums.count("recorded 1 allReduce") > 3
    assert found.graphs == (1, 1)


@pytest.mark.parametrize("case", [case for case in CASES if case.graph and not case.cut], ids=str)
def test_what_is_recorded(ranks: Ranks, case: Case) -> None:
    """All of a step with NCCL's sums in it; or what lies between MPI's sums. The first step is done as it is."""
    sums = ["1 allReduce", "2 reduce", "1 allReduce", "2 broadcast"] if case.shard else ["1 allReduce", "1 allReduce"]
    for rank in ranks:
        found = rank[case]
        assert found.graphs == ((1, 1) if case.kind == "nccl" else (3, 3))
        assert found.sums == ([*sums, *(f"recorded {one}" for one in sums)] if case.kind == "nccl" else [])


@pytest.mark.parametrize("case", [case for case in CASES if not case.whole], ids=str)
def test_each_rank_reads_its_own_samples(ranks: Ranks, case: Case) -> None:
    """Of each step's batch, and of that of the next, which is read while the last one is computed."""
    size = POINTS.training.batch_size
    for rank, own in zip(ranks, (slice(0, 3), slice(3, 7)), strict=True):
        found = rank[case]
        assert found.read == [batch_indices(found.samples, size, step, 0)[own].tolist() for step in range(STEPS + 1)]
