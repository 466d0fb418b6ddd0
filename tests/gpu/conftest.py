"""The script `tests/gpu/run` as a module."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).with_name("run")


@pytest.fixture
def script() -> ModuleType:
    loader = SourceFileLoader("gpu_run", str(SCRIPT))
    spec = spec_from_loader("gpu_run", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module
