"""Progress lines, metrics files and interrupts."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinyddpm.errors import DataError
from tinyddpm.progress import Progress, duration
from tinyddpm.training.interrupt import SIGNALS, Interrupt, interruptible
from tinyddpm.training.metrics import Metrics


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the progress takes for the time, in seconds; it stands still until it is set."""
    found = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("tinyddpm.progress.time", SimpleNamespace(monotonic=lambda: found.now))
    return found


def test_plain_lines_come_by_time(clock: SimpleNamespace) -> None:
    """Away from a terminal: after 5 seconds, then every 30, and at the end; of quick work and of slow."""
    stream = io.StringIO()
    progress = Progress(stream)
    for second in range(1, 101):
        clock.now += 1
        progress.update(second, 100, f"loss {second}")
    assert stream.getvalue().splitlines() == [f"{second}/100  loss {second}" for second in (5, 35, 65, 95, 100)]
    for step in range(1, 100_001):
        clock.now += 1e-4
        progress.update(step, 100_000, "quick")
    for step in range(1, 4):
        clock.now += 1000
        progress.update(step, 4, "slow")
    rest = stream.getvalue().splitlines()[5:]
    assert rest == ["100000/100000  quick", "1/4  slow", "2/4  slow", "3/4  slow"]
    assert "\r" not in stream.getvalue()


def test_one_rewritten_line_on_a_terminal() -> None:
    stream = Terminal()
    progress = Progress(stream)
    for step in range(1, 1001):
        progress.update(step, 1000, "loss")
    progress.say("done")
    rewritten, line = stream.getvalue().split("\n")[:2]
    assert rewritten.split("\r")[-1].strip() == "1000/1000  loss"
    assert line == "done"


@pytest.mark.parametrize("terminal", [False, True])
def test_what_cannot_be_written_is_left_out(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a full disk, into a pipe without a reader, to a stream that was closed, and where there is none."""
    kind = Terminal if terminal else io.StringIO

    class Failing(kind):
        error: Exception

        def write(self, text: str) -> int:
            raise self.error

    closed = kind()
    closed.close()
    streams = [closed]
    for number in (errno.EPIPE, errno.ENOSPC, errno.EIO):
        streams.append(Failing())
        streams[-1].error = OSError(number, "cannot")
    monkeypatch.setattr("sys.stderr", None)
    for stream in [*streams, None]:
        progress = Progress(stream)
        progress.update(1, 2, "half")
        progress.say("a line")
        progress.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0.4, "0s"),
        (59.6, "1m00s"),
        (150, "2m30s"),
        (3900, "1h05m"),
        (172_799, "47h59m"),
        (180_000, "2d02h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def quiet(line: str) -> None:
    raise AssertionError(line)


def test_metrics_of_steps_to_be_done_again_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Metrics(path, 0, quiet)
    for step in (10, 20, 30):
        first.append(step=step, loss=1 / step)
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    Metrics(path, 20, quiet).append(step=30, loss=0.5)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 10, "loss": 0.1},
        {"step": 20, "loss": 0.05},
        {"step": 30, "loss": 0.5},
    ]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[1]",
        b"3",
        b'{"loss": 1}',
        b'{"step": "5"}',
        b'{"step": -1}',
        b'{"step": true}',
        b"\xff",
        b"\x00",
    ],
)
def test_one_bad_line_of_metrics_costs_no_other(bad: bytes, tmp_path: Path) -> None:
    """What can be read is kept to the byte, and the file as it was is set aside; a line that is empty is no loss."""
    path, lines = tmp_path / "metrics.jsonl", [b'{"step": %d, "loss": 0.50}\n' % step for step in range(25)]
    path.write_bytes(b"".join([*lines[:2], bad + b"\n", *lines[2:]]))
    damaged, said = path.read_bytes(), []
    for number in ("", "-2"):
        Metrics(path, 22, said.append)
        assert path.read_bytes() == b"".join(lines[:23])
        if not bad:
            assert (said, list(tmp_path.iterdir())) == ([], [path])
            return
        aside = tmp_path / f"metrics-damaged{number}.jsonl"
        assert (
            said.pop()
            == f"note: 1 line of {path} cannot be read; the others are kept, and the file as it was is {aside}"
        )
        assert aside.read_bytes() == damaged
        path.write_bytes(damaged)


def test_metrics_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0, quiet)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"^cannot write \S*metrics.jsonl: "):
        metrics.append(step=1)
    with pytest.raises(DataError, match=r"^\S*metrics.jsonl is no file: move it away"):
        Metrics(path, 0, quiet)
    if hasattr(os, "mkfifo"):
        path.rmdir()
        os.mkfifo(path)
        with pytest.raises(DataError, match=r"^\S*metrics.jsonl is no file: move it away"):
            Metrics(path, 0, quiet)


def test_metrics_whose_disk_fails_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.touch()

    def failing(_: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(DataError, match=r"^cannot read \S*metrics.jsonl: Input/output error; check its permissions$"):
        Metrics(path, 0, quiet)


@pytest.fixture
def acted() -> Iterator[list[signal.Signals]]:
    """The signals that acted as they would without us; their handlers are put back."""
    found: list[signal.Signals] = []
    before = {n: signal.signal(n, lambda n, _: found.append(signal.Signals(n))) for n in SIGNALS}
    try:
        yield found
        assert all(signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN) for number in SIGNALS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_noted_and_the_second_acts(number: signal.Signals, acted: list[signal.Signals]) -> None:
    with interruptible() as interrupt:
        assert interrupt.signal is None
        signal.raise_signal(number)
        assert interrupt.signal == number
        assert not acted
        signal.raise_signal(number)
        assert acted == [number]
    signal.raise_signal(number)
    assert acted == [number, number]


def test_signals_wait_while_saving(acted: list[signal.Signals]) -> None:
    """However many come: the save is finished, and the first is what ends the run."""
    with interruptible() as interrupt:
        interrupt.saving = True
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGINT, signal.SIGINT):
            signal.raise_signal(number)
        assert not acted
        assert interrupt.signal == signal.SIGTERM
        interrupt.saving = False
        signal.raise_signal(signal.SIGINT)
        assert acted == [signal.SIGINT]


def test_a_signal_that_a_host_program_handles_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler is none of Python's: `getsignal` has none to put back."""
    before = signal.getsignal(signal.SIGTERM)
    known = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else known(number))
    with interruptible() as interrupt:
        assert known(signal.SIGTERM) == before
        signal.raise_signal(signal.SIGINT)
        assert interrupt.signal == signal.SIGINT


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    """Where Python lets nobody catch them; the caller's own interrupt is yielded all the same."""
    given, before = Interrupt(), [signal.getsignal(number) for number in SIGNALS]

    def inside() -> tuple[bool, bool]:
        with interruptible(given) as interrupt:
            return interrupt is given, [signal.getsignal(number) for number in SIGNALS] == before

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() == (True, True)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_terminal_that_closes_is_heard_once(acted: list[signal.Signals]) -> None:
    """The kernel and the shell both send SIGHUP, and a service manager SIGTERM with it: none of them kills."""
    with interruptible() as interrupt:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert interrupt.signal == signal.SIGHUP
        assert not acted
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible() as interrupt:
        signal.raise_signal(signal.SIGHUP)
        assert interrupt.signal is None, "nohup"
    assert signal.signal(signal.SIGHUP, lambda *_: None) == signal.SIG_IGN
