"""The kernel distance between two sets of features (Bińkowski et al. 2018, arXiv 1801.01401): Inception's is KID."""

from __future__ import annotations

import numpy as np

from tinyddpm.errors import ConfigError
from tinyddpm.metrics.base import Numbers, Rows, Sets


def kernel(sets: Sets, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> Numbers:
    """Return `kernel`, the mean squared kernel distance over random subsets, and `kernel se`, its standard error.

    It is unbiased: about 0 for equal laws whatever the number of samples, and at times below. Subsets of m samples
    out of n overlap, so their spread s is that of leaving n − m out. What the n themselves leave out of all that there
    could be adds s √(m / (n − m)) to the error.

    Args:
        sets: drawn and real samples.
        subsets: how many are drawn of each set.
        size: samples in a subset; half of the smaller set if that is less.
        seed: of the choice.

    Raises:
        ConfigError: there are fewer than two subsets, or two samples in them.
    """
    if subsets < 2 or size < 2:
        raise ConfigError(f"{subsets} subsets of {size}: the kernel distance takes two or more of two or more")
    n = min(len(sets.drawn), len(sets.real))
    m = max(2, min(size, n // 2))
    rng = np.random.default_rng(seed)
    found = [
        kernel_distance(*(part.features[rng.permutation(len(part))[:m]] for part in (sets.drawn, sets.real)))
        for _ in range(subsets)
    ]
    spread = float(np.std(found, ddof=1))
    return {"kernel": float(np.mean(found)), "kernel se": spread * (m / max(1, n - m) + 1 / subsets) ** 0.5}


def kernel_distance(a: Rows, b: Rows) -> float:
    """Return the squared maximum mean discrepancy of features (n, D) and (m, D), unbiased; n and m are 2 or more.

    With k(x, y) = (x·y / D + 1)³ it is the mean of k over pairs of two different a, plus that over pairs of two
    different b, minus twice the mean over pairs of an a and a b.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    return _mean_of_pairs(a) + _mean_of_pairs(b) - 2 * float(_kernel(a, b).mean())


def _mean_of_pairs(rows: Rows) -> float:
    """Return the mean of the kernel over pairs of two different rows."""
    n, values = len(rows), _kernel(rows, rows)
    return float((values.sum() - np.trace(values)) / (n * (n - 1)))


def _kernel(a: Rows, b: Rows) -> Rows:
    base: Rows = a @ b.T / a.shape[1] + 1
    return base * base * base
