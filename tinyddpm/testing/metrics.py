"""The conformance kit for features and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.metrics.base import Features, Metric, Part, Seen, Sets
from tinyddpm.testing.gradients import HostArray, read_only
from tinyddpm.testing.plugin import resolve

TOLERANCE = 1e-4
"""Largest difference of a sample's features alone and in a batch, in float32, as a share of the largest feature."""

SIDE = 12
"""Side of the test images in pixels."""


def check_feature(
    features: str | Callable[..., Features], samples: HostArray | None = None, backend: str = "numpy", **options: Any
) -> None:
    """Check that features keep their contract, with these options, on a backend.

    - Their description and their resize are one line each.
    - Features are float32 (n, D), logits float32 (n, K), and all finite.
    - Samples are not written to, and their features do not depend on the batch.
    - Different samples have different features, the same samples the same bits.

    Args:
        features: their registered name, or the callable `backend, **options -> Features`.
        samples: at least three different samples, such as points; grey and coloured noise if not given.
        backend: name of the backend.
        options: options of the features.

    Raises:
        AssertionError: the features break their contract; the line names the property.
    """
    make, what = resolve("features", features, arguments=1)
    found = make(load_backend(backend), **options)
    for name in ("description", "resize"):
        text = getattr(found, name, None)
        lines = text.splitlines() if isinstance(text, str) else []
        assert len(lines) == 1, f"{what}: its {name} is {text!r}: give one line"
    noise = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 4), np.uint8)
    for looked_at in (noise[..., :1], noise[..., 1:]) if samples is None else (samples,):
        _check_seen(found, looked_at, f"{what} of samples {looked_at.shape[1:]}")


def _check_seen(features: Features, samples: HostArray, what: str) -> None:
    shown = read_only({"samples": np.ascontiguousarray(samples)})["samples"]
    try:
        seen, again, alone = features(shown), features(shown), features(shown[1:2])
    except ValueError as cause:
        raise AssertionError(f"{what} fail with read-only samples: ValueError: {cause}") from cause
    assert isinstance(seen, Seen), f"{what} are a {type(seen).__name__}, not Seen"
    for name, rows in seen._asdict().items():
        if rows is None:
            continue
        kind = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else f"a {type(rows).__name__}"
        fits = isinstance(rows, np.ndarray) and rows.dtype == np.float32 and rows.ndim == 2 and len(rows) == len(shown)
        assert fits, f"{what}: {name} are {kind}: give float32 ({len(shown)}, D) on the host"
        assert np.all(np.isfinite(rows)), f"{what}: {name} are not all finite"
        assert np.array_equal(rows, getattr(again, name)), f"{what}: {name} differ at the second call"
        apart = float(np.max(np.abs(rows[1:2] - getattr(alone, name)))) / float(np.max(np.abs(rows)) or 1)
        assert apart <= TOLERANCE, f"{what}: {name} of a sample alone are off by {apart:.1e} from those in a batch"
    assert len(np.unique(seen.features, axis=0)) == len(shown), f"{what}: different samples have the same features"


def check_metric(metric: str | Metric, **options: Any) -> None:
    """Check that a metric keeps its contract, with these options.

    It returns finite numbers by name, the same ones at a second call, and does not write to features. It also works
    without labels, captions and logits, and without training samples unless its attribute `needs` names them.

    Args:
        metric: its registered name, or the callable `sets, **options -> {name: number}`.
        options: options of the metric.

    Raises:
        AssertionError: the metric breaks its contract; the line names the property.
    """
    function, what = resolve("metrics", metric, arguments=1)
    rng = np.random.default_rng(0)
    drawn, real, training = (_made_up(rng, n) for n in (60, 50, 70))
    needed = getattr(function, "needs", ())
    strange = set(needed) - {"training"}
    assert not strange, f"{what} needs {', '.join(sorted(strange))}, which sets do not have: they have training"
    kept = training if "training" in needed else None
    numbers, again = (_asked(function, Sets(replace(drawn), replace(real), kept), options, what) for _ in range(2))
    assert numbers, f"{what} returns no number for samples with labels, captions and logits"
    assert numbers == again, f"{what}: the same sets give other numbers at the second call"
    bare = [replace(part, logits=None, labels=None, words=None) for part in (drawn, real, training)]
    fewest = Sets(bare[0], bare[1], bare[2] if kept else None)
    fewer = _asked(function, fewest, options, what, "without labels, captions and logits")
    new = sorted(fewer.keys() - numbers.keys())
    assert not new, f"{what} returns {', '.join(new)} only without labels: leave out what cannot be measured"


def _made_up(rng: np.random.Generator, n: int) -> Part:
    labels = rng.integers(0, 3, n)
    arrays: dict[str, Any] = {
        "features": rng.standard_normal((n, 6), np.float32) + labels[:, None].astype(np.float32),
        "logits": rng.standard_normal((n, 4), np.float32),
        "labels": labels,
    }
    words = [("red circle", "blue square", "blue circle")[label] for label in labels]
    return Part(**read_only(arrays), words=words)


def _asked(
    function: Metric, sets: Sets, options: dict[str, Any], what: str, how: str = "on read-only features"
) -> dict[str, float]:
    """Return the numbers of a metric; an error that it raises becomes an AssertionError that says how it was asked."""
    if sets.training is None:
        how += ", and without training samples, for its attribute needs does not name them"
    try:
        numbers = dict(function(sets, **options))
    except (AttributeError, IndexError, TypeError, ValueError) as cause:
        raise AssertionError(f"{what} fails {how}: {type(cause).__name__}: {cause}") from cause
    for name, number in numbers.items():
        named = isinstance(name, str) and name
        assert named, f"{what}: the name {name!r} is no text"
        finite = isinstance(number, float) and np.isfinite(number)
        assert finite, f"{what}: {name} is {number!r}: give a finite float"
    return numbers
