"""Stopping by a signal: noticed between steps, so that the step in progress is finished and saved."""

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
"""Ctrl-C, the system's request to end, and a terminal that closes, by the name of POSIX and of Windows."""

REPEATED = ("SIGHUP", "SIGBREAK")
"""Those that one terminal sends twice, when it closes: itself, and through the shell."""


@dataclass
class Interrupt:
    """Whether somebody asked to stop, and by which signal; the first one if by several.

    While `saving`, no signal does more than that.
    """

    signal: Signals | None = None
    saving: bool = False

    def agree(self, group: Group) -> Signals | None:
        """Return the signal after which all ranks stop, and note it: that of any of them."""
        found = group.most(int(self.signal or 0))
        if not found:
            return None
        self.signal = Signals(found)
        return self.signal


@contextmanager
def interruptible(interrupt: Interrupt | None = None) -> Iterator[Interrupt]:
    """Turn signals into a note on the yielded object: a new one, or `interrupt`.

    One that comes a second time acts as it would without this, but for those of a terminal that closes, and while the
    object is `saving`. A SIGHUP that is ignored, as by `nohup`, stays so. Outside the main thread, where signals cannot
    be caught, nothing is changed.
    """
    interrupt = interrupt or Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
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


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked to stop
    """What a `Stoppable` raises; `signal` is by which signal it was asked."""

    def __init__(self, number: Signals) -> None:
        super().__init__(number.name)
        self.signal = number


class Stoppable(Progress):
    """A progress line of work that ends between two steps when its `interrupt` has noted a signal.

    Args:
        group: ranks that do the work together, whose steps are as many: all end when one has noted a signal.
    """

    def __init__(self, group: Group = ALONE) -> None:
        super().__init__()
        self.group, self.interrupt = group, Interrupt()

    def update(self, done: int, total: int, text: str) -> None:
        """Say that `done` of `total` are done, and `text`.

        Raises:
            Stopped: somebody has asked to stop.
        """
        super().update(done, total, text)
        found = self.interrupt.agree(self.group)
        if found:
            raise Stopped(found)
