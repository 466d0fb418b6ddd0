"""Errors that a user can act on: one line each, saying what is wrong, with which value, and what to do."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


def shown(text: str) -> str:
    """Return `text` as one line without characters that a terminal would act on.

    Each character that is not printable (control characters, line separators, marks of direction, surrogates) becomes
    `\\uXXXX`, as in JSON, TOML and Python.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in text)


def _escaped(number: int) -> str:
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class TinyDDPMError(Exception):
    """Base of every error a user can act on; the command line prints its one line and exits 1."""

    def __str__(self) -> str:
        return shown(super().__str__())


class ConfigError(TinyDDPMError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another."""


class RegistryError(TinyDDPMError):
    """A plugin is unknown, broken, or its name is claimed twice."""


class BackendError(TinyDDPMError):
    """A backend cannot be used here: its package, driver or device is missing."""


class OutOfMemoryError(BackendError):
    """A computation does not fit the memory of its backend."""


class DataError(TinyDDPMError):
    """A data set cannot be found, understood or read."""


class CheckpointError(TinyDDPMError):
    """A checkpoint is damaged, foreign, or does not fit the model it is loaded into."""


class TrainingError(TinyDDPMError):
    """A training run cannot go on."""


class DrawingError(TinyDDPMError):
    """Samples cannot be drawn, or measured, with these weights."""


class RankError(TinyDDPMError):
    """Another rank of the run is lost, or has stopped with an error."""


class SumLostError(RankError):
    """Another rank is lost, and a sum on this rank's device was abandoned in the middle of a step."""


class TinyDDPMWarning(UserWarning):
    """Base of warnings that need no action; the command line prints their one line as a note."""


@contextmanager
def said_before() -> Iterator[None]:
    """Suppress this package's warnings inside the block, which repeats work that has already raised them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TinyDDPMWarning)
        yield


def closest_first(name: str, names: Iterable[str]) -> list[str]:
    """Return `names` with those that resemble `name` first, the rest in alphabetical order."""
    names = sorted(names)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    return close + [n for n in names if n not in close]


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """Return the error message for an unknown `name`, with all known names, the closest first."""
    ordered = closest_first(name, names)
    if not ordered:
        return f"unknown {kind} {name!r}: there is none of this kind"
    close = get_close_matches(name, ordered, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {kind} {name!r}: {guess}there are: {', '.join(ordered)}"
