"""Weightings: the weight of the squared error at each noise level.

A weighting is a function `alpha_bar, parametrisation, *, <options> -> weights`, an entry of group
`tinyddpm.weightings`. From the (T,) table alpha_bar it makes (T,) factors above 0 of the mean squared error of F, the
network's prediction. Written as a weight ω of the error of x_0, a weighting is the same for every prediction. An error
of F is `out` times as large in x_0, so its factor is ω · out²: ω / SNR for eps, ω for x_0, ω / (SNR + 1) for v.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.diffusion.parametrisation import Parametrisation
from tinyddpm.diffusion.process import Table, posterior_coefficients, snr
from tinyddpm.errors import ConfigError


def simple(alpha_bar: Table, parametrisation: Parametrisation) -> Table:
    """Return L_simple's weights, 1 on the error of eps (DDPM eq. 14): ω = SNR."""
    return parametrisation.eps_out**2


def uniform(alpha_bar: Table, parametrisation: Parametrisation) -> Table:
    """Return 1 on the error of F at all times: for v, ω = SNR + 1 (arXiv 2202.00512, section 4)."""
    return np.ones_like(alpha_bar)


def vlb(alpha_bar: Table, parametrisation: Parametrisation) -> Table:
    """Return the bound's own weights for the variance beta-tilde, in nats per dimension (DDPM eqs. 8 and 12).

    The means of q and p differ by c_0 (x_0 − x̂_0), so ω = T c_0² / (2 beta-tilde), which is T (SNR_{t−1} − SNR_t) / 2;
    the factor T makes the mean over t the sum L_0 + … + L_{T−1}, as far as it depends on the prediction. At the step to
    the data, where beta-tilde is 0, its first value above 0 takes its place, as in `GaussianProcess`.
    """
    c = posterior_coefficients(alpha_bar, np.append(1.0, alpha_bar[:-1]))
    variance = np.append(c.beta_tilde[1], c.beta_tilde[1:])
    weights: Table = len(alpha_bar) * c.c_0**2 / (2 * variance) * parametrisation.out**2
    return weights


def min_snr(alpha_bar: Table, parametrisation: Parametrisation, *, gamma: float = 5.0) -> Table:
    """Return min-SNR-γ's weights, ω = min(SNR, γ) (Hang et al. 2023, arXiv 2303.09556, section 3.4).

    That is min(SNR, γ) / SNR on eps, and min(SNR, γ) / (SNR + 1) on v.

    Args:
        alpha_bar: (T,).
        parametrisation: what the network predicts.
        gamma: the SNR above which all errors of x_0 count the same.

    Raises:
        ConfigError: gamma is not positive.
    """
    if not gamma > 0:
        raise ConfigError(f"gamma is {gamma}: give a signal-to-noise ratio above 0 (the paper uses 5)")
    return np.minimum(snr(alpha_bar), gamma) * parametrisation.out**2


def p2(alpha_bar: Table, parametrisation: Parametrisation, *, k: float = 1.0, gamma: float = 1.0) -> Table:
    """Return P2's weights, 1 / (k + SNR)^γ on eps (Choi et al. 2022, arXiv 2204.00227, eq. 8): ω = SNR / (k + SNR)^γ.

    Args:
        alpha_bar: (T,).
        parametrisation: what the network predicts.
        k: keeps the weight finite where there is no signal.
        gamma: exponent; the larger, the less the errors at low noise count; 0 is `simple`.

    Raises:
        ConfigError: k is not positive, or gamma negative.
    """
    if not k > 0 or not gamma >= 0:
        raise ConfigError(f"k is {k} and gamma {gamma}: give k above 0 and gamma from 0 on (the paper uses 1 and 1)")
    ratio = snr(alpha_bar)
    return ratio / (k + ratio) ** gamma * parametrisation.out**2


def make_weights(name: str, alpha_bar: Table, parametrisation: Parametrisation, /, **options: Any) -> Table:
    """Return the (T,) weights of the weighting registered as `name`, checked.

    Raises:
        RegistryError: no such weighting, or its plugin is broken.
        ConfigError: an option or the shape is wrong, or a weight is not above 0: its time would not be learned.
    """
    weights: Table = registry.build("weightings", name, (alpha_bar, parametrisation), options)
    if np.shape(weights) != alpha_bar.shape:
        raise ConfigError(f"weighting {name!r} returned shape {np.shape(weights)}: it must be {alpha_bar.shape}")
    wrong = np.flatnonzero(~((weights > 0) & (weights < np.inf)))
    if len(wrong):
        raise ConfigError(
            f"weighting {name!r} weighs the error at t = {wrong[0]} by {weights[wrong[0]]:g}, which would not be "
            "learned: use the weighting 'uniform', which weighs all times the same"
        )
    return weights
