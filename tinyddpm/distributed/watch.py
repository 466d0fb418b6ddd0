"""Whether the other ranks are still there: each tells rank 0 so once a second, and rank 0 tells all.

A rank that waits in a sum for one that has died would wait for ever. So this goes by connections of its own.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait

from tinyddpm.errors import RankError, shown

BEAT = 1.0
"""Seconds between two signs of life."""

SILENCE = 15.0
"""Seconds without one after which a rank counts as lost."""

NOTICE = 2.0
"""Seconds that a rank is given to notice that another is lost, before sums on its device are given up."""

PATIENCE = 12.0
"""Seconds that it is given before its process is ended: so all end within half a minute of the last sign of life."""

ALIVE, GOODBYE, FAILED = b".", b"bye", b"!"


class Watch:
    """The connections between rank 0 and the others, and a thread that listens to them.

    Args:
        rank: this one.
        places: where each rank is, in words.
        connections: by rank: rank 0's to all others, any other's to rank 0.

    Attributes:
        failure: what happened to a rank; None as long as all are well.
        lost: the ranks that do nothing any more.
        left: those that have said goodbye.
        noticed: whether this rank knows of the failure, and ends by itself.
        wake: what has the device give up its sums; None where there are none.
        woken: whether it was called.
    """

    def __init__(self, rank: int, places: Sequence[str], connections: dict[int, Connection]) -> None:
        self.rank, self.places = rank, places
        self.failure: str | None = None
        self.lost: set[int] = set()
        self.left: set[int] = set()
        self.wake: Callable[[], None] | None = None
        self.woken = False
        self._connections = connections
        self.noticed, self._leaving = False, False
        self._thread = threading.Thread(target=self._listen, name="watch of ranks", daemon=True)
        self._thread.start()

    def check(self, error: type[RankError] = RankError) -> None:
        """Raise an error if a rank is lost or has given up."""
        if self.failure:
            self.noticed = True
            raise error(self.failure)

    @property
    def speaks(self) -> bool:
        """Whether this is the first of the ranks that are not lost."""
        return self.lost.issuperset(range(self.rank))

    def give_up(self, why: str) -> None:
        """Tell the others why this rank gives up."""
        self.noticed = True
        self._fail(f"rank {self.rank} ({self.places[self.rank]}) gave up: {shown(why)}")

    def leave(self) -> None:
        """Tell the others that this rank ends."""
        self._leaving = True
        for connection in self._connections.values():
            _send(connection, GOODBYE)

    def _listen(self) -> None:
        """Hear the others until all have left, or this rank's process ends."""
        heard = dict.fromkeys(self._connections, time.monotonic())
        ranks = {connection: rank for rank, connection in self._connections.items()}
        woke, since, told = time.monotonic(), 0.0, 0.0
        while ranks or (self.failure and not self.noticed):
            for connection in wait(list(ranks), timeout=BEAT / 2):
                assert isinstance(connection, Connection)
                rank = ranks[connection]
                try:
                    said = connection.recv_bytes()
                except (EOFError, OSError):
                    said = GOODBYE if self._leaving else b""
                heard[rank] = time.monotonic()
                if said == GOODBYE or not said:
                    del ranks[connection]
                    if said:
                        self.left.add(rank)
                    else:
                        self._lose(rank, "died")
                elif said.startswith(FAILED):
                    lost, _, what = said[1:].decode("utf-8", "replace").partition(" ")
                    self._fail(what, int(lost) if lost else None)
            now = time.monotonic()
            if now - woke > SILENCE / 2:  # this process was itself stopped, perhaps with all others
                heard = dict.fromkeys(heard, now)
            woke = now
            due = now - told >= BEAT
            told = now if due else told
            for connection, rank in list(ranks.items()):
                if due:  # and no oftener: each sign would be answered by another
                    _send(connection, ALIVE)
                if now - heard[rank] > SILENCE:
                    del ranks[connection]
                    self._lose(rank, f"has given no sign of life for {SILENCE:.0f} s")
            if self.failure and not self.noticed:
                since = since or now
                if now - since > NOTICE and self.wake and not self.woken:
                    self.woken = True
                    threading.Thread(target=self.wake, name="end of sums", daemon=True).start()
                if now - since > PATIENCE:
                    self._end()
            else:
                since = 0.0

    def _lose(self, rank: int, how: str) -> None:
        self._fail(f"rank {rank} ({self.places[rank]}) {how}", rank)

    def _fail(self, what: str, lost: int | None = None) -> None:
        """Note what happened, the first thing only, and tell it to the others that this rank is connected with."""
        if lost is not None:
            self.lost.add(lost)
        if self.failure is None:
            self.failure = what
            for connection in self._connections.values():
                _send(connection, FAILED + f"{'' if lost is None else lost} {what}".encode())

    def _end(self) -> None:
        """End the process, whose main thread waits for what never comes."""
        if self.speaks:
            with suppress(OSError, ValueError, AttributeError):
                print(f"Error: {self.failure}", file=sys.__stderr__, flush=True)
        os._exit(1)


class Door:
    """What the other ranks connect to, on a free port of rank 0's machine; a thread lets them in.

    Args:
        host: "localhost", or "" for all of the machine's addresses.
        others: how many ranks will come.
        key: what they have to know.

    Attributes:
        port: the port.
    """

    def __init__(self, host: str, others: int, key: bytes) -> None:
        self._listener = Listener((host, 0), backlog=1024, authkey=key)
        self.port = int(self._listener.address[1])
        self._others, self._found = others, dict[int, Connection]()
        self._thread = threading.Thread(target=self._let_in, name="door of ranks", daemon=True)
        self._thread.start()

    def all(self) -> dict[int, Connection]:
        """Return the connection of each rank, when all are there."""
        self._thread.join()
        return self._found

    def _let_in(self) -> None:
        while len(self._found) < self._others:
            with suppress(OSError, EOFError, AuthenticationError):  # somebody else knocked
                connection = self._listener.accept()
                self._found[int.from_bytes(connection.recv_bytes(8))] = connection
        self._listener.close()


def connect(address: tuple[str, int], rank: int, key: bytes) -> Connection:
    """Return this rank's connection to rank 0."""
    connection: Connection = Client(address, authkey=key)
    connection.send_bytes(rank.to_bytes(8))
    return connection


def place() -> str:
    """Return where this process is, in words."""
    return f"process {os.getpid()} on {platform.node()}"


def _send(connection: Connection, message: bytes) -> None:
    with suppress(OSError, ValueError):  # the thread hears of it when it listens
        connection.send_bytes(message)
