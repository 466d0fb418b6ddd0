"""The configuration of a run: tables of settings with defaults, read from TOML and checked when it is made."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from functools import cache
from math import inf, isfinite
from pathlib import Path
from typing import Any, get_type_hints

from tinyddpm import registry
from tinyddpm.errors import ConfigError, unknown
from tinyddpm.files import check_file
from tinyddpm.model.averages import lengths_of
from tinyddpm.model.tables import (
    HOLDERS,
    NAMED_IN_TRAINING,
    SUMS,
    ConditionConfig,
    DataConfig,
    GuidanceConfig,
    NetworkConfig,
    OptionsConfig,
    RateConfig,
    SamplingConfig,
    ScheduleConfig,
    TrainingConfig,
    WeightingConfig,
    setting,
)

TOYS = ("mixture", "mixture-1d", "moons", "ring", "swiss-roll")
"""The data sets of points on a line or in the plane, which start from the preset `toy`."""


SEVERAL = {"transforms": "shift", "callbacks": "early-stop"}
"""Tables that hold any number of parts, each with a table of options; and an example of such a part for messages."""

MOST = {
    "training.steps": 10**9, "training.warmup": 10**9, "sampling.count": 10**6,
    "training.learning_rate": 1e38, "training.vlb_weight": 1e38, "training.weight_decay": 1e38,
}  # fmt: skip
"""Largest values of settings that tables or pictures grow with, or that are factors in float32: more is a slip."""

DEEPEST = 8
"""Largest depth of nested tables and lists."""

_NAME = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
DOTTED = re.compile(rf"""(?<![\w.\-"']){_NAME}(?:[ \t]*+\.[ \t]*+{_NAME}){{64}}""")
"""Matches a dotted key of more than 64 parts, which no real file has."""


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes."""

    seed: int = setting(0, "Seed of all random numbers.")
    backend: str = setting("numpy", "Where to compute, a registered name: numpy, numba, torch or cupy.")
    device: str | None = setting(None, "The backend's device, such as cuda:1.")
    precision: str = setting("fp32", "What to compute in: fp32, or what else the backend has: tf32, bf16.")
    graph: bool = setting(True, "Record training steps as a CUDA graph, on cupy.")
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    parametrisation: OptionsConfig = field(default_factory=OptionsConfig)
    objective: OptionsConfig = field(default_factory=OptionsConfig)
    times: OptionsConfig = field(default_factory=OptionsConfig)
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    transforms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The transforms of training samples, in this order: the options of each, by its registered name."""
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The callbacks of the run: the options of each, by its registered name."""

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as nested tables, which `from_dict` reads. Settings that are None are left out."""
        tables: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if value is None:
                continue
            if name in SEVERAL:
                tables |= {name: value} if value else {}
            elif isinstance(value, dict):
                held = {key: value.pop(key) for key, holder in HOLDERS.items() if holder == name}
                for key, table in {name: value, **held}.items():
                    options = table.pop("options", {})
                    filled = {**{k: v for k, v in table.items() if v is not None}, **options}
                    tables |= {key: filled} if filled else {}
            else:
                tables[name] = value
        return tables

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any], origin: str = "configuration") -> Config:
        """Return the defaults, overridden by nested tables.

        Args:
            tables: the tables.
            origin: where they come from, for messages.

        Raises:
            ConfigError: a key is unknown, or a value has the wrong type or is out of range.
        """
        return cls().updated(tables, origin)

    def updated(self, tables: Mapping[str, Any], origin: str = "configuration") -> Config:
        """Return this configuration, overridden by nested tables; see `from_dict`.

        A table that names another part (network, schedule, sampler, data set, …) drops the options of the former part.
        """
        fault = fault_in(tables)
        if fault:
            raise ConfigError(f"{origin}: {fault}: give texts, numbers, true or false, and lists of them")
        config = self._without_options_of_others(tables.get("training"))
        for name, value in tables.items():
            if name not in (known := {*_fields(Config), *HOLDERS}):
                raise ConfigError(f"{origin}: {unknown('key', name, known)}")
            if name in SEVERAL:
                others: dict[str, Any] = {name: _with_others(name, getattr(config, name), value, origin)}
                config = replace(config, **others)
                continue
            holder = HOLDERS.get(name)
            current = getattr(getattr(config, holder) if holder else config, name)
            if not hasattr(current, "__dataclass_fields__"):
                config = replace(config, **{name: _checked(Config, name, value, f"{origin}: {name}")})
                continue
            if not isinstance(value, Mapping):
                raise ConfigError(f"{origin}: {name} is a table of settings, not {value!r}")
            table = _updated(current, value, f"{origin}: {name}")
            if holder:
                name, table = holder, replace(getattr(config, holder), **{name: table})
            config = replace(config, **{name: table})
        _check_ranges(config, origin)
        return config

    def _without_options_of_others(self, training: Any) -> Config:
        """Return this configuration without the options of the parts that a table `training` replaces by others."""
        given = training if isinstance(training, Mapping) else {}
        others: dict[str, Any] = {
            table: OptionsConfig()
            for table, key in NAMED_IN_TRAINING.items()
            if key in given and given[key] != getattr(self.training, key)
        }
        return replace(self, **others)

    def to_toml(self) -> str:
        """Return the configuration as TOML."""
        lines = []
        tables = self.to_dict()
        parts = {
            f"{table}.{_toml(name)}": options for table in SEVERAL for name, options in tables.pop(table, {}).items()
        }
        for name, value in {**tables, **parts}.items():
            if isinstance(value, dict):
                lines += ["", f"[{name}]", *(f"{key} = {_toml(item)}" for key, item in value.items())]
            else:
                lines.append(f"{name} = {_toml(value)}")
        return "\n".join(lines) + "\n"


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    try:
        check_file(path)
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables in a TOML text whose values are ones that a configuration can have.

    Raises:
        ValueError: the text is not TOML, or has a date, a number beyond 64 bits, or too deeply nested tables.
    """
    if DOTTED.search(text):  # tomllib's time grows with the square of the number of dots
        raise ValueError("it is nested too deeply")
    try:
        tables = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    fault = fault_in(tables)
    if fault:
        raise ValueError(fault)
    return tables


def fault_in(value: Any) -> str:
    """Return what makes values read from a file invalid as settings, at any depth; "" if they are valid."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below += [*item, *item.values()]
            elif isinstance(item, list | tuple):
                below += item
            elif isinstance(item, str):
                if any("\ud800" <= c <= "\udfff" for c in item):
                    return f"{item!r} is no Unicode text"
            elif isinstance(item, int):
                if not -(2**63) <= item < 2**64:
                    return "a number has more than 64 bits"
            elif item is not None and not isinstance(item, float):
                return f"{item} is a {type(item).__name__}"
        level = below
        if not level:
            return ""
    return "it is nested too deeply"


def presets() -> list[str]:
    """Return the names of the presets, in alphabetical order."""
    return sorted({entry.name for entry in registry.entries("presets")})


@dataclass(frozen=True)
class Preset:
    """A configuration known to work, and the samples it is meant for: their shape and their number of classes."""

    config: Config
    sample_shape: tuple[int, ...]
    classes: int


def preset(name: str) -> Preset:
    """Return the preset called `name`.

    Raises:
        RegistryError: there is no preset of this name, or its plugin is broken.
        ConfigError: its settings are wrong, or it does not say which samples it is meant for.
    """
    return preset_of(name, registry.build("presets", name, (), {}))


def preset_of(name: str, tables: Any) -> Preset:
    """Return the preset with the tables `tables`, called `name` in messages; see `preset`."""
    match tables:
        case {"about": {"sample_shape": [*shape], "classes": int(classes)}, **rest}:
            settings = {str(key): value for key, value in rest.items()}
            return Preset(Config.from_dict(settings, f"preset {name}"), tuple(shape), classes)
    raise ConfigError(
        f"preset {name!r}: its table `about` must have sample_shape, such as [32, 32, 3], and classes, a whole number"
    )


def defaults_for(source: str) -> Config:
    """Return the default settings for a data set: those of the preset of its name, if there is one, or DDPM's."""
    name = "toy" if source in TOYS else source
    return preset(name).config if name in presets() else Config()


def settings() -> Iterator[tuple[str, str, str, Any, Any]]:
    """Yield (table, key, command-line name, type, help text) of every setting; top-level ones have the table ''."""
    for name, item in _fields(Config).items():
        if item.default_factory is MISSING:
            yield "", name, item.metadata["flag"] or name, get_type_hints(Config)[name], item.metadata["help"]
            continue
        table = item.default_factory
        if table is dict:  # of transforms or callbacks, which may be plugins
            continue
        held = {key: _fields(table)[key].default_factory for key, holder in HOLDERS.items() if holder == name}
        for part, kind in {name: table, **held}.items():
            for key, inner in _fields(kind).items():
                if inner.metadata:
                    yield part, key, inner.metadata["flag"] or key, get_type_hints(kind)[key], inner.metadata["help"]


def tables_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables from settings by their command-line names. A value that is a mapping is itself a table.

    Raises:
        ConfigError: a name is unknown.
    """
    places = {name: (table, key) for table, key, name, *_ in settings()}
    tables: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            tables.setdefault(name, {}).update(value)
        elif name not in places:
            raise ConfigError(unknown("setting", name, places))
        else:
            table, key = places[name]
            (tables.setdefault(table, {}) if table else tables)[key] = value
    return tables


def _fields(table: Any) -> dict[str, Field[Any]]:
    return {item.name: item for item in fields(table)}


@cache
def _types(table: type) -> dict[str, Any]:
    """Return the type of each setting of a table, which is asked for with each value."""
    return get_type_hints(table)


def _toml(value: Any) -> str:
    """Return a value as TOML: JSON with DEL escaped is valid TOML for these types, as texts have no surrogates.

    Only infinity has another name there.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _updated(current: Any, values: Mapping[str, Any], where: str) -> Any:
    """Return a table with `values` set. Keys that are no settings become options of the part that the table names."""
    table = type(current)
    known = [name for name, item in _fields(table).items() if item.metadata]
    for key in (key for key in values if key in HOLDERS and key in _fields(table)):
        raise ConfigError(f"{where}: {key} has a table of its own: write name = {values[key]!r} under [{key}]")
    plain = {key: _checked(table, key, value, f"{where}.{key}") for key, value in values.items() if key in known}
    rest = {key: value for key, value in values.items() if key not in known}
    if rest and "options" not in _fields(table):
        raise ConfigError(f"{where}: {unknown('key', next(iter(rest)), known)}")
    if "options" in _fields(table):
        part = getattr(current, known[0]) if known else None
        plain["options"] = {**current.options, **rest} if not known or plain.get(known[0], part) == part else rest
    return replace(current, **plain)


def _with_others(table: str, current: dict[str, dict[str, Any]], values: Any, origin: str) -> dict[str, dict[str, Any]]:
    """Return the parts of a table of `SEVERAL`, with further options of a part and with further parts after them."""
    if not isinstance(values, Mapping) or not all(isinstance(options, Mapping) for options in values.values()):
        raise ConfigError(
            f"{origin}: {table} is {values!r}: give a table of options for each, such as [{table}.{SEVERAL[table]}]"
        )
    return current | {name: {**current.get(name, {}), **options} for name, options in values.items()}


def _checked(table: type, key: str, value: Any, where: str) -> Any:
    kind = _types(table)[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = {int: "a whole number", float: "a number", bool: "true or false", bool | None: "true or false"}.get(
        kind, "a text"
    )
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where} is {value!r}: give {wanted}")
    return value


def _check_ranges(config: Config, origin: str) -> None:
    training = config.training
    at_least = {
        "seed": (config.seed, 0),
        "schedule.timesteps": (config.schedule.timesteps, 2),
        "data.validation": (config.data.validation, 1),
        "sampling.steps": (config.sampling.steps, 0),
        "sampling.count": (config.sampling.count, 1),
        **{
            f"training.{key}": (getattr(training, key), least)
            for key, least in {
                "steps": 1, "batch_size": 1, "accumulate": 1, "warmup": 0, "threads": 0, "clip": 0.0, "log_every": 1,
                "validate_every": 1, "save_every": 1, "sample_every": 1, "learning_rate": 0.0, "vlb_weight": 0.0,
                "weight_decay": 0.0, "keep": 0, "snapshot_every": 0,
            }.items()
        },
    }  # fmt: skip
    for name, (value, least) in at_least.items():
        if not value >= least:
            raise ConfigError(f"{origin}: {name} is {value}: it must be at least {least}")
        if value > MOST.get(name, inf):
            raise ConfigError(f"{origin}: {name} is {value}: it must be at most {MOST[name]}")
    if not 0 <= training.ema < 1:
        raise ConfigError(f"{origin}: training.ema is {training.ema}: it must lie in [0, 1)")
    try:
        lengths_of(training.average_lengths)
    except ConfigError as error:
        raise ConfigError(f"{origin}: training.average_lengths {error}") from error
    if not 0 <= config.condition.dropout <= 1:
        raise ConfigError(f"{origin}: condition.dropout is {config.condition.dropout}: it must lie in [0, 1]")
    if training.sums not in SUMS:
        raise ConfigError(f"{origin}: training.sums is {training.sums!r}: choose from {', '.join(SUMS)}")
    if training.accumulate > training.batch_size:
        raise ConfigError(
            f"{origin}: training.accumulate {training.accumulate} cuts a batch of {training.batch_size} into "
            "less than one sample: give at most the batch size"
        )
