"""Callbacks: what is told of a run while it goes on, and may ask it to stop.

A callback is an object with methods that are called by these names, those of `EVENTS` that it has, with values alone:

    started(step, steps, folder)                            before the first step: steps done, steps in all, a Path
    step(step, loss, gradient_norm, learning_rate)          after each step
    logged(step, loss, gradient_norm, learning_rate, samples_per_second)
                                                            after each line of `metrics.jsonl` on training: the mean
                                                            loss and the speed of the steps since the line before
    validated(step, loss)                                   after each validation, whose line is written too
    saved(step, path)                                       after each checkpoint
    drew(step, paths)                                       after samples have been drawn and written, PNG and GIF
    ended(step, complete)                                   last: steps done, and whether they are all

The folder is the run's; its settings lie there, in `config.toml`. In the ranks of a run, the first one has the
callbacks.

A method that returns True asks the run to stop: it saves, draws its last samples and ends. What a callback raises is
told in one line, and the callback is told no more; the run goes on. An entry of group `tinyddpm.callbacks` makes a
callback from its options, `*, <options> -> callback`.

The metrics file and the progress line are the run's own and no callbacks: a run that cannot log its losses ends.
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
        stopped_by: the name of the first that has asked the run to stop; None as long as none has.

    Args:
        chosen: the options of each, by its registered name.
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
                self._say(f"note: {error}; it is told no more, and the run goes on")
                del self._listening[name]


def _call(name: str, callback: Any, event: str, values: dict[str, Any]) -> bool:
    """Return whether the callback asks to stop; whatever it raises becomes a RegistryError of one line."""
    method = getattr(callback, event, None)
    try:
        return method is not None and bool(method(**values))
    except (Exception, SystemExit) as cause:
        reason = " ".join(str(cause).split())
        raise RegistryError(f"callback {name!r} failed at {event!r}: {type(cause).__name__}: {reason}") from cause


class EarlyStop:
    """Stops a run whose validation loss no longer falls; a resumed run counts anew.

    Args:
        patience: how many validations in a row may miss the best loss so far.
        least: by how much a loss must be lower than the best to count as one.

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
        """Return whether to stop."""
        lower = loss < self.best - self.least
        self.missed = 0 if lower else self.missed + 1
        self.best = loss if lower else self.best
        return self.missed >= self.patience
