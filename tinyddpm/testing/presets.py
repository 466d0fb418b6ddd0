"""The conformance kit for presets."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

from tinyddpm.backend import load_backend
from tinyddpm.errors import TinyDDPMError
from tinyddpm.model.config import Config, preset_of
from tinyddpm.model.model import Model, classes_learned
from tinyddpm.testing.plugin import resolve


def check_preset(preset: str | Callable[[], dict[str, Any]]) -> None:
    """Check that a preset keeps its contract: it gives the shape of its samples, and a model for them can be made.

    Its settings are known and in range, every part that they name is installed and takes its options, and they are the
    same after writing to TOML and reading back.

    Args:
        preset: its registered name, or the function `() -> tables`.

    Raises:
        AssertionError: the preset breaks its contract; the line names the property.
    """
    function, what = resolve("presets", preset, arguments=0)
    try:
        found = preset_of(what, function())
        labels = classes_learned(found.config, [str(k) for k in range(found.classes)])
        Model(found.config, found.sample_shape, labels, load_backend("numpy"))
    except TinyDDPMError as error:
        raise AssertionError(f"{what}: {error}") from error
    again = Config.from_dict(tomllib.loads(found.config.to_toml()))
    assert again == found.config, f"{what}: written as TOML and read again, its settings differ"
