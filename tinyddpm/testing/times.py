"""The conformance kit for laws of t."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.diffusion.times import Law
from tinyddpm.testing.gradients import HostArray
from tinyddpm.testing.plugin import resolve

T = 20
MANY = 400_000
"""Number of draws. If a thousandth of them is uniform over T times, they miss a time with probability 4e-8 at most."""


def check_time(law: str | Callable[..., Law], **options: Any) -> None:
    """Check that a law of t keeps its contract, with these options, before and after it is told losses.

    Times are int64 from 0 to T − 1, and each of these is drawn; weights are above 0 and have mean 1; a sample's time
    depends only on the seed, the step and the sample's place; and a law that is unpacked draws as the packed one did.

    Args:
        law: its registered name, or the callable `process, **options -> Law`.
        options: its options.

    Raises:
        AssertionError: the law breaks its contract; the line names the property.
    """
    kind, name = resolve("times", law, arguments=1)
    process = GaussianProcess(load_backend("numpy"), make_betas("cosine", T))
    made, other = kind(process, **options), kind(process, **options)
    _check_draws(made, f"{name}, at first")
    empty = made.packed()
    rng = np.random.default_rng(0)
    for _ in range(20):
        made.hear(np.arange(T), np.geomspace(1, 100, T) * rng.uniform(0.5, 1.5, T))
    _check_draws(made, f"{name}, after losses")
    packed = made.packed()
    assert np.shape(packed) == np.shape(empty), f"{name}: packed changes its shape, {np.shape(empty)} at first"
    if packed is not None:
        assert packed.dtype == np.float32, f"{name}: packed is {packed.dtype}, it must be float32"
        assert len(packed.shape) == 2, f"{name}: packed has shape {packed.shape}, it must be (T, n)"
        other.unpack(packed)
    same = all(map(np.array_equal, _drawn(made, np.arange(1000)), _drawn(other, np.arange(1000))))
    assert same, f"{name}: after packed and unpack, it draws other times or weights"


def _drawn(law: Law, samples: HostArray) -> tuple[HostArray, HostArray]:
    t, weight = law.draw(load_backend("numpy").random(0), 3, samples)
    return np.asarray(t), np.asarray(weight)


def _check_draws(law: Law, what: str) -> None:
    t, weight = _drawn(law, np.arange(MANY))
    assert t.shape == (MANY,), f"{what}: times have shape {t.shape} for {MANY} samples"
    assert t.dtype == np.int64, f"{what}: times are {t.dtype}, they must be int64"
    assert t.min() >= 0, f"{what}: a time is {t.min()}, it must be from 0 to T - 1"
    assert t.max() < T, f"{what}: a time is {t.max()}, it must be from 0 to T - 1"
    never = np.flatnonzero(np.bincount(t, minlength=T) == 0)
    assert not never.size, f"{what}: t = {never[0]} is never drawn, so that it is not learned"
    assert weight.shape in ((), (MANY,)), f"{what}: weights have shape {weight.shape} for {MANY} samples"
    assert np.all(weight > 0), f"{what}: a weight is not above 0"
    error = 5 * weight.std() / MANY**0.5 + 1e-6
    assert abs(weight.mean(dtype=np.float64) - 1) <= error, f"{what}: the weights have mean {weight.mean():.4g}, not 1"
    some = np.arange(MANY)[5::1000]
    again = _drawn(law, some)
    whole = (t[some], weight if weight.shape == () else weight[some])
    assert all(map(np.array_equal, again, whole)), f"{what}: a sample's time depends on what else is in the batch"
