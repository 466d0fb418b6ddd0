"""Names that come from files, folders and packages are shown by a terminal, and never obeyed."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import tinyddpm
from helpers.command_line import NARROW, TWO_STEPS
from helpers.headers import rewritten
from helpers.site import Site
from tinyddpm.cli import main
from tinyddpm.cli.output import line_of
from tinyddpm.errors import DataError, shown
from tinyddpm.figures.terminal import legend
from tinyddpm.progress import Progress

HOSTILE = "a\x1b[2J\x1b]0;title\x07\rb\x9b31m\x7f\u202ec\u2028d\ue000\U000e0001e\nError: f"
SHOWN = r"a\u001b[2J\u001b]0;title\u0007\u000db\u009b31m\u007f\u202ec\u2028d\ue000\U000e0001e\u000aError: f"


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert all(line.isprintable() for line in (result.stdout + result.stderr).split("\n")), result.output
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first class has a hostile name."""
    folder = tmp_path_factory.mktemp("escapes") / "run"
    assert run("train", *TWO_STEPS, *NARROW, "--labels", "--out", str(folder)).exit_code == 0

    def change(header: dict[str, list[str]]) -> None:
        header["classes"][0] = HOSTILE

    rewritten(folder / "checkpoint.h5", folder / "checkpoint.h5", change)
    return folder


def test_what_is_not_printable_is_shown_as_json_would() -> None:
    assert shown(HOSTILE) == SHOWN
    assert json.loads(f'"{shown(HOSTILE.replace(chr(0xE0001), ""))}"') == HOSTILE.replace(chr(0xE0001), "")
    assert shown("latin\udce9 ünïcödé 😀 \\n") == "latin\\udce9 ünïcödé 😀 \\n"


@pytest.mark.slow
def test_class_names(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In what is told, in errors, and in the marks of what is drawn."""
    monkeypatch.chdir(tmp_path)
    said = run("info", str(trained)).stdout
    assert f"classes       {SHOWN}, 1, 2" in said
    assert SHOWN in run("sample", str(trained), "--labels", "none").stderr
    assert run("sample", str(trained), "--count", "1", "--sample-steps", "1").exit_code == 0
    assert f"class {SHOWN}" in run("info", "samples/grid.png").stdout


@pytest.mark.slow
def test_paths(trained: Path, tmp_path: Path) -> None:
    """Of what is missing, read and written, what click says of arguments too."""
    folder = tmp_path / HOSTILE.replace("\x00", "")
    assert SHOWN in run("info", str(folder)).stderr
    said = run("sample", str(trained), "--out", str(folder), "--count", "1", "--sample-steps", "1").stdout
    assert said == f"wrote {shown(str(folder))}/grid.png\n"
    for arguments in ([HOSTILE], [f"--{HOSTILE}"], ["info", "a", HOSTILE], ["sample", "r", "--count", HOSTILE]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert [line for line in result.stderr.splitlines() if line.startswith("Error")] == [
            result.stderr.splitlines()[-1]
        ]


def test_progress_and_legends() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.say(f"note: {HOSTILE}")
    progress.update(1, 1, HOSTILE)
    assert stream.getvalue() == f"note: {SHOWN}\n1/1  {SHOWN}\n"
    assert legend([HOSTILE, "b"], braille=False).isprintable()


def test_an_error_is_one_line_wherever_it_is_caught() -> None:
    assert str(DataError(f"{HOSTILE} is no image")) == f"{SHOWN} is no image"
    assert line_of(click.UsageError(f"{HOSTILE} is no option")) == f"{SHOWN} is no option"


def test_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of names in entry points, and of what breaks when it is imported."""
    source = f"raise ImportError({HOSTILE!r})"
    Site(tmp_path).install("evil", "1.0", {"schedules": {"evil\x1b[31m": "evil_module:f"}}, evil_module=source)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = run("plugins").stdout
    assert r"evil\u001b[31m" in said
    assert r"a\u001b[2J\u001b]0;title\u0007" in said


def test_all_that_commands_print_goes_through_one_function() -> None:
    """Charts with colours of their own are printed as they are; the names in them are shown."""
    folder = Path(tinyddpm.__file__).parent / "cli"
    found = {
        path.name
        for path in folder.rglob("*.py")
        if re.search(r"\b(click\.s?echo|print)\(", path.read_text(encoding="utf-8"))
    }
    assert found == {"output.py", "plot.py"}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plugins", "info digits"])
def test_a_closed_pipe_is_silent(command: str) -> None:
    shell = f"{sys.executable} -m tinyddpm {command} | true"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    assert done.stderr == ""


def test_memory_that_does_not_suffice_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyddpm.registry.GROUPS", ("commands", "guidance"))
    monkeypatch.setattr("tinyddpm.registry.strange_groups", lambda: np.empty(2**60, np.uint8))
    result = run("plugins")
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: memory does not suffice: Unable to allocate 1.00 EiB .*\n", result.stderr)
