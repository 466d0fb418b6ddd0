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
    depends only on the seed, the step and the sample's place; two steps draw different times; and a law that is
    unpacked draws as the packed one does, also after both are told further losses.

    Args:
        law: its registered name, or the callable `process, **options -> Law`.
        options: its options.

    Raises:
        AssertionError: the law breaks its contract; the line names the property.
    """
    kind, name = resolve("times", law, arguments=1)
    process = GaussianProcess(load_backend("numpy"), make_betas("cosine", T))
    made, rng = kind(process, **options), np.random.default_rng(0)
    _check_draws(made, f"{name}, at first")
    empty = made.packed()
    for rounds in (3, 20):
        _tell([made], rounds, rng)
        packed, other = made.packed(), kind(process, **options)
        assert np.shape(packed) == np.shape(empty), f"{name}: packed changes its shape, {np.shape(empty)} at first"
        if packed is not None:
            assert packed.dtype == np.float32, f"{name}: packed is {packed.dtype}, it must be float32"
            assert len(packed.shape) == 2, f"{name}: packed has shape {packed.shape}, it must be (T, n)"
            other.unpack(packed)
        _check_same(made, other, f"{name}: after packed and unpack, it draws")
        _tell([made, other], 9, rng)
        _check_same(made, other, f"{name}: after packed, unpack and further losses, it draws")
    _check_draws(made, f"{name}, after losses")


def _tell(laws: list[Law], rounds: int, rng: np.random.Generator) -> None:
    """Tell the laws the same losses of every time, `rounds` times."""
    for _ in range(rounds):
        losses = np.geomspace(1, 100, T) * rng.uniform(0.5, 1.5, T)
        for law in laws:
            law.hear(np.arange(T), losses)


def _check_same(one: Law, other: Law, what: str) -> None:
    same = all(map(np.array_equal, _drawn(one, np.arange(1000)), _drawn(other, np.arange(1000))))
    assert same, f"{what} other times or weights"


def _drawn(law: Law, samples: HostArray, step: int = 3) -> tuple[HostArray, HostArray]:
    t, weight = law.draw(load_backend("numpy").random(0), step, samples)
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
    same = np.array_equal(t, _drawn(law, np.arange(MANY), step=4)[0])
    assert not same, f"{what}: two steps draw the same times: draw random numbers for the given step"
    some = np.arange(MANY)[5::1000]
    again = _drawn(law, some)
    whole = (t[some], weight if weight.shape == () else weight[some])
    assert all(map(np.array_equal, again, whole)), f"{what}: a sample's time depends on what else is in the batch"
