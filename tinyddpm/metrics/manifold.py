"""What of the one set lies near the other: precision and recall, density and coverage, by balls around samples."""

from __future__ import annotations

from tinyddpm.errors import ConfigError
from tinyddpm.metrics.base import Numbers, Sets
from tinyddpm.metrics.neighbours import balls


def precision_recall(sets: Sets, *, k: int = 3) -> Numbers:
    """Return `precision` and `recall` (Kynkäänniemi et al. 2019, arXiv 1904.06991, eqs. 1 and 2).

    Around each sample is a ball that reaches to its k-th nearest neighbour in its own set. Precision is the share of
    drawn samples in a ball around a real one, recall the share of real samples in a ball around a drawn one.

    Args:
        sets: drawn and real samples.
        k: 1 or more; the farthest neighbour counts where there are fewer.

    Raises:
        ConfigError: k is below 1.
    """
    found = balls(sets, _checked(k))
    return {"precision": float((found.around > 0).mean()), "recall": float(found.covered.mean())}


def density_coverage(sets: Sets, *, k: int = 5) -> Numbers:
    """Return `density` and `coverage` (Naeem et al. 2020, arXiv 2002.09797, eqs. 3 and 4).

    Of the same balls around real samples, density is how many a drawn sample lies in, over k: 1 on average for equal
    laws. Coverage is the share of balls with a drawn sample in them. Neither looks at balls around drawn samples,
    which an outlier among them makes large.

    Args:
        sets: drawn and real samples.
        k: 1 or more; the farthest neighbour counts where there are fewer.

    Raises:
        ConfigError: k is below 1.
    """
    found = balls(sets, _checked(k))
    return {"density": float(found.around.mean() / k), "coverage": float(found.reached.mean())}


def _checked(k: int) -> int:
    if k < 1:
        raise ConfigError(f"k is {k}: a ball reaches to the k-th nearest neighbour, so give 1 or more")
    return k
