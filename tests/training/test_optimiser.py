"""Adam, clipping and the running average, against Torch's and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import Backend
from tinyddpm.training.optimiser import Adam, average, clip_scale, global_norm, warmed_up


def test_adam_is_torchs(rng: np.random.Generator) -> None:
    """Fifty steps with gradients of very different sizes, in float64, agree to rounding."""
    start = rng.standard_normal(40)
    ours, theirs = start.copy(), torch.tensor(start, requires_grad=True)
    adam = Adam(np.zeros(40), np.zeros(40))
    oracle = torch.optim.Adam([theirs], lr=0.01)
    for step in range(50):
        gradient = rng.standard_normal(40) * 10.0 ** rng.uniform(-6, 3, 40)
        adam.update(ours, gradient, 0.01, step)
        theirs.grad = torch.tensor(gradient)
        oracle.step()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_clipping_is_torchs(rng: np.random.Generator) -> None:
    for size in (0.01, 1.0, 100.0):
        gradient = rng.standard_normal(30) * size
        theirs = torch.zeros(30, dtype=torch.float64, requires_grad=True)
        theirs.grad = torch.tensor(gradient)
        norm = torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        assert global_norm(gradient) == pytest.approx(float(norm), rel=1e-12)
        ours = gradient * clip_scale(global_norm(gradient), 1.0)
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=2e-6)  # Torch adds 1e-6 to the norm


@given(st.floats(1e-6, 1e6))
def test_no_clipping_where_clip_is_zero(norm: float) -> None:
    """Over gradient norms."""
    assert clip_scale(norm, 0.0) == 1.0


@given(step=st.integers(0, 10**6), warmup=st.integers(0, 10**5))
def test_warmup_rises_in_a_line_and_stays(step: int, warmup: int) -> None:
    """Over steps and warm-ups: never 0, never above the rate, the full rate from step `warmup` − 1 on."""
    rate = warmed_up(0.5, step, warmup)
    assert 0 < rate <= 0.5
    assert (rate == 0.5) == (step + 1 >= warmup)
    assert rate == pytest.approx(0.5 * min(1, (step + 1) / max(1, warmup)))


def test_average_of_a_short_run_forgets_the_start() -> None:
    """After 20 steps at weight 1 from weight 0, a plain decay of 0.9999 would still be at 0.002."""
    ema = np.zeros(1)
    for step in range(20):
        average(ema, np.ones(1), 0.9999, step)
    assert ema[0] > 0.999


def test_average_is_a_convex_combination_with_the_decay_in_the_long_run(rng: np.random.Generator) -> None:
    ema, weights = rng.standard_normal(5), rng.standard_normal(5)
    expected = 0.99 * ema + 0.01 * weights
    average(ema, weights, 0.99, 10**6)
    np.testing.assert_allclose(ema, expected, rtol=1e-12)


def test_on_other_backends(other_backend: Backend, rng: np.random.Generator) -> None:
    """Three updates, in place, give NumPy's float64 results to float32 rounding."""
    weights, gradient = rng.standard_normal(30), rng.standard_normal(30)
    on = lambda a: other_backend.asarray(np.array(a, np.float32))  # noqa: E731
    w, e, adam = on(weights), on(weights), Adam(on(np.zeros(30)), on(np.zeros(30)))
    host, host_ema, host_adam = weights.copy(), weights.copy(), Adam(np.zeros(30), np.zeros(30))
    for step in range(3):
        adam.update(w, on(gradient), 0.1, step)
        average(e, w, 0.9, step)
        host_adam.update(host, gradient, 0.1, step)
        average(host_ema, host, 0.9, step)
    np.testing.assert_allclose(other_backend.to_numpy(w), host, atol=1e-6)
    np.testing.assert_allclose(other_backend.to_numpy(e), host_ema, atol=1e-6)
    assert global_norm(on(gradient)) == pytest.approx(np.linalg.norm(gradient), rel=1e-6)
