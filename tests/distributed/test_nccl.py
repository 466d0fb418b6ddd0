"""What is said where NCCL is not there, cannot join the ranks, or fails; and which GPU falls to a rank."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinyddpm.backend import load_backend
from tinyddpm.distributed import ranks
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.distributed.launch import Launch, own_gpu
from tinyddpm.distributed.nccl import NCCL
from tinyddpm.distributed.ranks import Ranks
from tinyddpm.errors import BackendError, ConfigError

CUPY_SAYS = """
nccl library could not be loaded.

Reason: ImportError (libnccl.so.2: cannot open shared object file: No such file or directory)

You can install the library by:
  $ pip install "nvidia-nccl-cu12>=2.18.1,<3"
"""


class Lacking(ModuleType):
    """CuPy's package, whose module nccl says only by a warning that there is no NCCL."""

    @property
    def nccl(self) -> Any:
        warnings.warn(CUPY_SAYS, stacklevel=1)
        return SimpleNamespace(available=False)


def install(monkeypatch: pytest.MonkeyPatch, cuda: Any) -> None:
    cupy: Any = ModuleType("cupy")
    cupy.cuda = cuda
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)


def nccl(monkeypatch: pytest.MonkeyPatch, join: Callable[..., Any]) -> NCCL:
    """Return what is made of CuPy's, whose communicator is what `join` returns."""
    module = SimpleNamespace(
        available=True, get_unique_id=lambda: bytes(128), NcclCommunicator=join,
        groupStart=lambda: None, groupEnd=lambda: None,
    )  # fmt: skip
    stream = SimpleNamespace(ptr=7)
    install(monkeypatch, SimpleNamespace(nccl=module, get_current_stream=lambda: stream))
    return NCCL(load_backend("numpy"), ALONE)


def fails(error: Exception) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise error

    return call


def test_where_there_is_none_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line; CuPy's own lines are not shown."""
    install(monkeypatch, Lacking("cupy.cuda"))
    backend = load_backend("numpy")
    with warnings.catch_warnings(action="error"), pytest.raises(ConfigError) as raised:
        NCCL(backend, ALONE)
    assert re.fullmatch(r"NCCL cannot be used: ImportError \(libnccl.so.2: .*\): run pip install .*", str(raised.value))


def test_ranks_that_it_cannot_join(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("NCCL_ERROR_INVALID_USAGE: invalid usage")
    with pytest.raises(ConfigError, match=r"^NCCL cannot join the ranks \(NCCL_ERROR_INVALID_USAGE: .*own, and"):
        nccl(monkeypatch, fails(error))


def test_sums_that_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("NCCL_ERROR_REMOTE_ERROR: remote process exited or there was a network error")
    found = nccl(monkeypatch, lambda *_: SimpleNamespace(allReduce=fails(error)))
    array: Any = SimpleNamespace(data=SimpleNamespace(ptr=0), size=3, dtype=np.dtype(np.float32))
    with pytest.raises(BackendError, match=r"^NCCL cannot sum \(NCCL_ERROR_REMOTE_ERROR.*--distributed mpi$"):
        found.sum_(array, "fp32")


class Placed(np.ndarray[Any, Any]):
    """An array of the host that has a place on a device."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


def test_a_rank_without_a_part_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one number for two ranks: NCCL is asked for the first one's part only."""
    asked: list[tuple[str, Any, Any]] = []
    communicator = SimpleNamespace(
        reduce=lambda *given: asked.append(("reduce", given[2], given[5])),
        broadcast=lambda *given: asked.append(("broadcast", given[2], given[4])),
    )
    found, flat = nccl(monkeypatch, lambda *_: communicator), np.ones(1, np.float32).view(Placed)
    cut = [slice(0, 1), slice(1, 1)]
    found.sum_parts(flat, cut, "fp32")
    found.gather_parts(flat, cut)
    assert asked == [("reduce", 1, 0), ("broadcast", 1, 0)]


def stand_in(monkeypatch: pytest.MonkeyPatch, rank: int, nccl: bool) -> Ranks:
    """Return one of two ranks without a link: both give the same, and the first gives it on."""
    group = Ranks.__new__(Ranks)
    Group.__init__(group, rank, 2)
    group._launch, group._wanted = Launch("mpiexec", rank, 2, rank), nccl
    monkeypatch.setattr(group, "gather", lambda value: [value, value])
    monkeypatch.setattr(group, "broadcast", lambda value: value)
    return group


def test_it_is_for_arrays_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "threadpool_limits", lambda cores: None)
    line = "--distributed nccl is for GPUs, and backend 'numpy' is not: use --backend cupy"
    with pytest.raises(ConfigError, match=f"^{line}$"):
        stand_in(monkeypatch, 0, nccl=True).load_backend("numpy")


def test_a_rank_that_cannot_reach_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "connect", fails(ConnectionRefusedError(111, "Connection refused")))
    with pytest.raises(ConfigError, match=r"^rank 1 \(process \d+ on .*\) cannot reach rank 0 at localhost:0: .*111"):
        stand_in(monkeypatch, 1, nccl=False)._watched()


@pytest.mark.parametrize(
    ("visible", "local_rank", "gpu"),
    [(None, 3, 3), ("", 3, 3), ("5", 3, 0), ("0,1,2,3", 3, 3), ("4,5", 3, 1)],
)
def test_each_rank_has_a_gpu_of_those_that_it_sees(visible: str | None, local_rank: int, gpu: int) -> None:
    """The only one, where the launcher lets each rank see its own."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert own_gpu(Launch("srun", 3, 8, local_rank), environment) == gpu
