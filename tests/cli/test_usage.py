"""What users type: names in the environment, classes by name, numbers at their ends, and a host program's settings."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import tinyddpm
from helpers.command_line import NARROW, TWO_STEPS, run
from helpers.headers import rewritten
from tinyddpm.cli import COMMANDS, main
from tinyddpm.cli.book import _Drawer
from tinyddpm.cli.figure import figure
from tinyddpm.cli.options import GroupedCommand, GroupedOption
from tinyddpm.cli.trained import open_model
from tinyddpm.errors import ConfigError
from tinyddpm.figures.images import save_png
from tinyddpm.figures.marks import read_mark
from tinyddpm.model.config import preset
from tinyddpm.model.sampling import class_names, class_numbers
from tinyddpm.report.book.chapters import Figure

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("usage") / "run"
    assert run("train", *TWO_STEPS, *NARROW, "--labels", "--out", str(folder)).exit_code == 0
    return folder


def options(command: click.Command) -> list[GroupedOption]:
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = [given for given in command.params if isinstance(given, GroupedOption)]
    return [*own, *(given for each in below for given in options(each))]


def test_names_in_the_environment_follow_flags(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable says the same to all commands: its values are of one kind."""
    kinds: dict[str, set[str]] = {}
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        for given in options(command):
            if given.envvar:
                flags = [flag.removeprefix("--").replace("-", "_").upper() for flag in given.opts]
                assert str(given.envvar).removeprefix("TINYDDPM_") in flags
                kinds.setdefault(str(given.envvar), set()).add(given.type.name.removesuffix(" range"))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
    monkeypatch.chdir(tmp_path)
    env = {"TINYDDPM_COUNT": "3", "TINYDDPM_OUT": "s", "TINYDDPM_SAMPLE_STEPS": "1", "TINYDDPM_LABELS": "no"}
    assert run("sample", str(trained), "--npz", "--labels", "7", env=env).exit_code == 0
    assert np.load("s/samples.npz")["labels"].tolist() == [7, 7, 7]
    assert "did you mean 'TINYDDPM_PRESET'" in run("info", "toy", env={"TINYDDPM_PRESET_NAME": "toy"}).stderr


def test_classes_are_chosen_by_any_name(trained: Path, tmp_path: Path) -> None:
    """With commas, quotes and spaces, and those of other classes inside."""
    classes = ("cat", "cat, tabby", '5" disk', " a", "a, b, c", "", "x\ny", "1")
    for number, name in enumerate(classes):
        assert class_names(classes, name) == [name]
        assert class_numbers(classes, class_names(classes, name)).tolist() == [number]
    assert class_numbers(classes, class_names(classes, 'cat, "cat, tabby",7,6')).tolist() == [0, 1, 7, 6]
    for text in ("cat,x\ny", '"cat', 'cat,"1', '"cat, tabby" 1'):
        with pytest.raises(ConfigError, match="give their numbers"):
            class_names(classes, text)
    with pytest.raises(ConfigError, match="unknown class 'dog'"):
        class_numbers(classes, ["dog"])
    with pytest.raises(ConfigError, match="unknown class ''"):
        class_numbers(("cat", "dog"), class_names(("cat", "dog"), ""))

    def change(header: dict[str, list[str]]) -> None:
        header["classes"][3] = "cat, tabby"

    path = rewritten(trained / "checkpoint.h5", tmp_path / "a.h5", change)
    fast = ["--count", "2", "--sample-steps", "1", "--npz", "--out", str(tmp_path / "s")]
    assert run("sample", str(path), "--labels", '"cat, tabby",5', *fast).exit_code == 0
    assert np.load(tmp_path / "s" / "samples.npz")["labels"].tolist() == [3, 5]
    model = tinyddpm.load(path)
    assert len(model.sample(2, labels=["cat, tabby", "5"], steps=1)) == 2


def test_what_is_asked_for_and_not_drawn_is_told(trained: Path, tmp_path: Path) -> None:
    """Of three classes two, where two samples are drawn; of all classes in turn, which nobody asked for, nothing is."""
    fast = ["sample", str(trained), "--count", "2", "--sample-steps", "1"]
    note = "note: of 3 classes or prompts only 2 are drawn"
    assert note in run(*fast, "--labels", "1,2,3", "--out", str(tmp_path / "a")).stderr.splitlines()
    assert "note" not in run(*fast, "--labels", "1,2", "--out", str(tmp_path / "b")).stderr
    assert "note" not in run(*fast, "--out", str(tmp_path / "c")).stderr


def test_a_name_that_is_empty_is_no_name(trained: Path) -> None:
    """Such as that of a variable which nobody has set."""
    assert "unknown guidance ''" in run("sample", str(trained), "--guide", "").stderr
    assert "unknown class ''" in run("sample", str(trained), "--labels", "").stderr


@pytest.mark.parametrize("number", [2**32, 2**63, 2**70])
def test_numbers_end_where_noise_does(trained: Path, number: int) -> None:
    assert run("sample", str(trained), "--first", str(number)).exit_code == 2
    assert run("sample", str(trained), "--count", str(number)).exit_code == 2
    at_the_end = run("sample", str(trained), "--first", str(2**32 - 1), "--count", "2", "--sample-steps", "1")
    assert at_the_end.exit_code == 1
    assert at_the_end.stderr.startswith("Error: ")


@pytest.mark.parametrize("path", ["nowhere/", "/nowhere/a", "a.npz", os.path.join("..", "nowhere")])
def test_a_path_that_is_missing_is_called_a_path(path: str) -> None:
    assert f"there is no file or folder {path}: check the path" in run("train", "--data", path).stderr


def test_one_sample_is_told_so(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((1, 2), np.float32))
    said = run("train", "--preset", "toy", "--data", str(tmp_path / "one.npy"), "--out", str(tmp_path / "r")).stderr
    assert "of 1 samples: give data with at least 2" in said


def test_what_a_host_program_sets_of_arithmetic_changes_nothing(tmp_path: Path) -> None:
    """Adam's squares of small gradients, and exponentials, become 0 as they are meant to."""
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)

    def samples(folder: str) -> bytes:
        network = {"name": "mlp", "width": 8, "depth": 1}
        small = {"steps": 3, "batch_size": 8, "timesteps": 8, "sample_count": 4, "network": network, "clip": 1e-30}
        model = tinyddpm.train(points, preset="toy", out=tmp_path / folder, progress=False, **small)
        return model.sample(4, seed=1).tobytes()

    plain = samples("a")
    with np.errstate(all="raise"):
        assert samples("b") == plain


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


def test_a_figure_of_the_book_leaves_its_command_as_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command keeps the names of its help option from its first call."""
    monkeypatch.setattr(figure.commands["forward"], "_help_option", None)
    none = Figure(("forward", "--timesteps", "0"), "no figure")
    assert _Drawer(None)(none, here / "drawn.png").startswith("It is left out")
    assert run("figure", "forward", "-h").exit_code == 0


def test_help_shows_arguments_first_and_what_has_no_heading_last() -> None:
    found = commands(main)
    assert {("edit", "from"), ("figure", "steps"), ("train",)} <= set(found)
    for path in found:
        results = [run(*path, flag) for flag in ("-h", "--help")]
        short, long = (result.stdout for result in results)
        assert short == long, results[0].output
        headings = [line for line in long.splitlines() if line.endswith(":") and not line.startswith(" ")]
        takes_some = not long.splitlines()[0].endswith("[OPTIONS]")
        assert (headings[0] == "Arguments:") == takes_some, path
        assert headings[-1] == "Other:"
        assert len(set(headings)) == len(headings)
        assert long.partition("\nOther:\n")[2].split()[:2] == ["-h,", "--help"]


@pytest.mark.parametrize("group", [(), ("edit",), ("figure",)])
def test_help_tells_each_command_in_a_whole_sentence(group: tuple[str, ...]) -> None:
    """In a terminal of 80 columns; click cuts a longer one, and ends it with dots."""
    told = run(*group, "--help").stdout.partition("\nCommands:\n")[2]
    assert told
    assert "..." not in told


def test_help_leaves_out_what_is_hidden() -> None:
    command = GroupedCommand("made", params=[GroupedOption(["--secret"], help="Not for all.", hidden=True)])
    text = CliRunner().invoke(command, ["--help"]).output
    assert text == "Usage: made [OPTIONS]\n\nOther:\n  --help  Show this message and exit.\n"


def test_settings_in_the_mark_of_a_picture_are_told(tmp_path: Path) -> None:
    """As of one that a run draws on its way, when there is no checkpoint."""
    path, config = tmp_path / "x.png", preset("toy").config
    save_png(path, np.zeros((2, 2, 3), np.uint8), {"made_by": "tinyddpm train", "configuration": config.to_dict()})
    assert run("info", str(path)).stdout == f"made_by       tinyddpm train\n\n{config.to_toml()}"


def test_what_has_changed_about_plugins_is_told(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinyddpm.model.checkpoint.plugin_notes", lambda loaded: [f"step {loaded.step}: dit is newer"])
    open_model(trained, False, backend="numpy", device=None, precision="fp32", graph=True, threads=1)
    assert capsys.readouterr().err == "note: step 2: dit is newer\n"


def test_schedules_are_drawn_into_a_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "two.png"
    said = run("schedule", "linear", "cosine", "--timesteps", "50", "--png", str(path)).stdout
    assert said.endswith(f"wrote {path}\n")
    assert read_mark(path)["options"] == {"names": ["linear", "cosine"], "timesteps": 50, "zero-terminal-snr": False}


def test_long_drawing_says_how_long(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    several = ["sample", str(trained), "--count", "6", "--batch-size", "2", "--sample-steps", "1"]
    assert "will take about" not in run(*several).stderr
    monkeypatch.setattr("tinyddpm.cli.sample.LONG", 0)
    first = run(*several).stderr.splitlines()[0]
    assert re.fullmatch(r"drawing 6 samples will take about \d+s", first)
