"""Plugins: the parts of every kind, from schedules to commands, found through entry points.

The built-in parts are entry points of this distribution and found like all others. Listing reads metadata and imports
nothing; a part is imported when it is loaded by name. A broken part affects no other.

Parts of all groups are called alike: the positional arguments of the group, then keyword-only options with defaults,
which the configuration has in the part's own table. A part that needs a library beyond its package's dependencies
has an attribute `requires`, a mapping from modules to the arguments of `pip install` for them.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from traceback import walk_tb
from types import TracebackType
from typing import Any, Literal, get_args, get_origin

from tinyddpm.errors import ConfigError, RegistryError, unknown

GROUPS = (
    "schedules", "parametrisations", "objectives", "weightings", "times", "networks", "conditions", "samplers",
    "spacings", "guidance", "datasets", "transforms", "backends", "presets", "rates", "callbacks", "features",
    "metrics", "commands",
)  # fmt: skip
"""The kinds of plugin; each is the entry-point group `tinyddpm.<kind>`."""


@dataclass(frozen=True, order=True)
class Entry:
    """One registered plugin: its group and name, the object's `module:attribute`, and the distribution it is from."""

    group: str
    name: str
    value: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.value} from {self.distribution} {self.version}"


def entries(group: str) -> list[Entry]:
    """Return every entry of `group` in alphabetical order, names claimed twice included. Imports no plugin."""
    if group not in GROUPS:
        raise RegistryError(unknown("plugin group", group, GROUPS))
    return list(_registered(tuple(map(_state_of, sys.path))).get(group, ()))


@lru_cache(maxsize=1)
def _registered(places: tuple[tuple[str, int], ...]) -> dict[str, list[Entry]]:
    """Return the entries of every group, cached until one of `places`, the folders of packages, changes."""
    points, found = metadata.entry_points(), dict[str, list[Entry]]()
    known: dict[metadata.Distribution, metadata.PackageMetadata] = {}  # parsed once each
    for name in sorted(points.groups):
        if not name.startswith("tinyddpm."):
            continue
        group, these = name.removeprefix("tinyddpm."), set[Entry]()
        for point in points.select(group=name):
            assert point.dist is not None  # every point of an installed distribution has it
            if point.dist not in known:
                known[point.dist] = point.dist.metadata
            about = known[point.dist]
            these.add(Entry(group, point.name, point.value, str(about["Name"]), str(about["Version"])))
        found[group] = sorted(these)
    return found


def _state_of(place: str) -> tuple[str, int]:
    """Return a folder and the time of the last change of its list of files, in nanoseconds."""
    try:
        return place, os.stat(place or ".").st_mtime_ns
    except OSError:
        return place, 0


def called(group: str, name: str) -> str:
    """Return a plugin's kind and name as messages have them, such as "sampler 'ddim'"."""
    return f"{group.removesuffix('s')} {name!r}"


def find(group: str, name: str) -> Entry:
    """Return the one entry called `name`.

    Raises:
        RegistryError: no entry has this name, or two distributions claim it.
    """
    known = entries(group)
    matches = [entry for entry in known if entry.name == name]
    if not matches:
        raise RegistryError(unknown(group.removesuffix("s"), name, {entry.name for entry in known}))
    if len(matches) > 1:
        claims = " and ".join(str(entry) for entry in matches)
        raise RegistryError(f"{called(group, name)} is registered twice, by {claims}: uninstall one of them")
    return matches[0]


def load(group: str, name: str) -> Any:
    """Import and return the object registered as `name` in `group`.

    Raises:
        RegistryError: the name is unknown or claimed twice, or its plugin cannot be imported (the cause is chained).
    """
    entry = find(group, name)
    try:
        return metadata.EntryPoint(name, entry.value, f"tinyddpm.{group}").load()
    except (Exception, SystemExit) as cause:  # a plugin may fail in any way, and must not end the program
        reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
        raise RegistryError(f"{called(group, name)} ({entry}) cannot be loaded: {reason}") from cause


def strange_groups() -> list[str]:
    """Return a line for every entry-point group whose name resembles one of `GROUPS`. Imports no plugin."""
    known = {f"tinyddpm.{group}" for group in GROUPS}
    lines = []
    for group in sorted(metadata.entry_points().groups - known):
        close = get_close_matches(group.lower(), known, n=1, cutoff=0.85)
        if close or group == "tinyddpm" or group.startswith("tinyddpm."):
            points = metadata.entry_points(group=group)
            owners = sorted({point.dist.name for point in points if point.dist is not None})
            names = ", ".join(sorted({point.name for point in points}))
            lines.append(f"{' and '.join(owners)} registers {names}: {unknown('entry-point group', group, known)}")
    return lines


def raised_in(trace: TracebackType | None) -> list[Entry]:
    """Return the parts of the plugin that a traceback leads through, the innermost one if there are several.

    They are those of the plugin's module, or else of its package; [] if the traceback leads through no plugin.
    """
    everything = [entry for group in GROUPS for entry in entries(group) if _package(entry.value) != __package__]
    for frame, _ in reversed([*walk_tb(trace)]):
        module = str(frame.f_globals.get("__name__"))
        of_package = [entry for entry in everything if _package(entry.value) == _package(module)]
        if of_package:
            return [entry for entry in of_package if entry.value.partition(":")[0] == module] or of_package
    return []


def _package(module: str) -> str:
    """Return the name of the package that a module, or the `module:attribute` of an entry, is in."""
    return module.partition(":")[0].partition(".")[0]


def missing(plugin: Any) -> dict[str, str]:
    """Return the modules that a plugin requires and that are not installed, with `pip install`'s argument for each."""
    return {module: package for module, package in getattr(plugin, "requires", {}).items() if find_spec(module) is None}


def options(plugin: Any) -> dict[str, inspect.Parameter]:
    """Return the options of a plugin: its keyword-only parameters by name."""
    return {
        name: parameter
        for name, parameter in _signature(plugin).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _signature(plugin: Any) -> inspect.Signature:
    """Return the signature, with evaluated annotations if they can be evaluated."""
    try:
        return inspect.signature(plugin, eval_str=True)
    except NameError:  # an annotation's name is imported for type checkers only
        return inspect.signature(plugin)


def build(group: str, name: str, arguments: Sequence[Any], chosen: Mapping[str, Any]) -> Any:
    """Call the plugin registered as `name` with the positional `arguments` of its group and the `chosen` options.

    Raises:
        RegistryError: the name is unknown, claimed twice, cannot be loaded, or does not take its group's arguments.
        ConfigError: an option is unknown, has another type than its default, has no default and no value, or is
            refused by the plugin.
    """
    plugin = checked(group, name, chosen)
    try:
        _signature(plugin).bind(*arguments, **chosen)
    except TypeError as cause:
        raise RegistryError(
            f"{called(group, name)} cannot be called with the {len(arguments)} arguments of its group"
            f" ({cause}): its signature is {_signature(plugin)}"
        ) from cause
    return plugin(*arguments, **chosen)


def require(group: str, name: str, made: Any, attributes: Sequence[str]) -> None:
    """Check that an object made by the plugin registered as `name` has the attributes of its group's contract.

    Raises:
        RegistryError: it lacks some of them.
    """
    lacking = [attribute for attribute in attributes if not hasattr(made, attribute)]
    if lacking:
        raise RegistryError(
            f"{called(group, name)} returns a {type(made).__name__}, which has no {', '.join(lacking)}:"
            " return an object that keeps the contract of its group"
        )


def checked(group: str, name: str, chosen: Mapping[str, Any]) -> Any:
    """Return the plugin registered as `name` after checking the `chosen` options; it raises like `build`."""
    plugin = load(group, name)
    what = called(group, name)
    try:
        known = options(plugin)
    except (TypeError, ValueError) as cause:  # it is not callable, or has no signature
        raise RegistryError(f"{what} cannot be used: {cause}: register a function or a class") from cause
    for option, value in chosen.items():
        if option not in known:
            raise ConfigError(unknown(f"option of {what}", option, known))
        default, words = known[option].default, _words(known[option].annotation)
        if not _like(value, default) and value not in words:
            others = "".join(f", or {word!r}" for word in words if word != default)
            raise ConfigError(
                f"option {option} of {what} is {value!r}: give {_described(default)}, such as {default!r}{others}"
            )
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in chosen:
            raise ConfigError(f"option {option} of {what} has no default: give it a value")
    return plugin


def _words(annotation: Any) -> tuple[Any, ...]:
    """Return the values of the `Literal`s in an annotation, such as "auto", which an option takes beside its type."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for part in get_args(annotation) for word in _words(part))


def _like(value: Any, default: Any) -> bool:
    """Whether `value` has the type of `default`; an int also suits a float, a list and a tuple suit each other."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) == isinstance(value, bool) or default is None
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, int | str):
        return isinstance(value, type(default))
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and all(_like(item, default[0]) for item in value if default)
    return True


def _described(default: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return kinds.get(type(default), "a list")
