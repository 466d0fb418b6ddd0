"""Upload of training samples to a device: the whole data set at the start, or one batch per step."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Any, Protocol

import numpy as np

from tinyddpm.backend import Array, Backend
from tinyddpm.data.base import Dataset
from tinyddpm.data.batching import Order

SHARE = 0.25
"""Largest fraction of the device's free memory that a data set may take."""

CHUNK = 1 << 26
"""Bytes per transfer when a whole data set is uploaded, 64 MiB."""


class Feed(Protocol):
    """Samples on a device.

    Attributes:
        data: (M, ...) uint8 images or float32 points.
        whole: whether `data` is the whole data set, rather than one step's batch in the order of its slots.
    """

    data: Array
    whole: bool

    def load(self, step: int) -> None:
        """Put the samples of step number `step` (0-based) into `data`, before any later work on the device's queue."""
        ...


def make_feed(backend: Backend, train: Dataset, order: Order, own: slice) -> Feed:
    """Return a feed of the whole data set if it fits into a quarter of the free memory, else of batches.

    Args:
        backend: the device.
        train: the data set.
        order: gives the indices of a step's samples.
        own: the slots of a batch that this device computes.
    """
    like = train.read(np.zeros(1, np.int64))
    size = len(train) * prod(train.shape) * like.itemsize
    if size <= SHARE * backend.free_memory():
        return WholeFeed(backend, train, like.dtype)
    return BatchFeed(backend, train, order, own, like.dtype)


class WholeFeed:
    """The whole data set, uploaded once."""

    whole = True

    def __init__(self, backend: Backend, train: Dataset, dtype: Any) -> None:
        self.data = _empty(backend, (len(train), *train.shape), dtype)
        rows = max(1, CHUNK // (prod(train.shape) * dtype.itemsize))
        for start in range(0, len(train), rows):
            stop = min(start + rows, len(train))
            backend.upload(self.data[start:stop, ...], train.read(np.arange(start, stop)))
            backend.synchronize()

    def load(self, step: int) -> None:
        """Do nothing: all samples are on the device."""


class BatchFeed:
    """This device's slots of one step's batch, uploaded at each step.

    While the device computes a step, another thread reads the next step's samples into host memory. There are two host
    buffers: the device reads from one while the thread fills the other.
    """

    whole = False

    def __init__(self, backend: Backend, train: Dataset, order: Order, own: slice, dtype: Any) -> None:
        self._backend, self._train, self._order, self._own = backend, train, order, own
        shape = (own.stop - own.start, *train.shape)
        self.data = _empty(backend, shape, dtype)
        self._buffers = [backend.host_buffer(shape, dtype) for _ in range(2)]
        self._reader = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[None]] | None = None

    def load(self, step: int) -> None:
        """Upload the samples of this step, and begin to read those of the next."""
        if self._next is None or self._next[0] != step:
            self._next = step, self._reader.submit(self._read, step)
        self._next[1].result()
        self._backend.upload(self.data, self._buffers[step % 2])
        self._next = step + 1, self._reader.submit(self._read, step + 1)

    def _read(self, step: int) -> None:
        self._buffers[step % 2][...] = self._train.read(self._order(step)[self._own])


def _empty(backend: Backend, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return an uninitialised array on the device of the same type as host arrays of `dtype`."""
    return backend.xp.empty(shape, dtype=getattr(backend.xp, dtype.name), device=backend.device)
