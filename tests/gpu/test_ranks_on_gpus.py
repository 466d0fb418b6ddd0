"""Ranks on NVIDIA GPUs: NCCL's sums, alone and recorded in a step; and the steps of two ranks, which are those of one.

NCCL refuses two ranks on one card, so on one card its communicator has one rank, and two ranks speak by MPI.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from gpu.ranks_on_a_gpu import losses, trainer
from helpers.ranks import on_ranks, started
from tinyddpm.backend import Backend, load_backend
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.distributed.nccl import NCCL
from tinyddpm.errors import BackendError, ConfigError

pytestmark = pytest.mark.gpu

N = 1001
CUT = [slice(0, N)]


def gpu(**options: Any) -> Backend:
    try:
        return load_backend("cupy", **options)
    except BackendError as error:
        pytest.skip(str(error))


def nccl_of(backend: Backend) -> NCCL:
    try:
        return NCCL(backend, ALONE)
    except ConfigError as error:
        pytest.skip(str(error))


def cards() -> int:
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


class First(Group):
    """The first of two ranks, the other of which adds nothing: what is summed by NCCL is this one's."""

    def __init__(self) -> None:
        super().__init__(0, 2)

    def load_backend(self, *arguments: Any, **options: Any) -> Backend:
        backend = super().load_backend(*arguments, **options)
        self._nccl = nccl_of(backend)
        return backend

    def sum_(self, flat: Any, sums: str = "fp32") -> None:
        self._nccl.sum_(flat, sums)

    def begin_sum(self, flat: Any, part: slice, sums: str = "fp32") -> None:
        self._nccl.begin_sum(flat, part, sums)

    def end_sums(self) -> None:
        self._nccl.end_sums()

    def sum_part(self, flat: Any, sums: str = "fp32") -> None:
        self._nccl.sum_parts(flat, self.parts(flat.shape[0])[:1], sums)

    def gather_parts(self, flat: Any) -> None:
        self._nccl.gather_parts(flat, self.parts(flat.shape[0])[:1])


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("sums", ["fp32", "bf16"])
def test_the_sum_of_one_rank_is_its_own(sums: str, recorded: bool, rng: np.random.Generator) -> None:
    """Of each kind, and in a graph with kernels before and after, which is replayed on other numbers."""
    backend = gpu()
    nccl = nccl_of(backend)
    buffer = None

    def summed(x: Any) -> tuple[Any, ...]:
        assert buffer is not None
        whole, part = x * 2, x * 3
        nccl.sum_(whole, sums)
        nccl.sum_parts(part, CUT, sums)
        buffer[...] = x * 5
        nccl.begin_sum(buffer, slice(0, 500), sums)
        nccl.begin_sum(buffer, slice(500, N), sums)
        nccl.end_sums()
        gathered = x * 7
        nccl.gather_parts(gathered, CUT)
        return whole + 0, part + 0, buffer + 0, gathered + 0

    with backend.scope():
        buffer = backend.asarray(np.zeros(N, np.float32))
        function = backend.captured(summed) if recorded else summed
        for _ in range(4):
            x = rng.normal(size=N).astype(np.float32)
            found = [backend.to_numpy(array) for array in function(backend.asarray(x))]
            expected = [x * np.float32(times) for times in (2, 3, 5, 7)]
            if sums == "bf16":
                expected[:3] = [array.astype(bfloat16).astype(np.float32) for array in expected[:3]]
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("sums", ["fp32", "bf16"])
def test_a_step_is_recorded_with_its_sums(sums: str, shard: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit the steps that are not recorded. The gradient is summed in pieces, while the backward pass runs."""
    gpu()
    monkeypatch.setattr("tinyddpm.training.pieces.LEAST", 1000)
    recorded, plain = (trainer(First(), "cuda:0", graph, shard=shard, sums=sums) for graph in (True, False))
    assert losses(recorded) == losses(plain)
    host = recorded.model.backend.to_numpy
    assert host(recorded.weights).tobytes() == host(plain.weights).tobytes()


@pytest.mark.parametrize(("kind", "device"), [("mpi", "cuda:0"), ("nccl", "cuda")])
def test_two_ranks_do_the_steps_of_one_process(kind: str, device: str, tmp_path: Path) -> None:
    """By MPI on one card, or by NCCL on two: losses to rounding's growth, and the same weights on both, bit for bit."""
    gpu()
    if kind == "nccl" and cards() < 2:
        pytest.skip("NCCL needs a GPU for each of two ranks")
    expected = losses(trainer(ALONE, "cuda:0"))
    pytest.importorskip("mpi4py")
    on_ranks(2, "gpu.ranks_on_a_gpu", kind, device, tmp_path)
    found = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    np.testing.assert_allclose(found[0]["losses"], expected, rtol=1e-4)
    for name in ("losses", "weights"):
        assert found[0][name].tobytes() == found[1][name].tobytes()


def test_nccl_refuses_two_ranks_on_one_card(tmp_path: Path) -> None:
    nccl_of(gpu())
    pytest.importorskip("mpi4py")
    done = started(2, "gpu.ranks_on_a_gpu", "nccl", "cuda:0", tmp_path, timeout=120)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "NCCL cannot join the ranks" in line
    assert "each needs a GPU of its own" in line
