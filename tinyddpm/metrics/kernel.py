"""The kernel distance between two sets of features (Bińkowski et al. 2018, arXiv 1801.01401); with Inception's, KID."""

from __future__ import annotations

import numpy as np

from tinyddpm.errors import ConfigError
from tinyddpm.metrics.base import Numbers, Rows, Sets


def kernel(sets: Sets, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Numbers:
    """Return `kernel`, the mean squared kernel distance over random subsets, and `kernel se`, its standard error.

    The estimate is unbiased: about 0 for equal distributions, whatever the number of samples, and sometimes negative.
    Subsets of m out of n samples overlap, so their standard deviation s reflects only the n − m samples left out of
    each. The sampling error of the n samples themselves is s √(m / (n − m)); it is part of `kernel se`. If a set has
    only two samples, subsets leave none out, and `kernel se` is omitted.

    Args:
        sets: drawn and real samples.
        subsets: number of random subsets of each set.
        size: number of samples in a subset, at most half of the smaller set.
        seed: seed of the random subsets.

    Raises:
        ConfigError: `subsets` or `size` is below 2.
    """
    if subsets < 2 or size < 2:
        raise ConfigError(f"{subsets} subsets of {size} samples: the kernel distance needs at least 2 of at least 2")
    n = min(len(sets.drawn), len(sets.real))
    m = max(2, min(size, n // 2))
    rng = np.random.default_rng(seed)
    found = [
        kernel_distance(*(part.features[rng.permutation(len(part))[:m]] for part in (sets.drawn, sets.real)))
        for _ in range(subsets)
    ]
    mean, spread = float(np.mean(found)), float(np.std(found, ddof=1))
    return {"kernel": mean} | ({"kernel se": spread * (m / (n - m) + 1 / subsets) ** 0.5} if m < n else {})


def kernel_distance(a: Rows, b: Rows) -> float:
    """Return the unbiased squared maximum mean discrepancy of features (n, D) and (m, D), n and m at least 2.

    With the kernel k(x, y) = (x·y / D + 1)³ it is the mean of k over pairs of different rows of `a`, plus the same for
    `b`, minus twice the mean over pairs of a row of `a` and a row of `b`.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    return _mean_of_pairs(a) + _mean_of_pairs(b) - 2 * float(_kernel(a, b).mean())


def _mean_of_pairs(rows: Rows) -> float:
    """Return the mean of the kernel over pairs of different rows."""
    n, values = len(rows), _kernel(rows, rows)
    return float((values.sum() - np.trace(values)) / (n * (n - 1)))


def _kernel(a: Rows, b: Rows) -> Rows:
    base: Rows = a @ b.T / a.shape[1] + 1
    return base * base * base
