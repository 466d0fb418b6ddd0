"""The contestants' processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tinyddpm.bench import process

pytestmark = pytest.mark.slow

PEER = """
import hashlib, os
from pathlib import Path

class Digger:
    def __init__(self, task, variant):
        self.parameters = task.parameters
    def describe(self):
        return ""
    def train_step(self):
        Path("digging").write_text(str(os.getpid()))
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # one call, a quarter of an hour

def variants(task, compiled):
    return ["digs"]

make = Digger
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_memory_is_what_the_system_says_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use, peak = process._resident_bytes("VmRSS"), process._resident_bytes("VmHWM")
    assert in_use is not None
    assert peak is not None
    assert 2**20 < in_use <= peak
    monkeypatch.setattr(process, "Path", lambda path: Path("nowhere"))
    assert process._resident_bytes("VmRSS") is None


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_benchmark(number: int, tmp_path: Path) -> None:
    """Which is killed while a contestant is deep in a step; all that it started hold its standard error open."""
    (tmp_path / "dig_peer.py").write_text(PEER)
    digging = tmp_path / "digging"
    options = ["--preset", "toy", "--batch-size", "8", "--threads", "1", "--peer", "dig_peer.py"]
    command = [sys.executable, "-m", "tinyddpm", "bench", *options]
    bench = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while not (digging.is_file() and digging.read_text()):
            assert bench.poll() is None
            time.sleep(0.02)
        bench.send_signal(number)
        bench.communicate(timeout=60)
    finally:
        bench.kill()
        if digging.is_file():
            with suppress(ProcessLookupError):
                os.kill(int(digging.read_text()), signal.SIGKILL)
