"""Changes of a run's settings when it is resumed, from the command line or from its edited `config.toml`."""

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
"""Settings that may change when a run is resumed. The data may lie elsewhere, but must be the same."""


def edited(path: Path, before: Config, say: Callable[[str], None]) -> Config:
    """Return the configuration in a run's `config.toml`, which its user may have edited since the last checkpoint.

    Args:
        path: the file; if it is missing, the result is `before`.
        before: the configuration in the checkpoint.
        say: called with one line for each setting that was edited.

    Raises:
        ConfigError: the file cannot be read, or changes a setting that is not in `MAY_CHANGE`.
    """
    if not path.is_file():
        return before
    there = Config.from_dict(read_toml(path), str(path))
    was, now = _settings_of(before), _settings_of(there)
    changed = _changed(was, now)
    if kept := [key for key in changed if key not in MAY_CHANGE]:
        raise ConfigError(
            f"{path} was edited, and {_kept(kept, was)}: put it back, remove the file, as the checkpoint has its"
            f" settings too, or {another_from(path.parent)}"
        )
    for key in changed:
        say(f"note: {path} was edited: {key} is {now.get(key)!r}, and was {was.get(key)!r}")
    return there


def with_changes(before: Config, changes: Mapping[str, Any], folder: Path) -> Config:
    """Return a run's configuration with some settings changed.

    A change to another backend or device resets the precision to fp32, and one to another backend also resets the
    device, unless `changes` gives them.

    Args:
        before: the run's configuration.
        changes: settings by their command-line names.
        folder: the run's folder, for messages.

    Raises:
        ConfigError: a setting is unknown, wrong, or not in `MAY_CHANGE`.
    """
    if changes.get("backend", before.backend) != before.backend:
        before = replace(before, precision="fp32", device=None)
    elif changes.get("device", before.device) != before.device:
        before = replace(before, precision="fp32")
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
    """Return the advice for a run that cannot be resumed as asked, the end of an error message."""
    return f"start another run from its weights with --init-from {folder}"


def _settings_of(config: Config) -> dict[str, Any]:
    """Return a configuration's settings by full name, such as `training.steps`, and the transforms' names in order."""
    tables = {name: value if isinstance(value, dict) else {"": value} for name, value in config.to_dict().items()}
    found = {f"{name}.{key}".rstrip("."): value for name, table in tables.items() for key, value in table.items()}
    return {**found, "transforms": list(config.transforms)} if config.transforms else found
