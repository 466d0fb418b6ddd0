"""The end of a training step by kernel against the reference in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.comparison import assert_close
from helpers.cuda_shim import ShimBackend
from tinyddpm.backend import Backend, load_backend
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.optimisation import Descent, Factor

SETTINGS = Descent(clip=1.0, decay=0.9999)
BUFFERS = ("weights", "ema", "m", "v")
REFERENCE = Operations(load_backend("numpy"))


def do_step(
    ops: Operations, descent: Descent, step: int, loss: float, gradient: np.ndarray, buffers: list[Any]
) -> np.ndarray:
    """Do a step in the type of the gradient, and return its factors."""
    on = ops.backend.asarray
    g, number, rate = on(gradient), on(np.asarray([step])), on(np.asarray([1e-3 * min(1, (step + 1) / 3)]))
    factors = ops.step_factors(descent, number, rate, on(np.asarray([loss], gradient.dtype)), ops.lengths(g))
    if descent.weight_decay:
        matrices = on((np.arange(len(gradient)) % 2).astype(gradient.dtype))
        ops.decay(descent, factors, rate, matrices, buffers[0])
    ops.adam(descent, factors, g, *buffers)
    return ops.backend.to_numpy(factors)


@pytest.mark.parametrize("changed", [{}, {"clip": 0.0}, {"clip": 1e6}, {"decay": 0.3}, {"weight_decay": 10.0}], ids=str)
@pytest.mark.parametrize(("size", "first"), [(1, 0), (777, 0), (777, 200_000)])
def test_steps(cuda: Backend, size: int, first: int, changed: dict[str, Any]) -> None:
    """Four steps, from the start and late in a training: every buffer within 1e-6 of its largest element, and the
    factors of themselves."""
    descent, ops = replace(SETTINGS, **changed), load_operations(cuda)
    rng = np.random.default_rng(3)
    exact = [*rng.normal(size=(2, size)), rng.normal(size=size) * 0.1, rng.random(size) * 0.01]
    ours = [cuda.asarray(buffer.astype(np.float32)) for buffer in exact]
    for step in range(first, first + 4):
        gradient = rng.normal(size=size).astype(np.float32)
        factors = do_step(ops, descent, step, 0.5, gradient, ours)
        expected = do_step(REFERENCE, descent, step, 0.5, gradient.astype(np.float64), exact)
        np.testing.assert_allclose(factors, expected, rtol=1e-6)
        for name, found, wanted in zip(BUFFERS, ours, exact, strict=True):
            assert_close(cuda.to_numpy(found), wanted.astype(np.float32), 1e-6, name)


@pytest.mark.parametrize("size", [1, 777])
@pytest.mark.parametrize("first", [0, 200_000])
def test_power_averages(cuda: Backend, size: int, first: int) -> None:
    """Four steps, from the start and late in a training, and one that is not finite: exact to 1e-6."""
    ops, rng = load_operations(cuda), np.random.default_rng(5)
    exact = rng.normal(size=size)
    ours = cuda.asarray(exact.astype(np.float32))
    for step, finite in zip(range(first, first + 5), (True, True, False, True, True), strict=True):
        weights, factors = rng.normal(size=size).astype(np.float32), np.full(len(Factor), finite, np.float32)
        numbers = np.asarray([step])
        ops.power_average(6.94, cuda.asarray(numbers), *map(cuda.asarray, (factors, weights)), ours)
        REFERENCE.power_average(6.94, numbers, factors, weights, exact)
        np.testing.assert_allclose(cuda.to_numpy(ours), exact, rtol=1e-6, atol=1e-6)


def test_small_shares_are_exact(cuda: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """From moments and an average of 0, what one late step adds, a ten-thousandth, is exact to 1e-6 of itself.

    The gradient's norm is summed by two blocks whose threads take several elements each, some more than others.
    """
    monkeypatch.setattr(geometry, "PARTIAL_BLOCKS", 2)
    rng, step = np.random.default_rng(4), 200_000
    gradient, weights = rng.normal(1, 0.1, 1500).astype(np.float32), rng.normal(3, 0.1, 1500)
    exact = [weights, *np.zeros((3, 1500))]
    ours = [cuda.asarray(buffer.astype(np.float32)) for buffer in exact]
    factors = do_step(load_operations(cuda), SETTINGS, step, 0.5, gradient, ours)
    expected = do_step(REFERENCE, SETTINGS, step, 0.5, gradient.astype(np.float64), exact)
    np.testing.assert_allclose(factors, expected, rtol=1e-6)
    for name, found, wanted in zip(BUFFERS[1:], ours[1:], exact[1:], strict=True):
        np.testing.assert_allclose(cuda.to_numpy(found), wanted, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(cuda: Backend, what: str, value: float) -> None:
    rng = np.random.default_rng(3)
    gradient, loss = rng.normal(size=300).astype(np.float32), 0.5
    if what == "loss":
        loss = value
    else:
        gradient[-1] = value
    before = list(rng.random((4, 300), np.float32))
    buffers = [cuda.asarray(buffer.copy()) for buffer in before]
    factors = do_step(load_operations(cuda), SETTINGS, 4, loss, gradient, buffers)
    assert not factors[Factor.FINITE]
    assert not np.isfinite(factors[[Factor.LOSS, Factor.NORM]]).all()
    for name, buffer, kept in zip(BUFFERS, buffers, before, strict=True):
        np.testing.assert_array_equal(cuda.to_numpy(buffer), kept, name)


def test_float64_is_left_to_the_reference(shim: ShimBackend) -> None:
    """Bit for bit, without a launch."""
    ops, rng = load_operations(shim), np.random.default_rng(3)
    gradient, before = rng.normal(size=300), list(rng.random((4, 300)))
    ours, exact = ([buffer.copy() for buffer in before] for _ in range(2))
    for done, buffers in ((ops, ours), (REFERENCE, exact)):
        factors = do_step(done, SETTINGS, 4, 0.5, gradient, buffers)
        done.power_average(6.94, np.asarray([4]), factors, *buffers[:2])
    np.testing.assert_array_equal(ours, exact)
    assert not np.array_equal(ours, before)
    assert shim.launched == []
