"""CONTRIBUTING.md is true: the rooms are the plan's, what it names is there, and its parts keep their contracts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from helpers.site import Site
from test_rooms import ROOMS
from tinyddpm import registry, testing
from tinyddpm.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FENCED = re.compile(
    r"(?:^<!-- (?P<marker>.+?) -->\n)?^```(?P<language>\w+)\n(?P<block>.*?)^```$", re.MULTILINE | re.DOTALL
)
PROSE = FENCED.sub("", TEXT)
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

TOP = ("tinyddpm/", "tests/", "plugins/", "examples/", ".ci/")
"""How the paths begin that are held against the repository; others, as dist/, are made."""


def blocks(language: str) -> Iterator[str]:
    return (found["block"] for found in FENCED.finditer(TEXT) if found["language"] == language)


def commands() -> list[list[str]]:
    """Return the words of every command that is shown, in blocks and, of make and tinyddpm, within sentences."""
    lines = [line for block in blocks("sh") for line in block.splitlines() if line]
    lines += re.findall(r"`((?:make|tinyddpm) [^`]+)`", PROSE)
    return [command for line in lines if (command := shlex.split(line, comments=True))]


def test_the_picture_is_the_plan() -> None:
    """The rooms stand in the order that test_rooms.py holds the imports to."""
    (picture,) = (found["block"] for found in FENCED.finditer(TEXT) if found["marker"] == "rooms")
    rooms = [name for line in picture.splitlines() for name in line.split("  ")[0].split(", ")]
    assert rooms == list(ROOMS)


def test_what_is_named_is_there() -> None:
    """Files and folders, in sentences, links, tables and commands."""
    names = re.findall(r"`([^`\s]+)`", PROSE) + re.findall(r"\]\(([^)]+)\)", PROSE)
    names += [word for command in commands() for word in command]
    paths = [name for name in names if name.startswith(TOP) or (ROOT / name).suffix in (".md", ".toml", ".yaml")]
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_checks_and_tests_that_are_named_exist() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))
    for name in re.findall(r"\b(?:check|test)_\w+\b(?!\.py)", TEXT):
        assert name in testing.__all__ or f"def {name}(" in sources, name


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_are_known(command: list[str]) -> None:
    """Targets of make; commands and options of tinyddpm; what else is run lies here or in the environment."""
    program, *words = command
    if program == "make":
        assert {word for word in words if "=" not in word} <= set(TARGETS)
    elif Path(program).name == "tinyddpm":
        known = main.get_command(click.Context(main), words[0])
        assert known is not None
        options = {name for parameter in known.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options
    else:
        assert program.startswith((".venv/bin/", "pip")) or (ROOT / program).is_file()


PARTS = [found for found in FENCED.finditer(TEXT) if ": " in (found["marker"] or "")]


@pytest.mark.parametrize("part", PARTS, ids=lambda found: found["marker"])
def test_parts_that_are_shown_keep_their_contract(site: Site, part: re.Match[str]) -> None:
    group, name = part["marker"].split(": ")
    site.install("made-up", "1.0", {group: {name: f"made_up:{name}"}}, made_up=part["block"])
    assert name in {entry.name for entry in registry.entries(group)}
    getattr(testing, f"check_{group.removesuffix('s')}")(name)


def test_each_kind_of_part_is_shown_or_named() -> None:
    assert [found["marker"] for found in PARTS] == ["samplers: midpoint", "schedules: power", "rates: stairs"]
    assert set(re.findall(r"\bcheck_\w+", TEXT)) >= {"check_transform", "check_condition"}


def test_tasks_are_those_that_make_lists() -> None:
    """A target is told what it does, and one that is not a file is said to be none."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony.split() == TARGETS == re.findall(r"^([\w-]+):  ## .", makefile, re.MULTILINE)


def test_pre_commit_checks_what_ci_checks() -> None:
    hooks = re.findall(r"entry: make (\S+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert f"make {' '.join(hooks)}\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
