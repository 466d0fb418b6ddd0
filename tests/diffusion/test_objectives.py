"""Objectives: their gradients are their losses', the hybrid's mean is detached, and learned variances find the best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tinyddpm import registry
from tinyddpm.backend import Backend, load_backend
from tinyddpm.diffusion.likelihood import Decoder
from tinyddpm.diffusion.objectives import Hybrid, Objective, Simple, VariationalBound, objective_class
from tinyddpm.diffusion.parametrisation import Parametrisation, make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas, zero_terminal_snr
from tinyddpm.diffusion.weightings import make_weights
from tinyddpm.errors import ConfigError
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.noising import Noised
from tinyddpm.testing import check_projection

NUMPY = load_backend("numpy")
BETAS = make_betas("cosine", 20)
PROCESS = GaussianProcess(NUMPY, BETAS, dtype=np.float64)
OPS = Operations(NUMPY, training=True)
N, C = 7, 2
TIMES = np.array([0, 19, 3, 0, 12, 1, 7])
PREDICTS = [entry.name for entry in registry.entries("parametrisations")]
PREDICT = pytest.mark.parametrize("predict", PREDICTS)


def on(predict: str) -> Parametrisation:
    return make_parametrisation(PROCESS, predict)


DECODERS = pytest.mark.parametrize("decoder", ["pixels", "points"])


def made(loss: str, parametrisation: Parametrisation, weights: np.ndarray) -> Objective:
    kind: Any = objective_class(loss)
    objective: Objective = kind(parametrisation, weights if kind.weighted else None, "pixels")
    return objective


class Batch:
    """Pixels, noise, and an output near what is right."""

    def __init__(self, predict: str, learned: bool, process: GaussianProcess = PROCESS) -> None:
        rng = np.random.default_rng(3)
        self.x_0 = rng.integers(0, 256, (N, 2, 2, C)) / 127.5 - 1
        self.x_0[3, 0, 0] = -1, 1
        self.eps, self.t = rng.standard_normal(self.x_0.shape), TIMES
        self.x_t = process.q_sample(self.x_0, self.t, self.eps)
        right = make_parametrisation(process, predict).target(self.x_0, self.t, self.eps)
        self.out = right + 0.3 * rng.standard_normal(right.shape)
        if learned:
            self.out = np.concatenate([self.out, rng.uniform(-1.2, 1.2, right.shape)], axis=-1)

    @property
    def noised(self) -> Noised:
        return Noised(self.x_0, self.t, self.eps, self.x_t)

    def losses(self, objective: Objective, out: np.ndarray) -> np.ndarray:
        return np.asarray(objective.forward(OPS, out, self.noised)[0])

    def gradient(self, objective: Objective, share: float | np.ndarray = 1.0) -> np.ndarray:
        _, saved = objective.forward(OPS, self.out, self.noised)
        return np.asarray(objective.backward(OPS, saved, share))


@pytest.mark.parametrize("weighting", ["simple", "min-snr"])
@PREDICT
def test_gradient_of_simple(predict: str, weighting: str, rng: np.random.Generator) -> None:
    """A share of the mean, or a weight for each sample, with weights of the times and without, by projection."""
    batch = Batch(predict, learned=False)
    objective = Simple(on(predict), make_weights(weighting, PROCESS.alpha_bar, on(predict)), "points")
    for share in (0.3, rng.uniform(0.5, 2, N)):
        value = lambda out, share=share: np.mean(share * batch.losses(objective, out))  # noqa: E731
        check_projection(value, batch.out, np.ones(()), batch.gradient(objective, share), rng)


def test_weights_that_are_all_1_are_none() -> None:
    for weights in (None, np.ones(20)):
        assert Simple(on("eps"), weights, "points").weights is None
    np.testing.assert_array_equal(Simple(on("eps"), np.full(20, 2.0), "points").weights, 2.0)


@DECODERS
@PREDICT
def test_gradient_of_the_bound(predict: str, decoder: Decoder, rng: np.random.Generator) -> None:
    """The mean, and a mean with a weight for each sample, by projection."""
    batch = Batch(predict, learned=True)
    objective = VariationalBound(on(predict), None, decoder)
    for share in (0.3, rng.uniform(0.5, 2, N)):
        value = lambda out, share=share: np.mean(share * batch.losses(objective, out))  # noqa: E731
        check_projection(value, batch.out, np.ones(()), batch.gradient(objective, share), rng)


@pytest.mark.parametrize("loss", ["simple", "hybrid", "vlb"])
@PREDICT
def test_each_sample_has_its_own_loss_and_gradient(predict: str, loss: str, rng: np.random.Generator) -> None:
    """(N,) losses, each that of its sample alone, and gradients that a weight for each sample scales one by one.

    N is the number of channels too, so that a weight along the wrong axis would pass in silence.
    """
    batch = Batch(predict, learned=loss != "simple")
    objective = made(loss, on(predict), np.ones(20))
    out, *first = (a[:C] for a in (batch.out, *batch.noised))
    share = rng.uniform(0.5, 2, C)
    losses, saved = objective.forward(OPS, out, Noised(*first))
    gradient = objective.backward(OPS, saved, share)
    assert losses.shape == (C,)
    for n in range(C):
        alone, saved = objective.forward(OPS, out[n : n + 1], Noised(*(a[n : n + 1] for a in first)))
        np.testing.assert_allclose(losses[n : n + 1], alone, rtol=1e-12)
        np.testing.assert_allclose(
            gradient[n : n + 1], objective.backward(OPS, saved, float(share[n]) / C), rtol=1e-12, atol=1e-15
        )


@DECODERS
@PREDICT
def test_gradient_of_the_hybrid(predict: str, decoder: Decoder, rng: np.random.Generator) -> None:
    """The variance's is the loss's; the prediction's is L_simple's alone, though the bound depends on it."""
    batch = Batch(predict, learned=True)
    weights = make_weights("simple", PROCESS.alpha_bar, on(predict))
    objective = Hybrid(on(predict), weights, decoder)
    simple = Simple(on(predict), weights, decoder)
    gradient = batch.gradient(objective, 0.3)
    variance = lambda v: 0.3 * np.mean(batch.losses(objective, np.concatenate([batch.out[..., :C], v], -1)))  # noqa: E731
    check_projection(variance, batch.out[..., C:], np.ones(()), gradient[..., C:], rng)
    _, saved = simple.forward(OPS, batch.out[..., :C], batch.noised)
    np.testing.assert_array_equal(gradient[..., :C], simple.backward(OPS, saved, 0.3))
    bound = objective.bound
    expected = np.mean(simple.forward(OPS, batch.out[..., :C], batch.noised)[0])
    expected += 0.001 * np.mean(batch.losses(bound, batch.out))
    assert np.mean(batch.losses(objective, batch.out)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("detached", [False, True])
def test_matches_torch_autograd(detached: bool) -> None:
    """Eqs. 15 and 16 of IDDPM written out in Torch, eps predicted: losses and gradients within 1e-10 of the largest."""
    batch = Batch("eps", learned=True)
    objective = made("hybrid" if detached else "vlb", on("eps"), np.ones(20))

    out = torch.tensor(batch.out, requires_grad=True)
    x_0, x_t, eps = (torch.tensor(a) for a in (batch.x_0, batch.x_t, batch.eps))
    alpha_bar = torch.tensor(PROCESS.alpha_bar)[batch.t][:, None, None, None]
    prev = torch.tensor(np.append(1.0, PROCESS.alpha_bar))[batch.t][:, None, None, None]
    beta = torch.tensor(BETAS)[batch.t][:, None, None, None]
    tilde = (1 - prev) / (1 - alpha_bar) * beta
    first = (1 - PROCESS.alpha_bar[0]) / (1 - PROCESS.alpha_bar[1]) * BETAS[1]
    log_tilde = torch.where(tilde > 0, tilde, torch.tensor(first)).log()
    eps_hat, v = out[..., :C], (out[..., C:] + 1) / 2
    kept = eps_hat.detach() if detached else eps_hat
    mean = (x_t - beta / (1 - alpha_bar).sqrt() * kept) / (1 - beta).sqrt()
    log_variance = v * beta.log() + (1 - v) * log_tilde
    q_mean = (prev.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - prev) * x_t) / (1 - alpha_bar)
    kl = 0.5 * (log_variance - log_tilde + (log_tilde - log_variance).exp() - 1)
    kl = kl + 0.5 * (mean - q_mean) ** 2 * (-log_variance).exp()

    def phi(edge: torch.Tensor) -> torch.Tensor:
        z = (edge - mean) * (-log_variance / 2).exp()
        return torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3))

    upper, lower = phi(x_0 + 1 / 255), phi(x_0 - 1 / 255)
    probability = torch.where(x_0 < -0.999, upper, torch.where(x_0 > 0.999, 1 - lower, upper - lower))
    # By sample: through torch.where the gradient of a logarithm of 0, at another time, would reach all as NaN.
    terms = torch.stack([-probability[n].log().mean() if t == 0 else kl[n].mean() for n, t in enumerate(batch.t)])
    expected = 20 * terms / np.log(2)
    if detached:
        expected = ((eps - eps_hat) ** 2).mean(dim=(1, 2, 3)) + 0.001 * expected
    (1.7 * expected.mean()).backward()

    np.testing.assert_allclose(batch.losses(objective, batch.out), expected.detach().numpy(), rtol=1e-10)
    error = np.abs(batch.gradient(objective, 1.7) - out.grad.numpy()).max()
    assert error < 1e-10 * np.abs(out.grad.numpy()).max()


def test_the_best_variance_is_the_true_one() -> None:
    """x_0 ~ N(0, 0.3²) and the exact eps: the v at which the bound's gradient vanishes makes e^log-variance
    beta-tilde + c_0² Var(x_0 | x_t), between beta-tilde and beta; below it falls, above it rises. At every t.

    Expectations are exact, by Gauss and Hermite's nodes, whose weights come as `share`.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    x_0, eps = (grid.ravel()[:, None] for grid in np.meshgrid(0.3 * nodes, nodes))
    share = np.outer(weights, weights).ravel() / weights.sum() ** 2 * len(x_0)
    objective = VariationalBound(on("eps"), None, "points")
    for t in range(1, 20):
        alpha_bar = PROCESS.alpha_bar[t]
        known = 0.09 * alpha_bar + 1 - alpha_bar
        times, x_t = np.full(len(x_0), t), PROCESS.q_sample(x_0, t, eps)
        c = PROCESS.posterior(x_t, t)
        best = np.log(c.beta_tilde + c.c_0**2 * 0.09 * (1 - alpha_bar) / known)
        fraction = (best - np.log(c.beta_tilde)) / (np.log(c.beta) - np.log(c.beta_tilde))
        assert 0 < fraction < 1

        def slope(fraction: float, x_t: np.ndarray = x_t, times: np.ndarray = times, known: float = known) -> float:
            exact = np.sqrt(1 - PROCESS.alpha_bar[times[0]]) * x_t / known
            out = np.concatenate([exact, np.full_like(exact, 2 * fraction - 1)], axis=-1)
            _, saved = objective.forward(OPS, out, Noised(x_0, times, eps, x_t))
            return float(objective.backward(OPS, saved, share)[:, 1].sum())

        assert abs(slope(fraction)) < 1e-9 * max(abs(slope(0.0)), abs(slope(1.0)))
        assert slope(fraction - 0.05) < 0 < slope(fraction + 0.05)


@pytest.mark.parametrize("loss", ["simple", "hybrid", "vlb"])
@pytest.mark.parametrize("predict", [name for name in PREDICTS if name != "eps"])
def test_chains_that_end_without_signal_have_gradients(predict: str, loss: str) -> None:
    """zero_terminal_snr, with a sample at the last step: losses and gradients are finite, and every sample has one."""
    process = GaussianProcess(NUMPY, zero_terminal_snr(BETAS), dtype=np.float64)
    batch = Batch(predict, loss != "simple", process)
    objective = made(loss, make_parametrisation(process, predict), np.ones(20))
    assert np.isfinite(batch.losses(objective, batch.out)).all()
    gradient = batch.gradient(objective)
    assert np.isfinite(gradient).all()
    assert np.all(np.abs(gradient).max(axis=(1, 2, 3)) > 0)


@pytest.mark.parametrize("loss", ["simple", "hybrid", "vlb"])
@PREDICT
def test_other_backends_agree(other_backend: Backend, predict: str, loss: str) -> None:
    """Losses and gradients in float32, against NumPy's in float64: to 1e-4 of the largest."""
    batch = Batch(predict, learned=loss != "simple")
    weights = make_weights("min-snr", PROCESS.alpha_bar, on(predict))
    exact = made(loss, on(predict), weights)
    objective = made(loss, make_parametrisation(GaussianProcess(other_backend, BETAS), predict), weights)
    ops = load_operations(other_backend, training=True)
    out, x_0, eps, x_t = (
        other_backend.asarray(a.astype(np.float32)) for a in (batch.out, batch.x_0, batch.eps, batch.x_t)
    )
    losses, saved = objective.forward(ops, out, Noised(x_0, other_backend.asarray(batch.t), eps, x_t))
    assert losses.dtype == other_backend.xp.float32
    for found, expected in (
        (losses, batch.losses(exact, batch.out)),
        (objective.backward(ops, saved, 1.0), batch.gradient(exact)),
    ):
        error = np.abs(other_backend.to_numpy(found) - expected).max()
        assert error < 1e-4 * np.abs(expected).max()


def test_a_negative_weight_of_the_bound_is_refused() -> None:
    assert Hybrid(on("eps"), None, "pixels", vlb_weight=0.0).weight == 0
    with pytest.raises(ConfigError, match=r"vlb_weight is -0\.1"):
        Hybrid(on("eps"), None, "pixels", vlb_weight=-0.1)


def test_a_class_that_does_not_say_what_it_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda group, name: dict)
    with pytest.raises(ConfigError, match="objective 'made-up' has no learned_variance and no weighted and no times"):
        objective_class("made-up")
