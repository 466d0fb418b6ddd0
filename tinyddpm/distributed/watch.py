"""The watch over ranks: each rank sends rank 0 a sign of life every second, and rank 0 sends its own to all.

A rank that waits in a sum for a dead rank would wait for ever. So the watch has connections of its own.
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
"""Seconds without a sign of life after which a rank counts as lost."""

NOTICE = 2.0
"""Seconds after a failure in which the main thread may notice it, before the sums on its device are abandoned."""

PATIENCE = 12.0
"""Seconds after a failure before the process is ended: all end within half a minute of the last sign of life."""

ALIVE, GOODBYE, FAILED = b".", b"bye", b"!"
"""Messages between ranks: a sign of life, the end of a rank, and the beginning of a message of failure."""


class Watch:
    """The connections between rank 0 and the others, and a thread that listens to them.

    Args:
        rank: the number of this rank.
        places: a text for each rank that names its process and machine.
        connections: connections by rank: rank 0's to all others, any other rank's to rank 0.

    Attributes:
        failure: a text about the first failure of a rank; None as long as there is none.
        lost: the ranks that no longer respond.
        left: the ranks that have sent goodbye.
        noticed: whether the main thread knows of the failure, and ends the process itself.
        wake: function that makes the device abandon its sums; None if it has none.
        woken: whether `wake` was called.
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
        """Raise `error` if a rank is lost or has given up."""
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
        """Receive and send messages until all others have left, or end the process after a failure."""
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
            if now - woke > SILENCE / 2:  # this process itself was stopped, perhaps with all others
                heard = dict.fromkeys(heard, now)
            woke = now
            due = now - told >= BEAT
            told = now if due else told
            for connection, rank in list(ranks.items()):
                if due:  # not at each message: the other side would answer each sign with another
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
        """Store the first failure, and send it to the ranks that this one is connected with."""
        if lost is not None:
            self.lost.add(lost)
        if self.failure is None:
            self.failure = what
            for connection in self._connections.values():
                _send(connection, FAILED + f"{'' if lost is None else lost} {what}".encode())

    def _end(self) -> None:
        """End the process, whose main thread waits for a rank that will never answer."""
        if self.speaks:
            with suppress(OSError, ValueError, AttributeError):
                print(f"Error: {self.failure}", file=sys.__stderr__, flush=True)
        os._exit(1)


class Door:
    """Rank 0's listener, on a free port; a thread accepts the connections of the other ranks.

    Args:
        host: "localhost", or "" for all of the machine's addresses.
        others: number of ranks that will connect.
        key: the secret by which they authenticate.

    Attributes:
        port: the number of the port.
    """

    def __init__(self, host: str, others: int, key: bytes) -> None:
        self._listener = Listener((host, 0), backlog=1024, authkey=key)
        self.port = int(self._listener.address[1])
        self._others, self._found = others, dict[int, Connection]()
        self._thread = threading.Thread(target=self._let_in, name="door of ranks", daemon=True)
        self._thread.start()

    def all(self) -> dict[int, Connection]:
        """Wait until all ranks have connected, and return their connections by rank."""
        self._thread.join()
        return self._found

    def _let_in(self) -> None:
        while len(self._found) < self._others:
            with suppress(OSError, EOFError, AuthenticationError):  # a program that is no rank tried to connect
                connection = self._listener.accept()
                self._found[int.from_bytes(connection.recv_bytes(8))] = connection
        self._listener.close()


def connect(address: tuple[str, int], rank: int, key: bytes) -> Connection:
    """Return this rank's connection to rank 0."""
    connection: Connection = Client(address, authkey=key)
    connection.send_bytes(rank.to_bytes(8))
    return connection


def place() -> str:
    """Return a text that names this process and its machine."""
    return f"process {os.getpid()} on {platform.node()}"


def _send(connection: Connection, message: bytes) -> None:
    with suppress(OSError, ValueError):  # the thread notices a broken connection when it listens
        connection.send_bytes(message)
