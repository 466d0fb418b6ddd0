"""The end of a training step: clipping, Adam and the running average, against Torch's and against closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import Backend, load_backend
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.optimisation import Descent, Factor

PLAIN = Descent(clip=0.0, decay=0.9999)


class Run:
    """A run's buffers on a backend, and its steps.

    Args:
        ops: the operations.
        start: the weights.
        descent: the settings.
        dtype: of the buffers.
        rate: the learning rate.
        matrices: which weights decay; all if None.
    """

    def __init__(
        self,
        ops: Operations,
        start: np.ndarray,
        descent: Descent,
        dtype: Any = np.float64,
        rate: float = 0.01,
        matrices: np.ndarray | None = None,
    ) -> None:
        self.ops, self.descent, self.dtype, self.rate = ops, descent, dtype, rate
        self.matrices = self.on(np.ones(len(start)) if matrices is None else matrices)
        zeros = np.zeros_like(start)
        self.weights, self.ema, self.m, self.v = map(self.on, (start, start, zeros, zeros))
        self.average = self.on(start)

    def on(self, values: Any) -> Any:
        return self.ops.backend.asarray(np.array(values, self.dtype))

    def step(self, number: int, gradient: np.ndarray, loss: float = 0.5) -> dict[Factor, float]:
        """Do a step, in two pieces as workers do it; return the factors."""
        g, number_there = self.on(gradient), self.ops.backend.asarray(np.asarray([number]))
        halves = slice(0, len(gradient) // 2), slice(len(gradient) // 2, None)
        lengths = self.ops.xp.concat([self.ops.lengths(g[half]) for half in halves])
        rate = self.ops.backend.asarray(np.asarray([self.rate]))
        factors = self.ops.step_factors(self.descent, number_there, rate, self.on([loss]), lengths)
        for half in halves:
            self.ops.decay(self.descent, factors, rate, self.matrices[half], self.weights[half])
            buffers = (buffer[half] for buffer in (self.weights, self.ema, self.m, self.v))
            self.ops.adam(self.descent, factors, g[half], *buffers)
        return dict(zip(Factor, self.ops.backend.to_numpy(factors).tolist(), strict=True))


def test_adam_is_torchs(ops: Operations, rng: np.random.Generator) -> None:
    """Fifty steps with gradients of very different sizes, in float64, agree to rounding."""
    start = rng.standard_normal(40)
    run, theirs = Run(ops, start, PLAIN), torch.tensor(start, requires_grad=True)
    oracle = torch.optim.Adam([theirs], lr=0.01)
    for step in range(50):
        gradient = rng.standard_normal(40) * 10.0 ** rng.uniform(-6, 3, 40)
        run.step(step, gradient)
        theirs.grad = torch.tensor(gradient)
        oracle.step()
    np.testing.assert_allclose(run.weights, theirs.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_clipping_is_torchs(ops: Operations, rng: np.random.Generator) -> None:
    """By the first step's running mean, a tenth of the clipped gradient."""
    for size in (0.01, 1.0, 100.0):
        gradient = rng.standard_normal(30) * size
        theirs = torch.zeros(30, dtype=torch.float64, requires_grad=True)
        theirs.grad = torch.tensor(gradient)
        norm = torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        run = Run(ops, np.zeros(30), Descent(1.0, 0.9))
        assert run.step(0, gradient)[Factor.NORM] == pytest.approx(float(norm), rel=1e-12)
        np.testing.assert_allclose(run.m, 0.1 * theirs.grad.numpy(), rtol=2e-6)  # Torch adds 1e-6 to the norm


@given(norm=st.floats(1e-6, 1e6))
def test_no_clipping_where_clip_is_zero(norm: float) -> None:
    """Over gradient norms."""
    run = Run(load_operations(load_backend("numpy")), np.zeros(2), PLAIN)
    factors = run.step(0, np.asarray([norm, 0.0]))
    assert factors[Factor.CLIP] == 1.0
    assert factors[Factor.NORM] == pytest.approx(norm)


@given(step=st.integers(0, 10**6), rate=st.floats(1e-9, 1.0))
def test_a_step_is_taken_with_its_rate(step: int, rate: float) -> None:
    """Over steps and rates."""
    run = Run(load_operations(load_backend("numpy")), np.zeros(2), Descent(0.0, 0.9), rate=rate)
    factors = run.step(step, np.ones(2))
    assert factors[Factor.RATE] * (1 - 0.9 ** (step + 1)) == pytest.approx(rate, rel=1e-12)


def test_decay_is_torchs_of_matrices_alone(ops: Operations, rng: np.random.Generator) -> None:
    """Twenty steps of AdamW, in float64, whose second group has no decay, agree to rounding."""
    start, matrices = rng.standard_normal(30), np.repeat([1.0, 0.0], 15)
    run = Run(ops, start, Descent(0.0, 0.9999, weight_decay=0.3), matrices=matrices)
    theirs = [torch.tensor(part, requires_grad=True) for part in (start[:15], start[15:])]
    groups = [{"params": [part], "weight_decay": decay} for part, decay in zip(theirs, (0.3, 0.0), strict=True)]
    oracle = torch.optim.AdamW(groups, lr=0.01)
    for step in range(20):
        gradient = rng.standard_normal(30)
        run.step(step, gradient)
        for part, its in zip(theirs, (gradient[:15], gradient[15:]), strict=True):
            part.grad = torch.tensor(its)
        oracle.step()
    expected = np.concatenate([part.detach().numpy() for part in theirs])
    np.testing.assert_allclose(run.weights, expected, rtol=1e-12, atol=1e-14)


def test_average_of_a_short_run_forgets_the_start(ops: Operations) -> None:
    """After 20 steps at weight 1 from an average of 0, a plain decay of 0.9999 would still be at 0.002."""
    run = Run(ops, np.ones(2), PLAIN)
    run.ema[...] = 0.0
    for step in range(20):
        run.step(step, np.zeros(2))
    assert run.ema[0] > 0.999


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (9, 10 / 19), (10**6, 0.9)])
def test_the_averages_decay_rises_to_what_it_is_in_the_long_run(ops: Operations, step: int, decay: float) -> None:
    factors = Run(ops, np.ones(2), Descent(0.0, 0.9)).step(step, np.ones(2))
    assert (factors[Factor.EMA_KEPT], factors[Factor.EMA_NEW]) == (pytest.approx(decay), pytest.approx(1 - decay))


def test_average_is_a_convex_combination_with_the_decay_in_the_long_run(
    ops: Operations, rng: np.random.Generator
) -> None:
    run = Run(ops, rng.standard_normal(5), Descent(0.0, 0.99))
    run.ema[...] = rng.standard_normal(5)
    before = run.ema.copy()
    run.step(10**6, np.zeros(5))
    np.testing.assert_allclose(run.ema, 0.99 * before + 0.01 * run.weights, rtol=1e-12)


@pytest.mark.parametrize("loss", [np.nan, np.inf, 0.5])
@pytest.mark.parametrize("last", [np.nan, np.inf, 1e300, 1.0])
def test_a_step_that_is_not_finite_changes_nothing(
    ops: Operations, rng: np.random.Generator, loss: float, last: float
) -> None:
    """Be it the loss, the gradient or the sum of its squares; and what is finite changes all."""
    run = Run(ops, rng.standard_normal(6), Descent(0.0, 0.9999, weight_decay=0.1))
    run.step(0, rng.standard_normal(6))
    before = [np.array(buffer) for buffer in (run.weights, run.ema, run.m, run.v)]
    with np.errstate(over="ignore", invalid="ignore"):
        factors = run.step(1, np.asarray([1.0, 1.0, 1.0, 1.0, 1.0, last]), loss)
    finite = loss == 0.5 and last == 1.0
    assert factors[Factor.FINITE] == finite
    for buffer, kept in zip((run.weights, run.ema, run.m, run.v), before, strict=True):
        assert (buffer != kept).all() if finite else (buffer == kept).all()


@pytest.mark.parametrize("exponent", [0.0, 6.94, 16.97])
def test_power_averages_count_weights_by_a_power_of_their_step(
    ops: Operations, rng: np.random.Generator, exponent: float
) -> None:
    """After each of 30 steps, in float64: step k counts (k^(γ+1) − (k − 1)^(γ+1)) / t^(γ+1), and the start nothing."""
    factors = np.ones(len(Factor))
    weights, average = rng.standard_normal((30, 4)), np.full(4, 1e6)
    for t, step in enumerate(weights, 1):
        ops.power_average(exponent, np.asarray([t - 1]), factors, step, average)
        counts = np.diff((np.arange(t + 1) / t) ** (exponent + 1))
        np.testing.assert_allclose(average, counts @ weights[:t], rtol=1e-9, atol=1e-9)


def test_a_late_step_counts_what_it_should_in_float32(ops: Operations) -> None:
    """The millionth of weights of 1 adds 1.8e-5 to an average of 0, to 1e-6 of that; of an average of 1 nothing."""
    factors = np.ones(len(Factor), np.float32)
    for start, expected in ((0.0, 1 - (1 - 1e-6) ** 17.97), (1.0, 1.0)):
        average = np.full(3, start, np.float32)
        ops.power_average(16.97, np.asarray([10**6 - 1]), factors, np.ones(3, np.float32), average)
        np.testing.assert_allclose(average, expected, rtol=1e-6)


def test_a_step_that_is_not_finite_counts_nothing(ops: Operations) -> None:
    factors = ops.step_factors(PLAIN, np.asarray([4]), np.asarray([0.1]), np.asarray([np.nan]), np.ones(1))
    average = np.ones(3)
    ops.power_average(6.94, np.asarray([4]), factors, np.zeros(3), average)
    np.testing.assert_array_equal(average, 1.0)


def test_the_gradient_is_left_as_it_is(ops: Operations, rng: np.random.Generator) -> None:
    gradient = rng.standard_normal(8)
    gradient.flags.writeable = False
    descent = Descent(1.0, 0.9)
    factors = ops.step_factors(descent, np.asarray([0]), np.asarray([1e-3]), np.asarray([0.1]), ops.lengths(gradient))
    ops.adam(descent, factors, gradient, *(np.ones(8) for _ in range(4)))


def test_on_other_backends(other_backend: Backend, rng: np.random.Generator) -> None:
    """Three steps, in place, clipped, give NumPy's float64 results to float32 rounding."""
    weights, gradient = rng.standard_normal((2, 30))
    descent = Descent(1.0, 0.9, weight_decay=0.5)
    there = Run(load_operations(other_backend), weights, descent, np.float32, rate=0.1)
    host = Run(Operations(load_backend("numpy")), weights, descent, rate=0.1)
    for step in range(3):
        found, expected = there.step(step, gradient), host.step(step, gradient)
        assert found == pytest.approx(expected, rel=1e-6)
        for run, ops in ((there, there.ops), (host, host.ops)):
            of_step = run.on([found[place] for place in Factor])
            ops.power_average(6.94, ops.backend.asarray(np.asarray([step])), of_step, run.weights, run.average)
    for name in ("weights", "ema", "m", "v", "average"):
        ours = other_backend.to_numpy(getattr(there, name))
        np.testing.assert_allclose(ours, getattr(host, name), atol=1e-6, err_msg=name)
