"""README and the guide are true of what is here: links lead somewhere, commands and their options are known."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from helpers.guide import GUIDE, ROOT
from tinyddpm.backend import load_backend
from tinyddpm.cli import main
from tinyddpm.distributed.group import Group
from tinyddpm.model.config import Config, preset, presets
from tinyddpm.model.model import Model, classes_learned
from tinyddpm.report.book.guide import TOPICS
from tinyddpm.training.loop import Outcome

README = ROOT / "README.md"
PAGES = [README, *(GUIDE / f"{topic}.md" for topic in TOPICS)]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of each command of tinyddpm in blocks for the shell, without comments."""
    found = []
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition("|")[0], comments=True)
            starts = [at for at, word in enumerate(words) if Path(word).name == "tinyddpm"]
            found += [words[at + 1 :] for at in starts if at + 1 < len(words)]
    return found


def options(words: list[str]) -> set[str]:
    """The options of the command that the words begin with, and of the one below it."""
    command: click.Command = main
    names: set[str] = set()
    for word in words:
        if not isinstance(command, click.Group):
            break
        below = command.get_command(click.Context(command), word)
        assert below is not None, f"there is no command {word}"
        command = below
        names |= {name for given in command.params for name in (*given.opts, *given.secondary_opts)}
    return names


def test_readme_is_read_in_one_sitting() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


def test_every_page_of_the_guide_is_a_topic_and_named_in_readme() -> None:
    assert {path.stem for path in GUIDE.glob("*.md")} == set(TOPICS)
    text = README.read_text(encoding="utf-8")
    assert [topic for topic in TOPICS if f"guide/{topic}.md" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not target.startswith(("http", "#"))]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_are_known(page: Path) -> None:
    found = commands(page.read_text(encoding="utf-8"))
    for words in found:
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given - options(words) - {"--help", "--version"} == set(), " ".join(words)
    assert found or page.stem in ("checks", "plugins")


def test_what_is_shown_of_python_files_is_there() -> None:
    """Scripts that commands run."""
    for page in PAGES:
        for name in re.findall(r"python (examples/\w+\.py)", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


TRAININGS = {
    " ".join(words): words
    for page in PAGES
    for words in commands(page.read_text(encoding="utf-8"))
    if words[0] == "train" and not {"--resume", "--init-from", "run.toml"} & {*words}
}


@pytest.mark.parametrize("words", TRAININGS.values(), ids=TRAININGS)
def test_training_commands_describe_a_model(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With its transforms, for samples of the preset's shape."""
    described: list[Config] = []

    def start(config: Config, *_: Any, **__: Any) -> Outcome:
        described.append(config)
        return Outcome(Path("run"), 0, True, [])

    numpy = load_backend("numpy")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("tinyddpm.training.run.start", start)
    monkeypatch.setattr(Group, "load_backend", lambda *_: numpy)
    main.main([word for word in words if word != "--dry-run"], standalone_mode=False)
    (config,) = described
    source = words[words.index("--preset") + 1] if "--preset" in words else config.data.source
    shape, classes = preset(source).sample_shape if source in presets() else (32, 32, 3), ("ant", "bee")
    model = Model(config, shape, classes_learned(config, classes), numpy)
    assert bool(model.transforms) == bool(config.transforms)
