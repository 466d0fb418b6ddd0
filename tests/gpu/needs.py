"""What `tests/gpu/run` needs: it finds what is lacking, and says in one line how to bring it."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]

MODULES = {
    "numpy": "numpy",
    "h5py": "h5py",
    "click": "click",
    "PIL": "pillow",
    "array_api_compat": "array-api-compat",
    "threadpoolctl": "threadpoolctl",
    "filelock": "filelock",
    "cupy": "cupy",
    "ml_dtypes": "ml-dtypes",
    "torch": "torch",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "array_api_strict": "array-api-strict",
    "numba": "numba",
}
"""What must be importable, and the package that brings it."""

OPTIONAL = {"cudnn": "nvidia-cudnn-frontend", "xdist": "pytest-xdist"}
"""What is used where it is importable."""

PROBE = """
import importlib, json, sys
from importlib.metadata import entry_points
modules, points = map(json.loads, sys.argv[1:])
faults = {}
for name in modules:
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        faults[name] = "" if absent else " ".join(str(error).split())
there = {(p.group, p.name, p.value) for group, _, _ in points for p in entry_points(group=group)}
lacking = [point for point in points if tuple(point) not in there]
print(json.dumps({"version": sys.version_info[:2], "faults": faults, "unregistered": lacking}))
"""
"""Prints which modules cannot be imported, why if they are there, and which entry points are not registered."""


def fail(line: str) -> NoReturn:
    """Exit with one line."""
    sys.exit(f"tests/gpu/run: {line}")


def last_line(text: str) -> str:
    """Return the last line of what a command has printed."""
    return text.strip().rpartition("\n")[2]


def cuda_version() -> int:
    """Return the major CUDA version that the driver supports; exit with one line where there is no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        fail("there is no NVIDIA driver here (libcuda.so.1 cannot be loaded): run it beside a GPU")
    version, count = ctypes.c_int(), ctypes.c_int()
    error = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if error or not count.value:
        fail(f"there is an NVIDIA driver but no usable GPU (CUDA error {error}): see nvidia-smi")
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000


def environment(cuda: int) -> Path:
    """Return a Python that has CuPy: this one, or that of a new environment for this version of CUDA."""
    if importlib.util.find_spec("cupy"):
        return Path(sys.executable)
    folder = ROOT / "build" / "gpu"
    python = folder / "bin" / "python"
    if not python.exists():
        extras = "test,cudnn13,nccl13" if cuda >= 13 else "test,cudnn12,nccl12"
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[{extras}]", "diffusers"]
            subprocess.run(install, check=True)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(folder)
            fail(f"{sys.executable} has no CuPy, and an environment cannot be made ({error}): use a Python that has it")
    return python


def look_for_all(python: Path, cuda: int) -> set[str]:
    """Return which of the `OPTIONAL` modules can be imported; exit with one line where anything else is lacking."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points: list[Any] = [(group, *point) for group, named in project["entry-points"].items() for point in named.items()]
    command: list[Any] = [python, "-c", PROBE, *map(json.dumps, ([*MODULES, *OPTIONAL], points))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        fail(f"{python} cannot look for what is needed: {last_line(done.stderr)}")
    found = json.loads(last_line(done.stdout))
    faults, unregistered = found["faults"], found["unregistered"]
    packages = MODULES | {"cupy": "cupy-cuda13x" if cuda >= 13 else "cupy-cuda12x"}
    lacking = [name for name in MODULES if name in faults]
    what = [f"{packages[name]} ({faults[name]})" if faults[name] else packages[name] for name in lacking]
    if unregistered:
        first = ":".join(unregistered[0][:2])
        what.append(f"{len(unregistered)} of this package's {len(points)} entry points, such as {first}")
    if what:
        extras = project["optional-dependencies"].values()
        lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
        ranges = {re.split(r"[^\w-]", line)[0]: line for line in reversed(lines)}
        wanted = [ranges[packages[name]] for name in lacking]
        frontend = [ranges[OPTIONAL["cudnn"]]] if "cudnn" in faults else []
        how = how_to_bring(python, found["version"], wanted, frontend, itself=bool(unregistered))
        fail(f"{python} lacks {', '.join(what)}. {how}")
    return {name for name in OPTIONAL if name not in faults}


def how_to_bring(python: Path, version: list[int], wanted: list[str], frontend: list[str], itself: bool) -> str:
    """Return the commands that install what is wanted, with a network and without.

    Args:
        python: what it is installed for.
        version: major and minor, of that.
        wanted: packages, with the range of their versions.
        frontend: cuDNN's, to be taken along where wheels are fetched, or nothing.
        itself: whether this package is to be installed too.
    """
    pip, chip = f"{python} -m pip", platform.machine()
    # A wheel's platform is matched to the letter.
    platforms = f"--platform manylinux_2_28_{chip} --platform manylinux2014_{chip}"
    target = f"--only-binary=:all: --python-version {'.'.join(map(str, version))} {platforms}"
    install = [f"{pip} install {shlex.join(wanted)}"] * bool(wanted)
    fetch = [f"pip download --no-deps {target} -d wheels {shlex.join([*wanted, *frontend])}"] * bool(wanted or frontend)
    if itself:
        install.append(f"{pip} install --no-deps -e {ROOT}")
        fetch.append("pip wheel --no-deps -w wheels .")
    return (
        f"With a network, run `{' && '.join(install)}`. "
        f"Without one, first run `{' && '.join(fetch)}` in this repository where there is one, "
        "bring the folder wheels, and run here "
        f"`{pip} install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=$PWD/site`"
    )
