"""The plan of the house: a package imports only from those above it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tinyddpm

ROOT = Path(tinyddpm.__file__).parent

ROOMS = (
    "errors", "files", "kept", "hdf5", "registry", "progress", "machine", "backend", "distributed", "ops", "nn",
    "conditions", "diffusion", "samplers", "guidance", "editing", "data", "transforms", "presets", "model", "figures",
    "metrics", "training", "report", "exchange", "testing", "bench", "face", "cli",
)  # fmt: skip
"""From the ground up."""

ADDRESS = re.compile(r"tinyddpm(?:\.\w+)+:\w+")
"""What is imported by its name as a text, `module:attribute`."""


NAMED = {
    "tinyddpm.ops": "backend/base.py",
    "tinyddpm.ops.numpy_operations": "backend/numpy_backend.py",
    "tinyddpm.ops.numba_operations": "backend/numba_backend.py",
    "tinyddpm.ops.numba.random": "backend/numba_backend.py",
    "tinyddpm.ops.torch_operations": "backend/torch_backend.py",
    "tinyddpm.ops.cupy_operations": "backend/cupy_backend.py",
    "tinyddpm.ops.cuda.random": "backend/cupy_backend.py",
    "tinyddpm.ops.cuda.cudnn_frontend": "backend/cupy_backend.py",
}
"""What is made for a backend, and the backend that names it, to be loaded when it is asked for."""


def room(module: str) -> str:
    return module.split(".")[1]


def imports(source: str) -> Iterator[str]:
    """Yield the modules of the package that a source imports, or names as what to import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "tinyddpm":
            yield from (f"tinyddpm.{name.name}" for name in node.names if not name.name.startswith("__"))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ADDRESS.fullmatch(node.value):
            yield node.value.partition(":")[0]


FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or not path.name.startswith("__"))


def wrong(own: str, source: str) -> list[str]:
    """Return what a source of a room imports that lies above it, or in no room."""
    inside = [module for module in imports(source) if module.startswith("tinyddpm.")]
    return [module for module in inside if room(module) not in ROOMS[: ROOMS.index(own) + 1]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_is_built_on_those_below(path: Path) -> None:
    name = path.relative_to(ROOT)
    upwards = wrong(name.with_suffix("").parts[0], path.read_text(encoding="utf-8"))
    assert upwards == [module for module in upwards if NAMED.get(module) == name.as_posix()]


def test_what_lies_above_is_noticed() -> None:
    """However it is imported, by a text too; a room that is not in the plan as well."""
    lines = {
        "from tinyddpm.training.run import start": "tinyddpm.training.run",
        "def f():\n    import tinyddpm.cli": "tinyddpm.cli",
        "from tinyddpm import model": "tinyddpm.model",
        "where = 'tinyddpm.nn.unet:UNet'": "tinyddpm.nn.unet",
        "from tinyddpm.attic import old": "tinyddpm.attic",
    }
    for line, module in lines.items():
        assert wrong("ops", line) == [module]
    assert wrong("training", "from tinyddpm.ops import Operations\nfrom tinyddpm.training.run import start") == []
