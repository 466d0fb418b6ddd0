"""The contract of every kind of plugin: it can be found by name, and its options are keyword-only with defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tinyddpm import registry
from tinyddpm.backend import Backend


def resolve(group: str, plugin: str | Callable[..., Any], arguments: int) -> tuple[Callable[..., Any], str]:
    """Return the plugin, loaded if it is given by its registered name, and its name for messages.

    Args:
        group: a group of the registry, such as "networks".
        plugin: a registered name, or the callable.
        arguments: number of positional arguments in the group's contract; later parameters are options.

    Raises:
        RegistryError: there is no such name, or its plugin cannot be loaded.
        AssertionError: an option is not keyword-only, or has no default.
    """
    function = registry.load(group, plugin) if isinstance(plugin, str) else plugin
    name = plugin if isinstance(plugin, str) else getattr(plugin, "__name__", repr(plugin))
    what = registry.called(group, name)
    parameters = list(inspect.signature(function).parameters.values())
    assert len(parameters) >= arguments, f"{what} takes {len(parameters)} arguments, its group has {arguments}"
    for option in parameters[arguments:]:
        assert option.kind is option.KEYWORD_ONLY, f"{what}: option {option.name} is not keyword-only"
        assert option.default is not option.empty, f"{what}: option {option.name} has no default"
    return function, what


@contextmanager
def blamed(call: str, backend: Backend) -> Iterator[None]:
    """Turn an error of a plugin, called inside, into an AssertionError that names the call and the backend."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as cause:
        where = backend.name or backend.xp.__name__
        raise AssertionError(f"{call} fails on {where}: {type(cause).__name__}: {cause}") from cause
