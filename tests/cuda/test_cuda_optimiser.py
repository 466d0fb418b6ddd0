"""The end of a training step by kernel against `tinyddpm.training.optimiser` in float64."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.comparison import assert_close
from tinyddpm.backend import Backend
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.optimiser import LOSS, NORM, CudaOptimiser, OptimiserSettings
from tinyddpm.training.optimiser import BETA_1, BETA_2, EPS, Adam, average, clip_scale, global_norm, warmed_up

SETTINGS = {
    "learning_rate": 1e-3,
    "warmup": 3,
    "clip": 1.0,
    "decay": 0.9999,
    "beta_1": BETA_1,
    "beta_2": BETA_2,
    "eps": EPS,
}


@pytest.mark.parametrize("changed", [{}, {"clip": 0.0}, {"clip": 1e6}, {"warmup": 0}, {"decay": 0.3}], ids=str)
@pytest.mark.parametrize(("size", "first"), [(1, 0), (777, 0), (777, 200_000)])
def test_steps(cuda: Backend, size: int, first: int, changed: dict[str, float]) -> None:
    """Four steps, from the start and late in a training: every buffer within 1e-6 of its largest element."""
    settings = OptimiserSettings(**{**SETTINGS, **changed})
    rng = np.random.default_rng(3)
    weights, ema = rng.normal(size=(2, size))
    m, v = rng.normal(size=size) * 0.1, rng.random(size) * 0.01
    buffers = {"weights": weights, "m": m, "v": v, "ema": ema}
    ours = {name: cuda.asarray(buffer.astype(np.float32)) for name, buffer in buffers.items()}
    adam = Adam(m, v)
    optimiser = CudaOptimiser(cuda, settings, size)
    for step in range(first, first + 4):
        gradient = rng.normal(size=size).astype(np.float32)
        number, loss = cuda.asarray(np.asarray([step])), cuda.asarray(np.float32(0.5))
        factors = optimiser.update(cuda.asarray(gradient), loss, number, **ours)
        exact = gradient.astype(np.float64)
        norm, rate = global_norm(exact), warmed_up(settings.learning_rate, step, settings.warmup)
        adam.update(weights, exact * clip_scale(norm, settings.clip), rate, step)
        average(ema, weights, settings.decay, step)
        factors = cuda.to_numpy(factors)
        np.testing.assert_allclose(factors[[LOSS, NORM]], [0.5, norm], rtol=1e-6)
        for name, expected in buffers.items():
            assert_close(cuda.to_numpy(ours[name]), expected.astype(np.float32), 1e-6, name)


def test_small_shares_are_exact(cuda: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """From moments and an average of 0, what one late step adds, a ten-thousandth, is exact to 1e-6 of itself.

    The gradient's norm is summed by two blocks whose threads take several elements each, some more than others.
    """
    monkeypatch.setattr(geometry, "PARTIAL_BLOCKS", 2)
    rng, step = np.random.default_rng(4), 200_000
    gradient, weights = rng.normal(1, 0.1, 1500).astype(np.float32), rng.normal(3, 0.1, 1500)
    ours = {name: cuda.asarray(np.zeros(1500, np.float32)) for name in ("m", "v", "ema")}
    ours["weights"] = cuda.asarray(weights.astype(np.float32))
    optimiser = CudaOptimiser(cuda, OptimiserSettings(**SETTINGS), 1500)
    number, loss = cuda.asarray(np.asarray([step])), cuda.asarray(np.float32(0.5))
    factors = cuda.to_numpy(optimiser.update(cuda.asarray(gradient), loss, number, **ours))
    g = gradient.astype(np.float64)
    np.testing.assert_allclose(factors[NORM], global_norm(g), rtol=1e-6)
    m, v, ema = np.zeros((3, 1500))
    Adam(m, v).update(weights, g * clip_scale(global_norm(g), SETTINGS["clip"]), SETTINGS["learning_rate"], step)
    average(ema, weights, SETTINGS["decay"], step)
    for name, expected in {"m": m, "v": v, "ema": ema}.items():
        np.testing.assert_allclose(cuda.to_numpy(ours[name]), expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(cuda: Backend, what: str, value: float) -> None:
    rng = np.random.default_rng(3)
    gradient, loss = rng.normal(size=300).astype(np.float32), np.asarray(0.5, np.float32)
    (loss if what == "loss" else gradient[-1:])[...] = value
    before = dict(zip(("weights", "m", "v", "ema"), rng.random((4, 300), np.float32), strict=True))
    buffers = {name: cuda.asarray(buffer.copy()) for name, buffer in before.items()}
    step = cuda.asarray(np.asarray([4]))
    optimiser = CudaOptimiser(cuda, OptimiserSettings(**SETTINGS), 300)
    factors = optimiser.update(cuda.asarray(gradient), cuda.asarray(loss), step, **buffers)
    assert not np.isfinite(cuda.to_numpy(factors)[[LOSS, NORM]]).all()
    for name, buffer in buffers.items():
        np.testing.assert_array_equal(cuda.to_numpy(buffer), before[name], name)
