"""The Inception score of a classifier's logits (Salimans et al. 2016, arXiv 1606.03498)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import ConfigError
from tinyddpm.metrics.base import Numbers, Rows, Sets


def inception_score(sets: Sets, *, splits: int = 10, seed: int = 0) -> Numbers:
    """Return `inception score` of the drawn samples, the mean over splits, and `inception score sd`, their deviation.

    The score is high if a classifier is certain of each sample and the samples fall into many classes. It does not
    depend on real samples.

    Args:
        sets: drawn samples. Without logits the result is empty.
        splits: number of parts that are scored separately, by convention 10.
        seed: seed of the random split.

    Raises:
        ConfigError: `splits` is below 1 or above the number of samples.
    """
    logits = sets.drawn.logits
    if logits is None:
        return {}
    if not 1 <= splits <= len(logits):
        raise ConfigError(f"{splits} splits of {len(logits)} samples: give 1 to {len(logits)}")
    found = scores(logits[np.random.default_rng(seed).permutation(len(logits))], splits)
    return {"inception score": float(found.mean()), "inception score sd": float(found.std())}


def scores(logits: Rows, splits: int) -> NDArray[np.float64]:
    """Split logits (n, K) in order into `splits` parts and return exp(mean KL(p(y|x) | p(y))) of each, (splits,)."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    edges = [len(logits) * i // splits for i in range(1, splits)]
    return np.asarray([_score(part) for part in np.split(log_p, edges)])


def _score(log_p: NDArray[np.float64]) -> float:
    p = np.exp(log_p)
    return float(np.exp((p * (log_p - np.log(p.mean(0)))).sum(axis=1).mean()))
