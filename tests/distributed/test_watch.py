"""Two watches at the ends of a pipe."""

from __future__ import annotations

import time
from multiprocessing import Pipe
from typing import Any

import pytest

from tinyddpm.distributed import watch
from tinyddpm.distributed.watch import ALIVE, Watch

pytestmark = pytest.mark.slow


def test_a_sign_of_life_is_not_answered_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a second each rank says it at most once a beat: answers to answers would take a processor."""
    monkeypatch.setattr(watch, "BEAT", 0.1)
    said: list[bytes] = []
    send = watch._send

    def noted(connection: Any, message: bytes) -> None:
        said.append(message)
        send(connection, message)

    monkeypatch.setattr(watch, "_send", noted)
    first, second = Pipe()
    watches = [Watch(0, ["here", "there"], {1: first}), Watch(1, ["here", "there"], {0: second})]
    time.sleep(1.0)
    signs = said.count(ALIVE)
    for one in watches:
        one.leave()
    assert 2 <= signs <= 2 * 12
    assert not any(one.failure for one in watches)
