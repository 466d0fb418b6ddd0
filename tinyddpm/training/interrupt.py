"""Stopping by a signal: the loop checks for it between steps, so that the current step is finished and saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import Signals
from types import FrameType

from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.progress import Progress

SIGNALS = tuple(Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
"""Ctrl-C, the system's request to terminate, and a closed terminal (SIGHUP on POSIX, SIGBREAK on Windows)."""

REPEATED = ("SIGHUP", "SIGBREAK")
"""Signals that a closing terminal sends twice: itself, and through the shell."""


@dataclass
class Interrupt:
    """A request to stop.

    Attributes:
        signal: the first signal that asked to stop, or None.
        saving: whether a checkpoint is being written; a repeated signal then does not end the process.
    """

    signal: Signals | None = None
    saving: bool = False

    def agree(self, group: Group) -> Signals | None:
        """Return the signal that any rank has received, and note it on all ranks; None if there is none."""
        found = group.most(int(self.signal or 0))
        if not found:
            return None
        self.signal = Signals(found)
        return self.signal


@contextmanager
def interruptible(interrupt: Interrupt | None = None) -> Iterator[Interrupt]:
    """Record signals on the yielded `Interrupt`, a new one or `interrupt`, instead of ending the process.

    A second signal of the same kind has its usual effect, except while the object is `saving`, and except those in
    `REPEATED`. An ignored SIGHUP, as under `nohup`, stays ignored, and a signal that a host program of Python handles
    stays with it. Outside the main thread Python cannot catch signals, and nothing changes.
    """
    interrupt = interrupt or Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    # A handler that a host program installed is None here, and could not be put back.
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not None}
    seen: set[Signals] = set()

    def note(number: int, frame: FrameType | None) -> None:
        which = Signals(number)
        interrupt.signal = interrupt.signal or which
        again = which in seen and which.name not in REPEATED
        seen.add(which)
        if again and not interrupt.saving:
            signal.signal(which, before[which])
            signal.raise_signal(which)

    for number, handler in before.items():
        if not (handler == signal.SIG_IGN and number.name in REPEATED):
            signal.signal(number, note)
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopped(Exception):  # noqa: N818 - not an error: a user asked to stop
    """Raised by a `Stoppable` that was asked to stop, by `signal`."""

    def __init__(self, number: Signals) -> None:
        super().__init__(number.name)
        self.signal = number


class Stoppable(Progress):
    """A progress line that ends the work it reports on, between two steps, once its `interrupt` has a signal.

    Args:
        group: the ranks that work together and report equally often: all stop when one has a signal.
    """

    def __init__(self, group: Group = ALONE) -> None:
        super().__init__()
        self.group, self.interrupt = group, Interrupt()

    def update(self, done: int, total: int, text: str) -> None:
        """Report that `done` of `total` steps are done, with `text`.

        Raises:
            Stopped: a signal asked to stop.
        """
        super().update(done, total, text)
        found = self.interrupt.agree(self.group)
        if found:
            raise Stopped(found)
