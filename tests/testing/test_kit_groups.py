"""There is a kit for every group; those for callbacks, presets and commands name what breaks their contract."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from tinyddpm import registry, testing
from tinyddpm.conditions import Asked
from tinyddpm.model.config import Config
from tinyddpm.testing import check_callback, check_command, check_preset


@pytest.mark.parametrize("group", registry.GROUPS)
def test_every_group_has_a_check(group: str) -> None:
    assert f"check_{group.removesuffix('s')}" in testing.__all__


@pytest.mark.slow
@pytest.mark.parametrize("group", ["callbacks", "presets", "commands"])
def test_the_built_in_ones_keep_the_contract(group: str) -> None:
    for entry in registry.entries(group):
        getattr(testing, f"check_{group.removesuffix('s')}")(entry.name)


@pytest.mark.parametrize(
    "check",
    [
        partial(testing.check_condition, "label", Asked(np.arange(3))),
        partial(testing.check_guidance, "cfg"),
        partial(testing.check_network, "mlp", (2,), width=8, depth=1),
        partial(testing.check_objective, "simple"),
        partial(testing.check_sampler, "ddim", steps=2, tolerance=1.0),
        partial(testing.check_transform, "shift"),
    ],
    ids=lambda check: check.func.__name__,
)
def test_without_array_api_strict_all_else_is_checked(
    check: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "array_api_strict", None)
    check()


class Good:
    def __init__(self, *, patience: int = 3) -> None:
        self.patience = patience

    def started(self, step: int, steps: int, folder: Path) -> None:
        assert folder.is_dir()

    def validated(self, step: int, **values: Any) -> bool:
        return step > self.patience


class Reads:
    """Finds in the folder, at each event, what is told of there."""

    def started(self, step: int, steps: int, folder: Path) -> None:
        self.folder = folder
        assert Config.from_dict(tomllib.loads((folder / "config.toml").read_text())) == Config()

    def logged(self, **values: float) -> None:
        assert values in [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def validated(self, step: int, loss: float) -> None:
        self.logged(step=step, validation_loss=loss)

    def drew(self, step: int, paths: list[Path]) -> None:
        for path in paths:
            with Image.open(path) as image:
                assert image.size == (8, 8)


class Deaf:
    def hello(self) -> None:
        pass


class Mistyped(Good):
    def validate(self, step: int, loss: float) -> bool:
        return False


class OtherValues(Good):
    def step(self, step: int, gradients: object) -> None:
        pass


class Talks(Good):
    def saved(self, step: int, path: Path) -> str:
        return "thanks"


class Positional(Good):
    def __init__(self, patience: int = 3) -> None:
        super().__init__(patience=patience)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (Deaf, "is never called: give it one of the methods started, step, "),
        (Mistyped, "its method validate is never called: is validated meant"),
        (OtherValues, "step fails: TypeError"),
        (Talks, "saved returns 'thanks': give a bool"),
        (Positional, "option patience is not keyword-only"),
    ],
)
def test_a_broken_callback_is_named(broken: Any, line: str) -> None:
    check_callback(Good, patience=20)
    check_callback(Reads)
    with pytest.raises(AssertionError, match=line):
        check_callback(broken)


TABLES: dict[str, Any] = {
    "about": {"sample_shape": [8, 8, 1], "classes": 2},
    "network": {"name": "unet", "channels": 8, "multipliers": [1, 2], "attention": "auto"},
}


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({}, "its table `about` must have sample_shape"),
        ({"about": {"sample_shape": [8, 8, 1], "classes": 2}, "netwrk": {}}, "did you mean 'network'"),
        ({**TABLES, "network": {"name": "unett"}}, "did you mean 'unet'"),
        ({**TABLES, "network": {"name": "unet", "chanels": 8}}, "did you mean 'channels'"),
        ({**TABLES, "network": {"name": "unet", "attention": [5]}}, "attention at 5 meets no feature map"),
        ({**TABLES, "sampling": {"name": "ddim", "variance": "large"}}, "unknown option of sampler 'ddim' 'variance'"),
        ({**TABLES, "spacing": {"rho": 3}}, "unknown option of spacing 'trailing' 'rho'"),
    ],
)
def test_a_broken_preset_is_named(tables: dict[str, Any], line: str) -> None:
    check_preset(lambda: TABLES)
    with pytest.raises(AssertionError, match=line):
        check_preset(lambda: tables)


def command(**changes: Any) -> click.Command:
    return click.Command("made-up", **{"callback": lambda: None, "help": "Do it.", **changes})


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (lambda: None, "not click's"),
        (command(help=None), "command 'made-up' has no help"),
        (command(params=[click.Option(["--size"])]), "option --size has no help"),
        (click.Group("all", {"made-up": command(help="")}, help="All."), "'all' made-up has no help"),
    ],
)
def test_a_broken_command_is_named(broken: Any, line: str) -> None:
    check_command(command())
    with pytest.raises(AssertionError, match=line):
        check_command(broken)
