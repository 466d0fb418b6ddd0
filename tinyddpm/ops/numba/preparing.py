"""Compiling declared functions ahead of their first call, in several processes at once.

Numba compiles one function at a time in a process. Here each process compiles a share of the functions that the cache
on disk lacks, and leaves their code there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cache
from importlib import import_module

from numba.core.errors import NumbaError

from tinyddpm.ops.numba.compiling import AHEAD
from tinyddpm.progress import Progress, duration


@cache
def prepare(processes: int) -> None:
    """Compile all declared functions that the cache on disk lacks, and report their number and the time on stderr.

    A function that is still missing afterwards, because its process died, is compiled when it is first called.
    """
    missing = {item.name: len(item.function.py_func.__code__.co_code) for item in AHEAD if item.is_missing()}
    if not missing:
        return
    began, progress = time.perf_counter(), Progress()
    progress.write(f"compiling {len(missing)} functions for this machine, once: ")
    longest_first = sorted(missing, key=missing.__getitem__, reverse=True)
    try:
        _run([longest_first[i::processes] for i in range(min(processes, len(missing)))])
        left = len({item.name for item in AHEAD if item.is_missing()})
        note = f", {left} of them left for when they are called" if left else ""
        progress.write(f"{duration(time.perf_counter() - began)}{note}")
    finally:
        progress.write("\n")


def _run(shares: list[list[str]]) -> None:
    """Compile each share of names in a process of its own, which has this process's import path, and wait for all."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with ExitStack() as stack:
        children = []
        for names in shares:
            command = [sys.executable, "-m", __name__, *names]
            children.append(stack.enter_context(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)))
            stack.callback(children[-1].terminate)
        for child in children:
            child.wait()


def _compile(names: Iterable[str]) -> None:
    """Compile the functions with these names for all their declared types."""
    for name in names:
        import_module(name.partition(":")[0])
        for function, types in (item for item in AHEAD if item.name == name):
            try:
                function.compile(types)
            except NumbaError:
                continue


if __name__ == "__main__":
    _compile(sys.argv[1:])
