"""The Fréchet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500, eq. 6)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from tinyddpm.errors import DataError

Rows: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]


def frechet(a: Rows, b: Rows) -> float:
    """Return |μ_a − μ_b|² + Tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½) of the Gaussians with the moments of two sets of rows.

    With C the centred rows over √(n − 1), Σ = Cᵀ C, and the last trace is the sum of the singular values of C_a C_bᵀ:
    no square root of a matrix, and none of its trouble where there are fewer rows than columns.

    Args:
        a: (n, D).
        b: (m, D).

    Raises:
        DataError: a set has fewer than two rows, or they differ in length.
    """
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:]:
        raise DataError(
            f"no distance between features of shapes {a.shape} and {b.shape}: give two rows or more of one length"
        )
    c_a, c_b = ((rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (a, b))
    cross = np.linalg.svd(c_a @ c_b.T, compute_uv=False).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (c_a**2).sum() + (c_b**2).sum() - 2 * cross)
