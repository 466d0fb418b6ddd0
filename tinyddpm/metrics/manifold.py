"""Precision and recall, density and coverage: shares of one set that lie in balls around samples of the other."""

from __future__ import annotations

from tinyddpm.errors import ConfigError
from tinyddpm.metrics.base import Numbers, Sets
from tinyddpm.metrics.neighbours import balls


def precision_recall(sets: Sets, *, k: int = 3) -> Numbers:
    """Return `precision` and `recall` (Kynkäänniemi et al. 2019, arXiv 1904.06991, eqs. 1 and 2).

    Each sample has a ball whose radius is the distance to its k-th nearest neighbour in its own set. Precision is the
    share of drawn samples inside a ball of a real one, recall the share of real samples inside a ball of a drawn one.

    Args:
        sets: drawn and real samples.
        k: 1 or more; in a set with fewer neighbours the farthest one is taken.

    Raises:
        ConfigError: k is below 1.
    """
    found = balls(sets, _checked(k))
    return {"precision": float((found.around > 0).mean()), "recall": float(found.covered.mean())}


def density_coverage(sets: Sets, *, k: int = 5) -> Numbers:
    """Return `density` and `coverage` (Naeem et al. 2020, arXiv 2002.09797, eqs. 3 and 4).

    Density is the mean number of real samples' balls that a drawn sample lies in, over k: 1 in expectation for equal
    distributions. Coverage is the share of real samples' balls that contain a drawn sample. Neither uses balls of drawn
    samples, which outliers make large.

    Args:
        sets: drawn and real samples.
        k: 1 or more; in a set with fewer neighbours the farthest one is taken.

    Raises:
        ConfigError: k is below 1.
    """
    found = balls(sets, _checked(k))
    return {"density": float(found.around.mean() / k), "coverage": float(found.reached.mean())}


def _checked(k: int) -> int:
    if k < 1:
        raise ConfigError(f"k is {k}: a ball reaches to the k-th nearest neighbour, so give 1 or more")
    return k
