"""The settings of a run that were edited in its `config.toml`: which may be others when it is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config, read_toml

MAY_CHANGE = {
    "backend", "device", "precision", "graph", "training.steps", "training.recompute", "training.learning_rate",
    "training.shard", "training.snapshot_every",
    "training.log_every", "training.validate_every", "training.save_every", "training.sample_every",
}  # fmt: skip
"""Settings that may be others when a run is resumed."""


def edited(path: Path, before: Config, say: Callable[[str], None]) -> Config:
    """Return a run's configuration as its file `config.toml` has it, which may have been edited since.

    Raises:
        ConfigError: the file cannot be read, or settings that a run keeps are others in it.
    """
    if not path.is_file():
        return before
    there = Config.from_dict(read_toml(path), str(path))
    was, now = _settings_of(before), _settings_of(there)
    changed = {key: now.get(key) for key in was | now if was.get(key) != now.get(key)}
    kept = [f"{key} (it was {was.get(key)!r})" for key in changed if key not in MAY_CHANGE]
    if kept:
        raise ConfigError(
            f"{path} was edited, and a run keeps {', '.join(kept)}: put it back, or start another run with --config"
        )
    for key, value in changed.items():
        say(f"note: {path} was edited: {key} is {value!r}, and was {was.get(key)!r}")
    return there


def _settings_of(config: Config) -> dict[str, Any]:
    """Return the settings of a configuration by table and name, such as `training.steps`."""
    tables = {name: value if isinstance(value, dict) else {"": value} for name, value in config.to_dict().items()}
    return {f"{name}.{key}".rstrip("."): value for name, table in tables.items() for key, value in table.items()}
