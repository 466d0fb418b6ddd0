"""The conformance kit for callbacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tinyddpm.figures.images import save_png
from tinyddpm.model.config import Config
from tinyddpm.testing.plugin import resolve
from tinyddpm.training.callbacks import EVENTS


def check_callback(callback: str | Callable[..., Any], **options: Any) -> None:
    """Check that a callback keeps its contract, with these options.

    It has at least one of the methods in `tinyddpm.training.callbacks.EVENTS`, and no method with a misspelt name of
    one. During a simulated run of ten steps, whose folder holds settings, metrics and a grid of samples, each method
    takes the values of its event, raises nothing, and returns None or a bool.

    Args:
        callback: its registered name, or the function `**options -> callback`.
        options: its options.

    Raises:
        AssertionError: the callback breaks its contract; the line names the method.
    """
    make, what = resolve("callbacks", callback, arguments=0)
    listening = make(**options)
    methods = [name for name in dir(listening) if not name.startswith("_") and callable(getattr(listening, name))]
    for name in methods:
        close = [] if name in EVENTS else get_close_matches(name, EVENTS, n=1, cutoff=0.75)
        assert not close, f"{what}: its method {name} is never called: is {close[0]} meant?"
    assert set(methods) & set(EVENTS), f"{what} is never called: give it one of the methods {', '.join(EVENTS)}"
    with TemporaryDirectory() as folder:
        for event, values in _run(Path(folder)):
            if event not in methods:
                continue
            try:
                answer = getattr(listening, event)(**values)
            except Exception as cause:
                raise AssertionError(f"{what}: {event} fails: {type(cause).__name__}: {cause}") from cause
            assert answer is None or isinstance(answer, bool), f"{what}: {event} returns {answer!r}: give a bool"


def _run(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of a simulated run, with their values; files that they name are written to the folder before."""
    checkpoint, grid, metrics = folder / "checkpoint.h5", folder / "samples.png", folder / "metrics.jsonl"
    (folder / "config.toml").write_text(Config().to_toml(), encoding="utf-8")
    yield "started", {"step": 0, "steps": 10, "folder": folder}
    for step in range(1, 11):
        values = {"step": step, "loss": 1 / step, "gradient_norm": 0.5, "learning_rate": 1e-3}
        yield "step", values
        if step % 5:
            continue
        values["samples_per_second"] = 100.0
        with metrics.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in (values, {"step": step, "validation_loss": 1 / step}))
        yield "logged", values
        yield "validated", {"step": step, "loss": 1 / step}
        checkpoint.touch()
        yield "saved", {"step": step, "path": checkpoint}
        save_png(grid, np.full((8, 8, 3), 25 * step, np.uint8))
        yield "drew", {"step": step, "paths": [grid]}
    yield "ended", {"step": 10, "complete": True}
