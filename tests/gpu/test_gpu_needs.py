"""What `tests/gpu/run` needs: what is lacking is said in one line."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpu import needs
from gpu.conftest import SCRIPT, one_line

pytestmark = pytest.mark.slow


def test_without_a_driver_it_says_so_in_one_line() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert "there is no NVIDIA driver" in line
        return
    pytest.skip("there is an NVIDIA driver")


@pytest.mark.parametrize(("error", "count"), [(100, 0), (0, 0)])
def test_without_a_gpu_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, error: int, count: int) -> None:
    driver = SimpleNamespace(cuInit=lambda flags: error, cuDeviceGetCount=lambda pointer: 0)
    monkeypatch.setattr(needs.ctypes, "CDLL", lambda name: driver)
    with pytest.raises(SystemExit, match=r"^tests/gpu/run: there is an NVIDIA driver but no usable GPU [^\n]*$"):
        needs.cuda_version()


def hide(path: Path, module: str) -> None:
    (path / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module named', name={module!r})")


def test_all_that_is_imported_everywhere_is_looked_for() -> None:
    project = tomllib.loads((needs.ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    assert names <= set(needs.MODULES.values())


def test_where_all_is_there_it_is_silent(path: Path) -> None:
    assert "cudnn" in needs.look_for_all(Path(sys.executable), 13)
    hide(path, "cudnn")
    assert "cudnn" not in needs.look_for_all(Path(sys.executable), 13)


def test_what_is_lacking_is_named_in_one_line(path: Path) -> None:
    """Which packages, why one that is there cannot be imported, and what to do with a network and without."""
    hide(path, "array_api_strict")
    hide(path, "cudnn")
    (path / "h5py.py").write_text("raise ImportError('libhdf5.so.310:\\n not found')")
    (path / "cupy.py").write_text("import no_such_module")
    with pytest.raises(SystemExit) as raised:
        needs.look_for_all(Path(sys.executable), 12)
    line = one_line(raised)
    cupy = "cupy-cuda12x (No module named 'no_such_module')"
    assert f"{sys.executable} lacks h5py (libhdf5.so.310: not found), {cupy}, array-api-strict. " in line
    wanted = "'h5py>=3.11' 'cupy-cuda12x[ctk]>=14' 'array-api-strict>=2.3'"
    assert f"With a network, run `{sys.executable} -m pip install {wanted}`. " in line
    version = f"--python-version {sys.version_info.major}.{sys.version_info.minor} "
    assert version in line
    assert f"-d wheels {wanted} 'nvidia-cudnn-frontend>=1.23,<1.29'` in this repository" in line
    assert f"run here `{sys.executable} -m pip install --no-index --no-deps --target site wheels/*.whl && " in line
    assert "pip wheel" not in line
    assert "entry point" not in line


def test_entry_points_that_are_not_registered_are_lacking(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the package's metadata are of an older version."""
    text = (needs.ROOT / "pyproject.toml").read_text()
    backends = '[project.entry-points."tinyddpm.backends"]\n'
    (tmp_path / "pyproject.toml").write_text(text.replace(backends, f'{backends}abacus = "tinyddpm:Abacus"\n'))
    monkeypatch.setattr(needs, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as raised:
        needs.look_for_all(Path(sys.executable), 13)
    line = one_line(raised)
    assert re.search(r" lacks 1 of this package's \d+ entry points, such as tinyddpm.backends:abacus\. ", line)
    assert f"With a network, run `{sys.executable} -m pip install --no-deps -e {tmp_path}`. " in line
    assert "first run `pip wheel --no-deps -w wheels .` in this repository" in line


def test_a_bare_python_lacks_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(SystemExit) as raised:
        needs.look_for_all(bare, 13)
    line = one_line(raised)
    packages = ", ".join(needs.MODULES.values()).replace("cupy", "cupy-cuda13x")
    count = re.search(rf"^tests/gpu/run: {bare} lacks {packages}, (\d+) of this package's (\d+) entry points", line)
    assert count is not None
    assert count[1] == count[2]
