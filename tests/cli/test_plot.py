"""`tinyddpm plot`, as a user meets it: in a pipe, on a terminal, and while a run goes on."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from fcntl import ioctl
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

from helpers import command_line
from tinyddpm.figures.marks import read_mark
from tinyddpm.report.metrics import Logged, last
from tinyddpm.report.screen import follow

pytestmark = pytest.mark.slow

TWO = "loss,validation_loss"

run = partial(command_line.run, "plot")


def log(folder: Path, *steps: int, scale: float = 1.0) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        for step in steps:
            line = {"step": step, "loss": scale / step, "gradient_norm": 1.0, "learning_rate": 1e-3}
            file.write(json.dumps(line | {"samples_per_second": 80.0}) + "\n")
            file.write(json.dumps({"step": step, "validation_loss": 2 * scale / step}) + "\n")


def record(folder: Path, ended: str | None) -> None:
    (folder / "run.json").write_text(json.dumps({"parts": [{"ended": ended}]}))


def test_a_pipe_gets_plain_charts_with_the_last_values(here: Path) -> None:
    log(Path("a"), 1, 10, 100)
    result = run("a")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    titles = [line.split("  ")[0] for line in result.stdout.splitlines() if "  " in line and line[0].isalpha()]
    assert titles == ["loss", "held-out loss", "gradient norm", "learning rate", "samples/s"]
    assert "held-out loss  0.02\n" in result.stdout
    assert "step 0                                                              100" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_several_runs_share_charts_and_are_told_apart(here: Path) -> None:
    log(Path("a"), 1, 10, 100)
    log(Path("b"), 1, 50, scale=0.5)
    text = run("a", "b", "--metrics", TWO, env={"COLUMNS": "150"}).stdout
    key, titles, *_ = text.splitlines()
    assert key.endswith(" b")
    assert len(set(re.findall(r"(\S+) [ab]", key))) == 2, "each has a dash of its own"
    assert re.fullmatch(r"loss  0.01, 0.01 +held-out loss  0.02, 0.02", titles)


def test_what_is_wrong_is_one_line(here: Path) -> None:
    log(Path("a"), 1, 10)
    Path("empty").mkdir()
    Path("file").touch()
    (Path("empty") / "metrics.jsonl").write_text('{"step": 1, "lo')
    for arguments, line in {
        ("nowhere",): "Error: nowhere is no run folder: it has no metrics.jsonl",
        ("file",): "Error: file is no run folder: it has no metrics.jsonl",
        ("a", "--metrics", "los"): "Error: unknown metric 'los': did you mean 'loss'?",
        ("empty",): "Error: none of these metrics is logged yet",
        ("a", "--follow"): "Error: --follow draws on a terminal, but standard output is not one: leave it out",
        ("a", "--out", "a.pdf"): "Error: a.pdf: figures are PNG or SVG: give a name that ends in .png or .svg",
    }.items():
        result = run(*arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith(line), result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not Path("a.pdf").exists()


def test_lines_that_cannot_be_read_are_counted(here: Path) -> None:
    log(Path("a"), 1, 10)
    with Path("a/metrics.jsonl").open("a") as file:
        file.write('no line\n{"step": "x"}\n{"step": 11, "loss"')
    result = run("a", "--metrics", TWO)
    assert result.exit_code == 0
    assert result.stderr == "note: 2 unreadable lines left out of the metrics of a\n"


def test_pictures(here: Path) -> None:
    pytest.importorskip("matplotlib")
    log(Path("$a_1$"), 1, 10, 100)
    log(Path("_b"), 1, 50)
    assert run("$a_1$", "_b", "--out", "p/charts.png").stdout.endswith("wrote p/charts.png\n")
    with Image.open("p/charts.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10
    assert run("$a_1$", "_b", "--out", "charts.svg", "--metrics", "loss").exit_code == 0
    told = {"runs": ["$a_1$", "_b"], "metrics": "loss"}
    assert read_mark(Path("charts.svg"))["options"] == told
    text = Path("charts.svg").read_text()
    assert "<!-- loss -->" in text
    assert "<!-- held-out loss -->" not in text
    assert "<!-- $a_1$ -->" in text
    assert "<!--  _b -->" in text


class Terminal:
    """A command on a terminal of 90 by 40 characters, and what it has shown so far."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 90, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        command = [sys.executable, "-m", "tinyddpm", "plot", *arguments]
        self.process = subprocess.Popen(command, stdout=slave, stderr=slave, env=environment | (env or {}))
        os.close(slave)
        self.shown = ""

    def until(self, text: str) -> None:
        """Wait until it has shown `text` since it was waited for last; forget what came before."""
        end = time.monotonic() + 120
        while text not in self.shown:
            assert time.monotonic() < end, self.shown
            if not self._read():
                assert text in self.shown
                return
        self.shown = self.shown.partition(text)[2]

    def rest(self) -> str:
        """Wait for its end, and return what it showed until then."""
        while self._read():
            pass
        self.process.wait(timeout=60)
        os.close(self.master)
        return self.shown

    def _read(self) -> bool:
        select.select([self.master], [], [], 60)
        try:
            found = os.read(self.master, 1 << 16)
        except OSError:  # Linux's way to say that the other side has been closed
            return False
        self.shown += found.decode(errors="replace")
        return bool(found)


LEAVE = "\x1b[?25h\x1b[?1049l"


def test_a_terminal_has_colours_unless_they_are_not_wanted(here: Path) -> None:
    log(Path("a"), 1, 10)
    assert "\x1b[36m" in Terminal("a", "--metrics", TWO).rest()
    assert "\x1b" not in Terminal("a", "--metrics", TWO, env={"NO_COLOR": "1"}).rest()


def test_a_run_is_followed_to_its_end(here: Path) -> None:
    """What is logged meanwhile is shown; at the end the terminal is as before, and the charts stay on it."""
    log(Path("a"), 1, 10)
    record(Path("a"), ended=None)
    terminal = Terminal("a", "--follow", "--metrics", TWO)
    terminal.until("\x1b[?1049h")
    terminal.until("held-out loss  0.2")
    log(Path("a"), 40)
    terminal.until("held-out loss  0.05")
    log(Path("a"), 50)
    record(Path("a"), ended="complete")
    last = terminal.rest()
    assert terminal.process.returncode == 0
    assert last.count(LEAVE) == 1
    assert "held-out loss  0.04" in last.partition(LEAVE)[0]
    assert "held-out loss  0.04" in last.partition(LEAVE)[2]
    assert "\x1b[?" not in last.partition(LEAVE)[2]


def test_the_screen_is_written_again_only_for_new_lines(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(Path("a"), 1, 10)
    record(Path("a"), ended=None)
    meanwhile = [lambda: None, lambda: log(Path("a"), 20), lambda: record(Path("a"), ended="complete")]
    monkeypatch.setattr("tinyddpm.report.screen.time.sleep", lambda seconds: meanwhile.pop(0)())
    seen: list[float] = []

    def screen(runs: Mapping[str, Logged], size: os.terminal_size) -> list[str]:
        seen.append(last(runs["a"].curves["loss"])[0])
        return ["charts"]

    assert follow({"a": Path("a")}, screen, stream := StringIO()) is None
    assert seen == [10, 20]
    assert stream.getvalue().count("charts") == 2
    assert stream.getvalue().endswith(LEAVE)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_following_ends_at_a_signal(number: signal.Signals, code: int, here: Path) -> None:
    """Before anything is logged too."""
    Path("a").mkdir()
    Path("a/metrics.jsonl").touch()
    record(Path("a"), ended=None)
    terminal = Terminal("a", "--follow")
    terminal.until("waiting for the first lines of metrics")
    terminal.process.send_signal(number)
    last = terminal.rest()
    assert terminal.process.returncode == code
    assert last.count(LEAVE) == 1
    assert "Traceback" not in last


def test_a_low_terminal_has_what_fits_and_names_the_rest(here: Path) -> None:
    log(Path("a"), 1, 10)
    record(Path("a"), ended="complete")
    terminal = Terminal("a", "--follow", env={"LINES": "24"})
    screen = terminal.rest().partition(LEAVE)[0]
    assert "no room for: learning rate, samples/s" in screen
    assert screen.count("\n") < 24
