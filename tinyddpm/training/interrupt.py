"""Stopping on Ctrl-C or SIGTERM: noticed between steps, so that the step in progress is finished and saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interrupt:
    """Whether somebody asked to stop, and by which signal."""

    signal: signal.Signals | None = None


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Turn the first SIGINT or SIGTERM into a note on the yielded object; a second one acts as it would without this.

    Outside the main thread, where signals cannot be caught, nothing is changed.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        interrupt.signal = signal.Signals(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield interrupt
    finally:
        restore()
