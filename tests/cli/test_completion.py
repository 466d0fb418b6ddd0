"""What the shell offers at the key Tab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete, shell_complete

from helpers.site import Site
from tinyddpm import registry
from tinyddpm.cli import COMMANDS, main
from tinyddpm.cli.completion import OF_SETTINGS, FilePath, RunPath
from tinyddpm.model.config import settings
from tinyddpm.model.load import BEST, CHECKPOINT, checkpoint_at


def offered(*words: str) -> list[str]:
    """What is offered in the place of the last word; paths, which the shell finds itself, as "file"."""
    *before, begun = words
    found = ShellComplete(main, {}, "tinyddpm", "_TINYDDPM_COMPLETE").get_completions(before, begun)
    return [str(item.value) if item.type == "plain" else str(item.type) for item in found]


def names(group: str) -> list[str]:
    return sorted({entry.name for entry in registry.entries(group)})


@pytest.fixture
def with_runs(here: Path) -> Path:
    for run in ("digits", "digits-2", "empty", "other"):
        (here / "runs" / run).mkdir(parents=True)
        if run != "empty":
            (here / "runs" / run / CHECKPOINT).touch()
    (here / "runs" / "notes.txt").touch()
    return here


@pytest.mark.parametrize(
    ("words", "group"),
    [
        (("train", "--preset", ""), "presets"),
        (("train", "--network", ""), "networks"),
        (("train", "--condition", ""), "conditions"),
        (("train", "--schedule", ""), "schedules"),
        (("train", "--predict", ""), "parametrisations"),
        (("train", "--loss", ""), "objectives"),
        (("train", "--weighting", ""), "weightings"),
        (("train", "--rate", ""), "rates"),
        (("train", "--callback", ""), "callbacks"),
        (("train", "--transform", ""), "transforms"),
        (("train", "--backend", ""), "backends"),
        (("sample", "run", "--sampler", ""), "samplers"),
        (("sample", "run", "--spacing", ""), "spacings"),
        (("edit", "from", "run", "x.png", "--sampler", ""), "samplers"),
        (("evaluate", "run", "--features", ""), "features"),
        (("evaluate", "run", "--metrics", ""), "metrics"),
        (("bench", "--backends", ""), "backends"),
        (("figure", "forward", "--schedule", ""), "schedules"),
        (("schedule", "cosine", ""), "schedules"),
    ],
)
def test_registered_names_are_offered(words: tuple[str, ...], group: str) -> None:
    assert offered(*words) == names(group)
    first = names(group)[0]
    assert offered(*words[:-1], first[:2]) == [name for name in names(group) if name.startswith(first[:2])]


def test_every_setting_that_names_a_part_offers_its_names() -> None:
    for _, _, name, _, text in settings():
        if "registered" in text:
            assert offered("train", f"--{name.replace('_', '-')}", ""), name
    assert {*OF_SETTINGS} <= {name for _, _, name, *_ in settings()}


def test_names_that_stand_for_something_else_are_offered_too() -> None:
    assert "auto" in offered("train", "--times", "")
    assert "none" in offered("sample", "run", "--guide", "")
    assert offered("sample", "run", "--threshold", "") == ["dynamic", "none", "static"]
    assert offered("train", "--distributed", "n") == ["nccl", "none"]


def test_several_names_follow_each_other_once() -> None:
    assert offered("evaluate", "run", "--metrics", "frechet,ker") == ["frechet,kernel"]
    rest = [f"frechet,{name}" for name in names("metrics") if name != "frechet"]
    assert offered("evaluate", "run", "--metrics", "frechet,") == rest


def test_data_sets_are_offered_beside_paths() -> None:
    assert offered("train", "--data", "") == ["file", *names("datasets")]
    assert offered("nll", "run", "--data", "dig") == ["file", "digits"]
    assert offered("train", "--data", "./") == ["file"]


@pytest.mark.parametrize(
    "words",
    [
        ("sample",), ("nll",), ("evaluate",), ("report",), ("plot",), ("plot", "a"), ("export",), ("average",),
        ("edit", "enlarge"), ("figure", "denoising"), ("figure", "loss-by-time"), ("figure", "straightness"),
        ("train", "--resume"), ("train", "--init-from"),
    ],
)  # fmt: skip
def test_runs_with_a_checkpoint_are_offered_beside_paths(with_runs: Path, words: tuple[str, ...]) -> None:
    assert offered(*words, "") == ["file", "runs/digits", "runs/digits-2", "runs/other"]
    assert offered(*words, "runs/di") == ["file", "runs/digits", "runs/digits-2"]
    shutil.rmtree("runs")
    assert offered(*words, "") == ["file"]


def test_checkpoints_that_a_run_keeps_are_offered(with_runs: Path) -> None:
    run = with_runs / "runs" / "digits"
    for path in (run / BEST, checkpoint_at(run, 200), checkpoint_at(run, 9999999), checkpoint_at(run, 12345678)):
        path.touch()
    assert offered("sample", "runs/digits@") == [
        "file", "runs/digits@best", "runs/digits@200", "runs/digits@9999999", "runs/digits@12345678",
    ]  # fmt: skip
    assert offered("sample", "runs/digits@1") == ["file", "runs/digits@12345678"]
    assert offered("sample", "runs/other@") == ["file"]


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every command: a shell replaces `~` at the beginning of a word, and so not after `--out=`."""
    monkeypatch.setenv("HOME", os.sep + "home")
    for kind in (FilePath(), RunPath()):
        assert kind.convert("~/a", None, None) == Path(os.sep, "home", "a")
        assert kind.convert("./~/a", None, None) == Path("~", "a")
    found = {given.name for given in parameters(main) if isinstance(given.type, click.Path)}
    assert {given.name for given in parameters(main) if isinstance(given.type, FilePath)} >= {"out", "resume", "mask"}
    others = {given.name for given in parameters(main) if type(given.type) is click.Path}
    assert others == {"data_dir", "weights_file"} <= found, "which the library replaces it in"


def parameters(group: click.Group) -> list[click.Parameter]:
    context = click.Context(group)
    commands = filter(None, (group.get_command(context, name) for name in group.list_commands(context)))
    return [
        given
        for command in commands
        for given in (parameters(command) if isinstance(command, click.Group) else command.params)
    ]


def test_info_is_of_presets_and_runs(with_runs: Path) -> None:
    assert offered("info", "") == ["file", *sorted([*names("presets"), "runs/digits", "runs/digits-2", "runs/other"])]
    assert offered("import", "x.npz", "--like", "runs/o") == ["file", "runs/other"]


def test_commands_and_their_options_are_offered() -> None:
    assert offered("tr") == ["train"]
    assert {*offered("")} >= {*COMMANDS}
    assert "--sampler" in offered("sample", "run", "--samp")
    assert offered("no-such-command", "--x") == []


def test_parts_of_plugins_are_offered_and_broken_ones_break_nothing(site: Site) -> None:
    site.install("made-up", "1.0", {"samplers": {"broken": "made_up_nowhere:thing"}})
    assert "broken" in offered("sample", "run", "--sampler", "bro")


@pytest.mark.slow
@pytest.mark.parametrize(("shell", "words", "line"), [
    ("bash", "tinyddpm train --preset dig", "plain,digits"),
    ("zsh", "tinyddpm train --preset dig", "plain\ndigits\n_"),
    ("fish", "tinyddpm train --preset dig", "plain,digits"),
])  # fmt: skip
def test_shells_ask_by_the_environment_and_nothing_heavy_is_imported(shell: str, words: str, line: str) -> None:
    """As README switches it on; Tab is pressed often."""
    asked = {"_TINYDDPM_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": "3"}
    if shell == "fish":
        asked["COMP_CWORD"] = "dig"
    code = """
import sys
from tinyddpm.cli import main
try:
    main(prog_name="tinyddpm")
finally:
    print({name.split(".")[0] for name in sys.modules} & {"numpy", "h5py", "PIL", "torch", "cupy", "matplotlib"})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked})
    assert done.returncode == 0, done.stderr
    found, imported = done.stdout.strip().rsplit("\n", 1)
    assert found.strip() == line
    assert imported == "set()"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    if shell == "bash" and not shutil.which("bash"):
        pytest.skip("needs bash, whose version click asks")
    assert shell_complete(main, {}, "tinyddpm", "_TINYDDPM_COMPLETE", f"{shell}_source") == 0
    assert "_TINYDDPM_COMPLETE" in capsys.readouterr().out
