"""What a network predicts, and what one prediction says of the others.

With α = √alpha_bar_t and σ = √(1 − alpha_bar_t), so that α² + σ² = 1, the pair (x_0, eps) and the pair (x_t, v) are
each other's rotation:

    x_t = α x_0 + σ eps        x_0 = α x_t − σ v
    v   = α eps − σ x_0        eps = σ x_t + α v

(DDPM eqs. 4 and 15; v: Salimans, Ho 2022, arXiv 2202.00512, appendix D). Given x_t, each of x_0, eps and v implies the
others: `implied` leads from any of them to the pair, `target` from the pair to any of them. The score of q(x_t), as the
prediction estimates it, is −eps / σ.

Errors. x_t is given, so an error Δ of the predicted x_0 is one of −(α/σ) Δ in eps, and in v, from σ v = α x_t − x_0,
one of −Δ/σ. A squared error of what is predicted thus weighs the squared error of x_0 by

    eps: α²/σ² = SNR        x_0: 1        v: 1/σ² = SNR + 1
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from tinyddpm.backend import Array
from tinyddpm.diffusion.process import Fraction, GaussianProcess, Table
from tinyddpm.errors import ConfigError, unknown

Predict: TypeAlias = Literal["eps", "x_0", "v"]
"""What a network predicts."""

PREDICTS: tuple[Predict, ...] = get_args(Predict)


def checked_predict(process: GaussianProcess, predict: str) -> Predict:
    """Return `predict`, if there is such a prediction and it can be made at every time of the chain.

    Raises:
        ConfigError: it is unknown, or it is eps on a chain that ends without any signal.
    """
    for known in PREDICTS:
        if predict == known == "eps" and process.alpha_bar[-1] == 0:
            raise ConfigError(
                "predict is 'eps', but the schedule ends with alpha_bar = 0, where eps is x_t itself and says nothing "
                "of x_0: predict 'v' or 'x_0', or leave zero_terminal_snr out"
            )
        if predict == known:
            return known
    raise ConfigError(unknown("prediction", predict, PREDICTS))


def target(process: GaussianProcess, predict: Predict, x_0: Array, t: int | Array, eps: Array) -> Array:
    """Return what the network should predict for x_t = α x_0 + σ eps."""
    if predict == "eps":
        return eps
    if predict == "x_0":
        return x_0
    signal, noise = process.level(x_0, t)
    return signal * eps - noise * x_0


def implied(
    process: GaussianProcess, predict: Predict, x_t: Array, t: int | Array, prediction: Array
) -> tuple[Array, Array]:
    """Return the x_0 and the eps that a prediction for x_t implies. eps says nothing of x_0 where alpha_bar is 0."""
    if predict == "eps":
        return process.predict_x0(x_t, t, prediction), prediction
    if predict == "x_0":
        return prediction, process.predict_eps(x_t, t, prediction)
    signal, noise = process.level(x_t, t)
    return signal * x_t - noise * prediction, noise * x_t + signal * prediction


def dx_0_dprediction(process: GaussianProcess, predict: Predict, x_t: Array, t: int | Array) -> Any:
    """Return the derivative of the implied x_0 with respect to the prediction, one number for each sample."""
    if predict == "x_0":
        return 1.0
    signal, noise = process.level(x_t, t)
    return -noise / signal if predict == "eps" else -noise


def score(process: GaussianProcess, t: int | Array, eps: Array) -> Array:
    """Return ∇ log q(x_t) as eps estimates it: −eps / √(1 − alpha_bar_t)."""
    return -eps / process.level(eps, t)[1]


def implied_weight(predict: Predict, alpha_bar: Table) -> Table:
    """Return how much the squared error of the prediction weighs that of x_0, (T,): SNR, 1 or SNR + 1."""
    if predict == "x_0":
        return np.ones_like(alpha_bar)
    return (alpha_bar if predict == "eps" else 1.0) / (1 - alpha_bar)


def halves(out: Array) -> tuple[Array, Fraction]:
    """Return the prediction and the fraction (v + 1) / 2 of a network that learns the variance.

    Its output is (N, ..., 2 C): C channels of the prediction, then C of IDDPM's v, in [−1, 1] where nothing is
    extrapolated (eq. 15, as in its code). This v has nothing to do with the prediction of that name.
    """
    c = out.shape[-1] // 2
    return out[..., :c], (out[..., c:] + 1) / 2
