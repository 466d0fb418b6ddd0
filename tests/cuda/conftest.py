"""Fixtures of the kernels' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.cuda_shim import COMPILER, ShimBackend
from tinyddpm.backend import Backend, load_backend
from tinyddpm.errors import BackendError

SHARED_MEMORY = {"CPU, as much shared memory as an H100": 232448, "CPU, little shared memory": 8192}


def make_shim(name: str) -> ShimBackend:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler (g++ or clang++) to run the kernels with")
    return ShimBackend(SHARED_MEMORY[name])


@pytest.fixture(params=SHARED_MEMORY)
def shim(request: pytest.FixtureRequest) -> ShimBackend:
    """A backend that runs kernels on the CPU, with blocks that have much shared memory, and hardly any."""
    return make_shim(request.param)


@pytest.fixture(scope="module", params=[*SHARED_MEMORY, pytest.param("cupy", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Whatever runs kernels: the CPU in both ways, and CuPy where there is a GPU."""
    if request.param != "cupy":
        yield make_shim(request.param)
        return
    try:
        backend = load_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error))
    with backend.scope():
        yield backend


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the plans of cuDNN's that were chosen, in a cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tinyddpm" / "cudnn.jsonl"
