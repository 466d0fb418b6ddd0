"""The conformance kit for transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm.backend import Backend, load_backend
from tinyddpm.errors import ConfigError
from tinyddpm.testing.gradients import HostArray, read_only
from tinyddpm.testing.plugin import resolve
from tinyddpm.transforms import Chance, Transform

N = 48
SEED = 20
STEPS = (0, 5)
TOLERANCE = 1e-5
"""Largest difference of a transform on two backends, whose roots and cosines differ in their last places."""


def check_transform(
    transform: str | Callable[..., Transform], sample_shape: tuple[int, ...] = (6, 8, 3), **options: Any
) -> None:
    """Check that a transform keeps its contract, with these options.

    On 48 random samples, which are read-only:

    - The results have the samples' shape and type, and images stay in [−1, 1].
    - The numbers that describe the transform of a sample are finite float32, as many as its attribute `numbers` says.
      If they are all zero, the sample is unchanged bit for bit.
    - The same call gives the same bits, and the transform of a sample depends on its index, not on its batch.
    - Some samples are changed, or have numbers that are not zero.

    Then on array-api-strict, where it is installed, to rounding, without shapes that depend on values.

    Args:
        transform: its registered name, or the callable `(sample_shape, **options) -> Transform`.
        sample_shape: shape of one sample.
        options: its options.

    Raises:
        AssertionError: the transform breaks its contract; the line names the property.
    """
    build, what = resolve("transforms", transform, arguments=1)
    try:
        made: Transform = build(sample_shape, **options)
    except ConfigError as error:
        raise AssertionError(f"{what}: {error}") from error
    samples = np.random.default_rng(SEED).uniform(-1, 1, (N, *sample_shape)).astype(np.float32)
    x_0, host, changed = read_only({"x_0": samples})["x_0"], load_backend("numpy"), False
    for step in STEPS:
        y, told = _done(made, host, x_0, np.arange(N), step, what)
        _check_results(made, x_0, y, told, what)
        changed = changed or bool(told.any()) or not np.array_equal(y, x_0)
        again = _done(made, host, x_0, np.arange(N), step, what)
        same = np.array_equal(again[0], y) and np.array_equal(again[1], told)
        assert same, f"{what}: the same call gives other bits: draw random numbers only from the given chance"
        some = np.asarray([N - 1, 3, 4])
        for numbers in (some, some[:1]):
            cut = _done(made, host, x_0[numbers], numbers, step, what)
            same = np.array_equal(cut[0], y[numbers]) and np.array_equal(cut[1], told[numbers])
            assert same, f"{what}: the result for a sample depends on the others of its batch"
        _check_standard(made, x_0, y, told, step, what)
    assert changed, f"{what}: nothing is done to any of {N} samples in {len(STEPS)} steps, with these options"


def _done(
    made: Transform, backend: Backend, x_0: HostArray, numbers: HostArray, step: int, what: str
) -> tuple[HostArray, HostArray]:
    """Return the transformed samples and their numbers, on the host."""
    random = backend.random(SEED)
    numbers, step_there = random.on_device(step, numbers)
    chance = Chance(random, step_there, numbers, place=1)
    try:
        y, told = made(chance, backend.asarray(x_0))
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as cause:
        reason = " ".join(str(cause).split())
        raise AssertionError(f"{what} fails on {backend.describe()}: {type(cause).__name__}: {reason}") from cause
    return backend.to_numpy(y), backend.to_numpy(told)


def _check_results(made: Transform, x_0: HostArray, y: HostArray, told: HostArray, what: str) -> None:
    """Check shapes, types and ranges, and that samples whose numbers are all zero are unchanged."""
    for name, array, shape in (("samples", y, x_0.shape), ("numbers", told, (len(x_0), made.numbers))):
        assert array.shape == shape, f"{what}: its {name} have shape {array.shape}, it must be {shape}"
        assert array.dtype == np.float32, f"{what}: its {name} are {array.dtype}, they must be float32"
        assert np.isfinite(array).all(), f"{what}: some of its {name} are not finite"
    if x_0.ndim == 4:
        most = float(np.abs(y).max())
        assert most <= 1, f"{what}: a pixel becomes {most:g} in size: images lie in [-1, 1]"
    as_they_were = np.all(y == x_0, axis=tuple(range(1, x_0.ndim)))
    silent = ~told.any(axis=1)
    assert not (silent & ~as_they_were).any(), f"{what}: its numbers are all zero for a sample that it has changed"


def _check_standard(made: Transform, x_0: HostArray, y: HostArray, told: HostArray, step: int, what: str) -> None:
    """Check that the results are the same on array-api-strict, if that is installed."""
    try:
        import array_api_strict
    except ImportError:
        return
    with array_api_strict.ArrayAPIStrictFlags(data_dependent_shapes=False):
        found = _done(made, Backend(array_api_strict), x_0, np.arange(N), step, what)
    for name, ours, theirs in (("samples", y, found[0]), ("numbers", told, found[1])):
        close = np.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE)
        assert close, f"{what}: its {name} differ on array-api-strict"
