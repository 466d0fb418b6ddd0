"""Progress of a run: one line that is rewritten on a terminal, plain lines otherwise."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar, TextIO, TypeAlias, TypeVar

from tinyddpm.errors import shown

T = TypeVar("T")

Watch: TypeAlias = Callable[[int, int, str], None]
"""A function that receives the number done, the total, and the name of the work."""

FIRST, NEXT = 5.0, 30.0
"""Seconds before the first printed line, and between two printed lines."""

REWRITTEN = 0.1
"""Seconds between two updates of a rewritten line."""

PATIENCE = 1.0
"""Seconds at the start of a work without a progress line."""


def unwatched(done: int, total: int, text: str) -> None:
    """Do nothing: a `Watch` for work without a progress line."""


class Progress:
    """A progress line on `stream`, standard error by default.

    On a terminal and in a notebook the line is rewritten, at most ten times a second. Elsewhere, as in a log file,
    lines are printed: the first after five seconds, then one every half minute, and one when the work is done. If a
    line cannot be written, as to a closed pipe, it is dropped and the work continues.

    Attributes:
        open: whose line is being rewritten, at the end of what the terminal shows; None if it has ended.
    """

    open: ClassVar[Progress | None] = None

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream: TextIO | None = stream or sys.stderr  # sys.stderr is None if it is closed
        notebook = type(self.stream).__module__.startswith("ipykernel")
        self.terminal = notebook or (self.stream is not None and not self.stream.closed and self.stream.isatty())
        self._due = 0.0 if self.terminal else time.monotonic() + FIRST

    def update(self, done: int, total: int, text: str) -> None:
        """Show "done/total  text" if a line is due or the work is done."""
        now = time.monotonic()
        if done < total and now < self._due:
            return
        line = shown(f"{done}/{total}  {text}")
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.write("\r" + line[:width].ljust(width))
            self._due, Progress.open = now + REWRITTEN, self
        else:
            self.say(line)
            self._due = now + NEXT

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self.close()
        self.write(shown(line) + "\n")

    def close(self) -> None:
        """End the line that is being rewritten, if any."""
        if Progress.open is self:
            self.write("\n")
            Progress.open = None

    def write(self, text: str) -> None:
        """Write a text as it is, such as a part of a line; drop it if it cannot be written."""
        if self.stream is not None:
            with suppress(OSError, ValueError):  # ValueError if a host program has closed the stream
                self.stream.write(text)
                self.stream.flush()


def end_line() -> None:
    """End the line that is being rewritten, if any: other text follows."""
    if Progress.open:
        Progress.open.close()


@contextmanager
def late(progress: Progress) -> Iterator[Watch]:
    """Give the block a `Watch` that shows each work on `progress` only after its first second; close it at the end.

    A new text begins a new work.
    """
    now, began, told = "", 0.0, False

    def watch(done: int, total: int, text: str) -> None:
        nonlocal now, began, told
        if text != now:
            now, began, told = text, time.monotonic(), False
        told = told or (done < total and time.monotonic() - began >= PATIENCE)
        if told:
            progress.update(done, total, text)

    try:
        yield watch
    finally:
        progress.close()


def watched(things: Iterable[T], total: int, watch: Watch, text: str) -> Iterator[T]:
    """Yield `things`, `total` in number, and call `watch` after each with the number yielded so far."""
    for done, thing in enumerate(things, 1):
        yield thing
        watch(done, total, text)


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units, such as 2d03h, 1h05m, 2m30s or 12s."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours >= 48:
        return f"{hours // 24}d{hours % 24:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
