"""Compiled functions are compiled once: by processes beside each other, before they are called, and kept on disk."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinyddpm.ops.numba import compiling

pytestmark = pytest.mark.slow

KERNELS = """
import sys
import numpy as np
from tinyddpm.ops.numba.compiling import ahead, compiled
from made_up_helpers import doubled

@ahead("f4[:, ::1], i8, b1")
@compiled
def one(x, k, negative):
    total = np.float32(0)
    for row in x:
        for value in row:
            total += doubled(value)
    return -k * total if negative else k * total

@ahead("f4[::1], i8")
@ahead("f4[::1], f8")
@compiled
def two(x, by):
    return doubled(x[0]) * by
"""
HELPERS = """
from tinyddpm.ops.numba.compiling import compiled

@compiled
def doubled(x):
    return 2 * x
"""
RUN = """
import numpy as np
from numba.core import event
from tinyddpm.ops.numba.preparing import prepare
import made_up_kernels as kernels

x = np.ones((2, 3), np.float32)
with event.install_recorder("numba:compile") as here:
    prepare(2)
    results = kernels.one(x, 5, True), kernels.two(x[0], 2), kernels.two(x[0], 3.0)
    print(*results, len(here.buffer) // 2)
"""
EVERYTHING = """
import sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from helpers.operations import ALL_SHAPES, make_case
from tinyddpm.backend import load_backend
from tinyddpm.bench.ours import Ours
from tinyddpm.bench.task import Task
from tinyddpm.model.config import Config
from tinyddpm.ops import load_operations
from tinyddpm.ops.numba.compiling import AHEAD

def steps(shape, classes, **tables):
    training = {"batch_size": 9, "threads": 2, **tables.pop("training", {})}
    config = Config.from_dict({"backend": "numba", "training": training, "sampling": {"steps": 2}, **tables})
    contestant = Ours(Task(config, shape, classes, parameters=0))
    contestant.train_step(), contestant.train_step(), contestant.denoise_step()

ops = load_operations(load_backend("numba"), training=True)
for operation, shape in ALL_SHAPES:
    case = make_case(operation, shape, seed=1).astype(np.float32)
    y, saved = case.forward(ops)
    case.backward(ops, saved, case.dy(y, np.random.default_rng(1)))
small = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.2}
steps((8, 8, 3), 4, network=small, data={"labels": True})
adaptive = {**small, "adaptive": True, "heads": 2}
steps((8, 4, 1), 0, network={**adaptive, "attention": "auto"}, training={"loss": "hybrid", "recompute": True})
steps((2,), 0, network={"name": "mlp", "width": 8})

modules = [module for name, module in sys.modules.items() if name.startswith("tinyddpm.ops.numba.")]
functions = {item for module in modules for item in vars(module).values() if isinstance(item, Dispatcher)}
called = {(function, types) for function in functions for types in function.overloads}
print(len(called))
print(*(f"{function.__name__}{types}" for function, types in called.difference(AHEAD)))
"""
SAID = re.compile(r"compiling \d functions for this machine, once: \d+s\n")

TESTS = Path(__file__).parents[1]


class Folder:
    """Kernels in two files, and processes that call them; a cache folder of the user's that nothing else is in."""

    def __init__(self, path: Path) -> None:
        self.path, self.user = path / "kernels", path / "user"
        self.path.mkdir(parents=True)
        self.write(made_up_kernels=KERNELS, made_up_helpers=HELPERS)

    def write(self, **sources: str) -> None:
        for name, source in sources.items():
            (self.path / f"{name}.py").write_text(source)

    def run(self, script: str = RUN) -> tuple[str, str]:
        """Return what a new process prints, and what it says on standard error."""
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.user), "PYTHONPATH": f"{self.path}{os.pathsep}{TESTS}"}
        environment.pop("NUMBA_CACHE_DIR", None)
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # else bytecode hides a change made within a second
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr

    def cached(self) -> set[Path]:
        """Return the folders that hold compiled code."""
        return {file.parent for file in (*self.path.rglob("*.nbc"), *self.user.rglob("*.nbc"))}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_compiled_ahead_by_others_and_once(folder: Folder) -> None:
    """The first process says so, in one line, and compiles nothing itself; the next finds all of it."""
    printed, said = folder.run()
    assert printed == "-60.0 4.0 6.0 0"
    assert SAID.fullmatch(said)
    assert folder.cached() == {folder.path / "__pycache__"}
    assert folder.run() == ("-60.0 4.0 6.0 0", "")


@pytest.mark.parametrize(
    "ended", ["sys.stderr = None", "read, write = os.pipe(); os.close(read); os.dup2(write, 2)"], ids=["closed", "pipe"]
)
def test_a_standard_error_that_takes_nothing_stops_nothing(folder: Folder, ended: str) -> None:
    assert folder.run(f"import os, sys; {ended}\n{RUN}") == ("-60.0 4.0 6.0 0", "")


def test_all_that_training_calls_is_declared(folder: Folder) -> None:
    """Of functions, those of no other types are called: by operations of float32, and by the steps that `bench` times.

    So none of these compiles anything.
    """
    called, *undeclared = folder.run(EVERYTHING)[0].splitlines()
    assert int(called) > 20
    assert undeclared == []


def test_without_preparation_each_is_compiled_when_called(folder: Folder) -> None:
    """What the test above would see if nothing were prepared: one, the helper, and two for two types."""
    assert folder.run(RUN.replace("prepare(2)", "")) == (
        "-60.0 4.0 6.0 4",
        "",
    )


def test_a_change_of_a_helper_reaches_its_callers(folder: Folder) -> None:
    """Of the file that was changed, its callers' own was not: Numba's cache alone returns what it held before."""
    plain = "import numba\ncompiled = numba.njit(cache=True)\nahead = lambda types: lambda function: function\n"
    stale = Folder(folder.path / "stale")
    for one in (stale, folder):
        if one is stale:
            one.write(
                made_up_kernels=KERNELS.replace("from tinyddpm.ops.numba.compiling import ahead, compiled", plain),
                made_up_helpers=HELPERS.replace("from tinyddpm.ops.numba.compiling import compiled", plain),
            )
        one.run()
        helpers = (one.path / "made_up_helpers.py").read_text()
        one.write(made_up_helpers=helpers.replace("2 * x", "3 * x"))
    assert stale.run()[0].startswith("-60.0 4.0 6.0")
    printed, said = folder.run()
    assert printed == "-90.0 6.0 9.0 0"
    assert SAID.fullmatch(said)


def forbid_writing(folder: Path) -> None:
    """Make a folder one that nothing can be written to, for root as well: a file lies where one would be made."""
    (folder / "__pycache__").touch()
    folder.chmod(0o555)


def test_a_folder_that_is_read_only(folder: Folder) -> None:
    """Code is kept in the user's cache folder."""
    forbid_writing(folder.path)
    printed, said = folder.run()
    assert printed == "-60.0 4.0 6.0 0"
    assert SAID.fullmatch(said)
    (kept,) = folder.cached()
    assert kept.parent == folder.user / "numba"
    assert folder.run() == ("-60.0 4.0 6.0 0", "")


def test_nowhere_to_write(folder: Folder) -> None:
    """A process compiles what it calls, for itself."""
    forbid_writing(folder.path)
    folder.user.touch()
    for _ in range(2):
        printed, said = folder.run()
        assert printed.startswith("-60.0 4.0 6.0 ")
        assert printed.split()[-1] != "0"
        assert said == ""


@pytest.mark.parametrize(
    "broken",
    [
        KERNELS.replace("f4[:, ::1], i8, b1", "f4[:, ::1], i8"),
        KERNELS.replace("import sys", "import os, sys\nif 'preparing' in sys.argv[0]: os._exit(3)"),
    ],
    ids=["types that do not fit", "a process that dies"],
)
def test_what_cannot_be_compiled_ahead_is_compiled_when_called(folder: Folder, broken: str) -> None:
    """The line says how many are left, and the results are right."""
    folder.write(made_up_kernels=broken)
    printed, said = folder.run()
    assert printed.startswith("-60.0 4.0 6.0 ")
    assert re.fullmatch(r"compiling 2 functions .*, once: \d+s, [12] of them left for when they are called\n", said)


def test_what_compiled_functions_use_of_this_package_is_watched() -> None:
    """It is all in `ops` and `backend`, whose sources code is kept for; types, which are hints, are not compiled."""
    for file in Path(compiling.__file__).parent.glob("*.py"):
        statements = ast.parse(file.read_text()).body
        imports = (node for node in statements if isinstance(node, ast.ImportFrom) and node.module)
        outside = {
            name.asname or name.name: node.module
            for node in imports
            if node.module.startswith("tinyddpm.") and node.module.split(".")[1] not in ("ops", "backend")
            for name in node.names
        }
        functions = (
            node
            for node in statements
            if isinstance(node, ast.FunctionDef)
            and {ast.unparse(decorator) for decorator in node.decorator_list} & {"compiled", "_reducing", "intrinsic"}
        )
        for function in functions:
            names = {node.id for line in function.body for node in ast.walk(line) if isinstance(node, ast.Name)}
            assert not names & outside.keys(), f"{file.name}: {function.name}"
