"""Fixtures and settings of all tests."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import array_api_strict
import numpy as np
import pytest
from hypothesis import Phase, settings

from helpers.site import Site
from helpers.strict import StrictBackend
from tinyddpm.backend import Backend, load_backend
from tinyddpm.bench.process import THREAD_VARIABLES
from tinyddpm.data import cache
from tinyddpm.errors import BackendError
from tinyddpm.ops import Operations
from tinyddpm.ops.numba_operations import NumbaOperations
from tinyddpm.ops.numpy_operations import NumpyOperations

# A deadline is a timing assert in disguise: it fails on a busy machine.
settings.register_profile("tests", deadline=None, print_blob=True)
# Of a mutant it is enough to know that a test fails.
settings.register_profile(
    "mutants", settings.get_profile("tests"), derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("tests")


CORES = load_backend("numpy").threads(0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers of `-n auto`, at most 8: each imports Torch, which takes seconds and 0.5 GB."""
    return min(CORES, 8)


def pytest_configure(config: pytest.Config) -> None:
    """Divide the cores among pytest-xdist's workers: numerical libraries read these variables when they are loaded.

    Also switch off the cache of decoded images, and switch on that of bytecode, which containers often switch off:
    otherwise each worker, and each of hundreds of processes that tests start, compiles all modules that it imports.
    """
    cache.WORTH = math.inf
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if workers := config.getoption("numprocesses", None):
        threads = max(1, CORES // workers)
        for variable in THREAD_VARIABLES:
            os.environ.setdefault(variable, str(threads))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of all of Fashion-MNIST, which take minutes and data that few disks have, unless -m names it."""
    if "fashion" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("fashion")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a file that imports Torch if that is not installed."""
    report = yield
    raised = report.call.excinfo  # type: ignore[attr-defined]
    cause = raised and raised.value.__cause__
    if isinstance(cause, ModuleNotFoundError) and cause.name == "torch":
        report.outcome, report.longrepr = "skipped", (str(collector.path), None, "Skipped: Torch is not installed")
    return report


OTHER_BACKENDS = ["strict", "numba", "torch", pytest.param("cupy", marks=pytest.mark.gpu)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture(scope="module")
def numpy_backend() -> Backend:
    return load_backend("numpy")


ON_NUMPY = {"reference": Operations, "numpy": NumpyOperations, "numba": NumbaOperations}


@pytest.fixture(scope="module", params=ON_NUMPY.values(), ids=ON_NUMPY)
def ops(request: pytest.FixtureRequest, numpy_backend: Backend) -> Operations:
    """Operations on NumPy's arrays: the reference, NumPy's overrides, and Numba's overrides."""
    return request.param(numpy_backend, training=True)


@pytest.fixture(scope="module", params=OTHER_BACKENDS)
def other_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend but NumPy: array-api-strict, Numba, Torch, and CuPy where there is a GPU."""
    if request.param == "strict":
        with array_api_strict.ArrayAPIStrictFlags(api_version="2023.12"):
            yield StrictBackend()
        return
    try:
        backend = load_backend(request.param)
    except BackendError as error:
        pytest.skip(str(error))
    with backend.scope():
        yield backend


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path)
    yield Site(tmp_path)
    for name in [name for name in sys.modules if name.startswith("made_up")]:
        del sys.modules[name]
