"""Callbacks: objects that are told of a run's events, and may ask the run to stop.

A callback has any of the following methods, named after the `EVENTS`. Their arguments are plain values:

- `started(step, steps, folder)`: before the first step; steps done, steps in all, a Path.
- `step(step, loss, gradient_norm, learning_rate)`: after each step.
- `logged(step, loss, gradient_norm, learning_rate, samples_per_second)`: after each training line of `metrics.jsonl`;
  mean loss and speed of the steps since the line before.
- `validated(step, loss)`: after each validation and its line of `metrics.jsonl`.
- `saved(step, path)`: after each checkpoint.
- `drew(step, paths)`: after samples were drawn and written, as PNG or GIF.
- `ended(step, complete)`: last; steps done, and whether these are all.

`folder` is the run folder; the settings are in its `config.toml`. Of ranks that share a run, the first has callbacks.

A method that returns True asks the run to stop: the run saves, draws its last samples and ends. If a method raises an
exception, the run prints it in one line, drops that callback and goes on. An entry of group `tinyddpm.callbacks` makes
a callback from its options, `*, <options> -> callback`.

The metrics file and the progress line are no callbacks: a run that cannot log its losses ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tinyddpm import registry
from tinyddpm.errors import ConfigError, RegistryError

EVENTS = ("started", "step", "logged", "validated", "saved", "drew", "ended")


class Callbacks:
    """The callbacks of a run.

    Attributes:
        stopped_by: the name of the first callback that asked the run to stop, or None.

    Args:
        chosen: the options of each callback, by its registered name.
        say: called with one line for a callback that fails.

    Raises:
        RegistryError: a callback is not installed, or broken.
        ConfigError: an option is wrong.
    """

    def __init__(self, chosen: Mapping[str, Mapping[str, Any]], say: Callable[[str], None]) -> None:
        self.stopped_by: str | None = None
        self._say = say
        self._listening = {name: registry.build("callbacks", name, (), options) for name, options in chosen.items()}

    def tell(self, event: str, **values: Any) -> None:
        """Call the method `event` of every callback that has it."""
        for name, callback in list(self._listening.items()):
            try:
                if _call(name, callback, event, values) and self.stopped_by is None:
                    self.stopped_by = name
            except RegistryError as error:
                self._say(f"note: {error}; it is dropped, and the run goes on")
                del self._listening[name]


def _call(name: str, callback: Any, event: str, values: dict[str, Any]) -> bool:
    """Return whether the callback asks to stop. Any exception that it raises becomes a RegistryError of one line."""
    method = getattr(callback, event, None)
    try:
        return method is not None and bool(method(**values))
    except (Exception, SystemExit) as cause:
        reason = " ".join(str(cause).split())
        raise RegistryError(f"callback {name!r} failed at {event!r}: {type(cause).__name__}: {reason}") from cause


class EarlyStop:
    """Stops a run whose validation loss no longer falls. A resumed run starts counting again.

    Args:
        patience: the number of validations in a row without a new best loss after which the run stops.
        least: the smallest difference by which a new best loss must be lower than the one before.

    Raises:
        ConfigError: patience is below 1, or `least` negative.
    """

    def __init__(self, *, patience: int = 5, least: float = 0.0) -> None:
        if patience < 1:
            raise ConfigError(f"patience is {patience}: give at least 1 validation")
        if not least >= 0:
            raise ConfigError(f"least is {least}: give a difference from 0 on")
        self.patience, self.least = patience, least
        self.best, self.missed = math.inf, 0

    def validated(self, step: int, loss: float) -> bool:
        """Return whether the run should stop."""
        lower = loss < self.best - self.least
        self.missed = 0 if lower else self.missed + 1
        self.best = loss if lower else self.best
        return self.missed >= self.patience
