"""A process for each contestant, so that none of them changes the threads or the memory of another."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tinyddpm.bench.peers import load_peer
from tinyddpm.bench.task import Contestant, Task
from tinyddpm.errors import ConfigError, TinyDDPMError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables from which numerical libraries read their number of threads when they are loaded."""


class BenchError(TinyDDPMError):
    """A contestant failed."""


class PeerError(BenchError):
    """A peer failed."""


class Runner:
    """A contestant in a process of its own. The process starts at once; `ready` waits until the contestant is made.

    The process ends when its parent does, in whatever way the parent ends.

    Args:
        name: the contestant's name.
        source: the peer's file; None for this library.
        variant: name of one of the peer's variants.
        task: network and steps to run.
    """

    def __init__(self, name: str, source: Path | None, variant: str, task: Task) -> None:
        self.name = name
        self._error = PeerError if source else BenchError
        self._asked = 0
        # Spawned, not forked: a fork would inherit this process's memory and the libraries it has loaded.
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, source, variant, task))
        self._process.start()
        theirs.close()
        self.description = ""

    def ready(self) -> None:
        """Wait until the contestant is made."""
        self.description = self._answer()

    def turn(self, kind: str, seconds: float) -> float:
        """Run `train_step` or `denoise_step` for at least this long, at least once; return the seconds of one step."""
        return float(self.ask("turn", kind, seconds))

    def memory(self) -> int | None:
        """Return the bytes by which the process has grown at its peak since before its network was made.

        For a contestant on a GPU, return the peak of GPU memory that it reports. None if unknown.
        """
        found: int | None = self.ask("memory")
        return found

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the contestant with these arguments, and return its result.

        Raises:
            BenchError: the call failed; PeerError for a peer. The line says how.
        """
        self._asked += 1
        with suppress(ConnectionError):  # the process has died, which `_answer` reports
            self._pipe.send((self._asked, method, arguments))
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def _answer(self) -> Any:
        """Return the answer to the latest request. Skip the answer to an earlier one, which an interrupt cut short."""
        answered, failure = None, None
        try:
            while answered != self._asked and not failure:
                answered, failure, value = self._pipe.recv()
        except (EOFError, ConnectionError) as cause:
            self._process.join()
            code = self._process.exitcode
            raise self._error(f"{self.name} died with exit code {code}: it may have run out of memory") from cause
        if failure:
            raise self._error(f"{self.name}: {failure}")
        return value


class _Server:
    """The object that answers requests in the contestant's process."""

    def __init__(self, source: Path | None, variant: str, task: Task) -> None:
        make = load_peer(source).make if source else _make_ours(task)
        self._gpu, self._before = task.gpu, _resident_bytes("VmRSS")
        self.contestant = make(task, variant)
        if self.contestant.parameters != task.parameters:
            raise ConfigError(
                f"its network has {self.contestant.parameters:,} parameters, ours {task.parameters:,}: not the same"
            )

    def turn(self, kind: str, seconds: float) -> float:
        """See `Runner.turn`."""
        step: Callable[[], None] = getattr(self.contestant, kind)
        count, elapsed, began = 0, 0.0, time.perf_counter()
        while count == 0 or elapsed < seconds:
            step()
            count += 1
            elapsed = time.perf_counter() - began
        return elapsed / count

    def memory(self) -> int | None:
        """See `Runner.memory`."""
        if self._gpu:
            of_gpu: Callable[[], int | None] = getattr(self.contestant, "gpu_memory", lambda: None)
            return of_gpu()
        peak = _resident_bytes("VmHWM")
        return None if peak is None or self._before is None else max(0, peak - self._before)


def _serve(pipe: Connection[Any, Any], source: Path | None, variant: str, task: Task) -> None:
    """Make the contestant, and answer requests until the pipe is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    os.dup2(2, 1)  # libraries must not print into the parent's output
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(task.threads)))
    number = 0
    try:
        server = _Server(source, variant, task)
        pipe.send((number, None, server.contestant.describe()))
        for number, method, arguments in _requests(pipe):
            owner = server if hasattr(server, method) else server.contestant
            pipe.send((number, None, getattr(owner, method)(*arguments)))
    except Exception as error:  # foreign code may raise anything; the parent gets one line
        text = " ".join(str(error).split())[:300]
        failure = text if isinstance(error, TinyDDPMError) else f"{type(error).__name__}: {text}"
        pipe.send((number, failure, None))
        raise SystemExit(1) from error


def _end_with_parent() -> None:
    """End this process when its parent has ended, even in the middle of a step: nobody waits for the result."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_ours(task: Task) -> Callable[[Task, str], Contestant]:
    """Return the function that makes our contestant; import all that it computes with, as importing a peer's file does.

    So neither counts its libraries as memory of its network. They read `THREAD_VARIABLES`, which are set by now.
    """
    from tinyddpm.backend import load_backend
    from tinyddpm.bench.ours import Ours
    from tinyddpm.ops import load_operations

    load_operations(load_backend(task.config.backend, task.config.device, task.config.precision))
    return lambda task, variant: Ours(task)


def _requests(pipe: Connection[Any, Any]) -> Iterator[tuple[int, str, tuple[Any, ...]]]:
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


def _resident_bytes(field: str) -> int | None:
    """Return VmRSS, the memory of this process, or VmHWM, its peak, in bytes; None where there is no /proc.

    getrusage is of no use here: its peak includes that of the parent at the start of the process.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
