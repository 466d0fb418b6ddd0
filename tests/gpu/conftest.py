"""The script `tests/gpu/run` as a module, and what its tests share."""

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


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules come before those that are installed: a CuPy, a cuDNN, and a Torch that is soon there."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "cupy.py").write_text("")
    (folder / "torch.py").write_text("")
    (folder / "cudnn.py").write_text("def backend_version(): return 92801\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def one_line(raised: pytest.ExceptionInfo[SystemExit]) -> str:
    line = str(raised.value)
    assert line.startswith("tests/gpu/run: ")
    assert "\n" not in line
    return line
