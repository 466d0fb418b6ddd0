"""From a data set to batches: which samples, in which order."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Purpose, Random
from tinyddpm.errors import DataError


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of the samples in the batch of training step `step`, (batch_size,), each in [0, n).

    Slot i of step k is place k·batch_size + i in the orders of all epochs laid end to end, each of them a permutation
    of the n samples. So every epoch visits each sample once, a batch may reach over the end of an epoch (or several),
    and the order needs no state: any step can be asked for.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, within = np.divmod(places, n)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _order(n, int(epoch), seed)[within[here]]
    return indices


@lru_cache(maxsize=2)
def _order(n: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """Return the order of one epoch; the last two are kept, as a batch may need both."""
    order: NDArray[np.int64] = Random(np, seed).permutation(Purpose.ORDER, epoch, n)
    order.flags.writeable = False
    return order


def check_batch_size(n: int, batch_size: int) -> None:
    """Raise a DataError if a batch is larger than the n samples there are."""
    if batch_size > n:
        raise DataError(
            f"a batch of {batch_size} is more than the {n} samples to train on: set --batch-size to at most {n},"
            " or add samples"
        )
