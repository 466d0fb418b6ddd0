"""Which settings may be others when a run is resumed: those given to it, and those edited in its `config.toml`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config, read_toml, settings, tables_of

MAY_CHANGE = {
    "backend", "device", "precision", "graph", "data.source", "data.data_dir",
    "training.steps", "training.learning_rate", "training.threads", "training.recompute", "training.shard",
    "training.log_every", "training.validate_every", "training.save_every", "training.sample_every", "training.keep",
    "training.keep_best", "training.snapshot_every",
}  # fmt: skip
"""Settings that may be others when a run is resumed. The data must be the same, wherever they lie."""


def edited(path: Path, before: Config, say: Callable[[str], None]) -> Config:
    """Return a run's configuration as its file `config.toml` has it, which may have been edited since.

    Raises:
        ConfigError: the file cannot be read, or settings that a run keeps are others in it.
    """
    if not path.is_file():
        return before
    there = Config.from_dict(read_toml(path), str(path))
    was, now = _settings_of(before), _settings_of(there)
    changed = _changed(was, now)
    if kept := [key for key in changed if key not in MAY_CHANGE]:
        raise ConfigError(f"{path} was edited, and {_kept(kept, was)}: put it back, or {another_from(path.parent)}")
    for key in changed:
        say(f"note: {path} was edited: {key} is {now.get(key)!r}, and was {was.get(key)!r}")
    return there


def with_changes(before: Config, changes: Mapping[str, Any], folder: Path) -> Config:
    """Return a run's configuration with other settings, by their names on the command line.

    Another backend or device computes in its own way: its device is any, and its precision fp32, where they are not
    given.

    Raises:
        ConfigError: a setting is unknown or wrong, or a run keeps it.
    """
    if changes.keys() & {"backend", "device"}:
        before = replace(before, precision="fp32", device=None if "backend" in changes else before.device)
    tables = tables_of(changes)
    data = tables.pop("data", {})
    config = before.updated({**tables, "data": {**before.to_dict()["data"], **data}}, "options")
    was = _settings_of(before)
    if kept := [key for key in _changed(was, _settings_of(config)) if key not in MAY_CHANGE]:
        flags = {f"{table}.{key}".lstrip("."): f"--{name.replace('_', '-')}" for table, key, name, *_ in settings()}
        can = ", ".join(flag for key, flag in flags.items() if key in MAY_CHANGE)
        raise ConfigError(f"{_kept(kept, was)}: only {can} can be given with --resume; or {another_from(folder)}")
    return config


def _changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [key for key in {**was, **now} if was.get(key) != now.get(key)]


def _kept(keys: list[str], was: Mapping[str, Any]) -> str:
    return f"a run keeps {', '.join(f'{key} (it was {was.get(key)!r})' for key in keys)}"


def another_from(folder: Path) -> str:
    """Return what to do where a run cannot go on as it is asked to."""
    return f"start another run from its weights with --init-from {folder}"


def _settings_of(config: Config) -> dict[str, Any]:
    """Return the settings of a configuration by table and name, `training.steps`, and the transforms in their order."""
    tables = {name: value if isinstance(value, dict) else {"": value} for name, value in config.to_dict().items()}
    found = {f"{name}.{key}".rstrip("."): value for name, table in tables.items() for key, value in table.items()}
    return {**found, "transforms": list(config.transforms)} if config.transforms else found
