"""The Fréchet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500, eq. 6)."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import DataError
from tinyddpm.metrics.base import Numbers, Rows, Sets

Moments = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The mean of features, (D,), and a factor R of their covariance Σ = Rᵀ R, (r, D) with r ≤ D."""


def frechet(sets: Sets) -> Numbers:
    """Return `frechet`, the Fréchet distance of drawn to real samples. With Inception's features it is the FID."""
    drawn, real = (part.kept("moments", partial(moments, part.features)) for part in (sets.drawn, sets.real))
    return {"frechet": distance(drawn, real)}


def frechet_distance(a: Rows, b: Rows) -> float:
    """Return the Fréchet distance between two sets of features, (n, D) and (m, D).

    Raises:
        DataError: a set has fewer than two rows, or the widths D differ.
    """
    return distance(moments(a), moments(b))


def moments(rows: Rows) -> Moments:
    """Return the mean and a factor of the covariance of features (n, D), in float64.

    With C the centred rows over √(n − 1), Σ = Cᵀ C. If C has more rows than columns, C = Q R and Σ = Rᵀ R. The R of two
    blocks of rows is the R of their two R's stacked, so that only one block is in memory at a time.

    Raises:
        DataError: there are fewer than two rows.
    """
    n, width = rows.shape
    if n < 2:
        raise DataError(f"the Fréchet distance needs two or more samples per set, not {n}")
    mean = rows.mean(0, dtype=np.float64)
    factor = np.zeros((0, width))
    for start in range(0, n, block := max(4 * width, 4096)):
        centred = (rows[start : start + block] - mean) / (n - 1) ** 0.5
        factor = np.concatenate([factor, centred])
        if len(factor) > width:
            factor = np.asarray(np.linalg.qr(factor, mode="r"))
    return mean, factor


def distance(a: Moments, b: Moments) -> float:
    """Return |μ_a − μ_b|² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of two Gaussians.

    Tr (Σ_a Σ_b)^½ is the sum of the singular values of R_a R_bᵀ. This needs no matrix square root, which is inaccurate
    for singular covariances, as they are with fewer samples than features.

    Raises:
        DataError: the means differ in length.
    """
    (mean_a, r_a), (mean_b, r_b) = a, b
    if mean_a.shape != mean_b.shape:
        raise DataError(f"the Fréchet distance needs features of equal width, not {len(mean_a)} and {len(mean_b)}")
    cross = np.linalg.svd(r_a @ r_b.T, compute_uv=False).sum()
    return float(((mean_a - mean_b) ** 2).sum() + (r_a**2).sum() + (r_b**2).sum() - 2 * cross)
