"""The version stands in one place, from which everything that tells it has it."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from click.testing import CliRunner

import tinyddpm
from tinyddpm import registry
from tinyddpm.cli import main
from tinyddpm.machine import versions

ROOT = Path(__file__).parent.parent


def test_the_version_has_one_source() -> None:
    """The package's metadata is made of `__version__`: pyproject.toml has no version of its own."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in settings["project"]
    assert (ROOT / settings["tool"]["hatch"]["version"]["path"]).samefile(tinyddpm.__file__)


def test_all_that_tells_the_version_agrees() -> None:
    """The installed metadata, `--version`, what a run records, and what a checkpoint says of the parts in use."""
    assert metadata.version("tinyddpm") == tinyddpm.__version__, "the version was changed: install anew"
    assert CliRunner().invoke(main, ["--version"]).output == f"tinyddpm, version {tinyddpm.__version__}\n"
    assert versions(["tinyddpm"])["tinyddpm"] == tinyddpm.__version__
    assert registry.find("schedules", "linear").version == tinyddpm.__version__


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == tinyddpm.__version__
