"""Losses of training: squared errors, and those terms of the variational bound that depend on a network."""

from __future__ import annotations

from math import log, pi, prod, sqrt

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family, Saved

SLOPE, CUBIC = sqrt(8 / pi), 0.044715
"""Φ(z) is nearly the logistic function of g(z) = SLOPE (z + CUBIC z³)."""


class Loss(Family):
    """Squared errors of a prediction, and the bound's terms for a Gaussian that is given by mean and log-variance."""

    def mse(self, prediction: Array, target: Array) -> tuple[Array, Saved]:
        """Return L_n = mean((prediction_n − target_n)²) of each sample, (N,).

        dprediction_n = dL_n · 2 (prediction_n − target_n) / size of a sample; the target is data and has no gradient.
        Saved is the difference.

        Args:
            prediction: (N, ...).
            target: array of the same shape.
        """
        difference = prediction - target
        return self.xp.mean(difference**2, axis=tuple(range(1, difference.ndim))), self._save(difference)

    def mse_backward(self, saved: Saved, dlosses: float | Array) -> Array:
        """Return dprediction of `mse`, given the gradients of the losses, (N,), or one number for all samples."""
        (difference,) = saved
        n, *rest = difference.shape
        factor = dlosses * (2.0 / prod(rest))
        return difference * (factor if isinstance(factor, float) else self.xp.reshape(factor, (n, *(1 for _ in rest))))

    def gaussian_kl(
        self, mean: Array, log_variance: Array, q_mean: Array, q_log_variance: Array
    ) -> tuple[Array, Saved]:
        """Return elementwise KL(q ‖ p) in nats, q = N(q_mean, e^q_log_variance), p = N(mean, e^log_variance).

            KL = ½ (e^δ − 1 − δ + z²),   δ = q_log_variance − log_variance,   z = (mean − q_mean) / √(e^log_variance)

        q has no gradient. From dz/dmean = e^(−log_variance / 2), dz/dlog_variance = −z / 2 and dδ/dlog_variance = −1:

            dmean = dKL · z e^(−log_variance / 2),   dlog_variance = dKL · ½ (1 − e^δ − z²)

        Saved are z, e^(−log_variance / 2) and e^δ − 1.
        """
        xp = self.xp
        delta = q_log_variance - log_variance
        excess, precision = xp.expm1(delta), xp.exp(-0.5 * log_variance)
        z = (mean - q_mean) * precision
        return 0.5 * (excess - delta + z**2), self._save(z, precision, excess)

    def gaussian_kl_backward(self, saved: Saved, dkl: Array) -> tuple[Array, Array]:
        """Return dmean and dlog_variance of `gaussian_kl`."""
        z, precision, excess = saved
        return dkl * z * precision, dkl * (-0.5) * (excess + z**2)

    def gaussian_nll(self, mean: Array, log_variance: Array, x: Array) -> tuple[Array, Saved]:
        """Return elementwise −log N(x; mean, e^log_variance) in nats, N being the density.

            L = ½ (log 2π + log_variance + z²),   z = (mean − x) / √(e^log_variance)
            dmean = dL · z e^(−log_variance / 2),   dlog_variance = dL · ½ (1 − z²)

        x has no gradient. Saved are z and e^(−log_variance / 2).
        """
        precision = self.xp.exp(-0.5 * log_variance)
        z = (mean - x) * precision
        return 0.5 * (log(2 * pi) + log_variance + z**2), self._save(z, precision)

    def gaussian_nll_backward(self, saved: Saved, dnll: Array) -> tuple[Array, Array]:
        """Return dmean and dlog_variance of `gaussian_nll`."""
        z, precision = saved
        return dnll * z * precision, dnll * 0.5 * (1 - z**2)

    def pixel_nll(self, mean: Array, log_variance: Array, x: Array) -> tuple[Array, Saved]:
        """Return −log P(x) of each pixel x in nats, P(x) the mass of N(mean, e^log_variance) in its bin (DDPM eq. 13).

        Pixels have 256 levels x = −1, −1 + 2/255, …, 1. A bin extends 1/255 to each side of its level; the outermost
        two extend to infinity. With s² = e^log_variance, P(x) = Φ(b) − Φ(a), a, b = (x − mean ∓ 1/255) / s, where
        Φ(a) = 0 for x = −1 and Φ(b) = 1 for x = 1.

        Φ is approximated as in DDPM's and IDDPM's code: Φ(z) ≈ σ(g(z)), σ the logistic function, g(z) = S (z + C z³),
        S = √(8/π), C = 0.044715. The 256 probabilities still sum to 1, so the bound remains a bound. A difference of
        logistic functions factors, so that its logarithm needs no floor, however far the bin lies from the mean:

            σ(g_b) − σ(g_a) = σ(g_b) σ(−g_a) (1 − e^(−h)),   h = g_b − g_a = S w (1 + C (a² + ab + b²)),   w = b − a

        With softplus(y) = log(1 + e^y) = −log σ(−y), and without the terms of an infinite end:

            L = softplus(−g_b) + softplus(g_a) − log(1 − e^(−h))

        x has no gradient. dL/dg_b = −σ(−g_b), dL/dg_a = σ(g_a) and dL/dh = −r with r = 1 / (e^h − 1). With
        g' = S (1 + 3 C z²), da/dmean = db/dmean = −1/s and dz/dlog_variance = −z/2 for z = a, b and w:

            dh/dmean = −(g'_b − g'_a) / s = −3 C S w (a + b) / s
            dh/dlog_variance = −(b g'_b − a g'_a) / 2
                             = −S w (1 + 3 C (a² + ab + b²)) / 2

        Saved are dL/dmean and dL/dlog_variance.
        """
        xp = self.xp
        precision = xp.exp(-0.5 * log_variance)
        a, b = (x - mean - 1 / 255) * precision, (x - mean + 1 / 255) * precision
        g_a, g_b = _g(a), _g(b)
        width, square = (2 / 255 * SLOPE) * precision, a**2 + a * b + b**2  # S w, a² + ab + b²
        h = width * (1 + CUBIC * square)
        above, below = x > -1 + 1 / 255, x < 1 - 1 / 255  # whether the bin is finite on this side
        zero = xp.zeros_like(h)
        share = -xp.expm1(-h)  # 1 − e^(−h)
        nll = (
            xp.where(below, xp.logaddexp(-g_b, zero), zero)
            + xp.where(above, xp.logaddexp(g_a, zero), zero)
            - xp.where(above & below, xp.log(share), zero)
        )
        if not self.training:
            return nll, None
        r = xp.where(above & below, xp.exp(-h) / share, zero)
        slope_b = xp.where(below, 0.5 * xp.tanh(0.5 * g_b) - 0.5, zero) * _dg(b)
        slope_a = xp.where(above, 0.5 * xp.tanh(0.5 * g_a) + 0.5, zero) * _dg(a)
        dmean = precision * (3 * CUBIC * r * width * (a + b) - slope_a - slope_b)
        dlog_variance = 0.5 * (r * width * (1 + 3 * CUBIC * square) - a * slope_a - b * slope_b)
        return nll, self._save(dmean, dlog_variance)

    def pixel_nll_backward(self, saved: Saved, dnll: Array) -> tuple[Array, Array]:
        """Return dmean and dlog_variance of `pixel_nll`."""
        dmean, dlog_variance = saved
        return dnll * dmean, dnll * dlog_variance


def _g(z: Array) -> Array:
    return SLOPE * (z + CUBIC * z**3)


def _dg(z: Array) -> Array:
    return SLOPE * (1 + 3 * CUBIC * z**2)
