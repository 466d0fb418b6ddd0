"""Configurations known to work. Each is an entry of group `tinyddpm.presets`: a function that returns its tables.

The built-in presets are TOML files in this folder. Beside the tables of a configuration, a preset has a table `about`
that describes the samples it is meant for by their `sample_shape` and number of `classes`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import resources
from typing import Any


def from_toml(package: str, file: str) -> Callable[[], dict[str, Any]]:
    """Return a function that reads the tables of a preset from a TOML file inside a package."""

    def tables() -> dict[str, Any]:
        return tomllib.loads(resources.files(package).joinpath(file).read_text(encoding="utf-8"))

    return tables


cifar10 = from_toml(__name__, "cifar10.toml")
cifar10_improved = from_toml(__name__, "cifar10-improved.toml")
digits = from_toml(__name__, "digits.toml")
emoji = from_toml(__name__, "emoji.toml")
enlarge_emoji = from_toml(__name__, "enlarge-emoji.toml")
enlarge_fashion = from_toml(__name__, "enlarge-fashion.toml")
fashion_mini = from_toml(__name__, "fashion-mini.toml")
fashion_mnist = from_toml(__name__, "fashion-mnist.toml")
flow_digits = from_toml(__name__, "flow-digits.toml")
flow_fashion = from_toml(__name__, "flow-fashion.toml")
small = from_toml(__name__, "small.toml")
toy = from_toml(__name__, "toy.toml")
