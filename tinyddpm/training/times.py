"""Importance sampling of the time t, for the variational bound (IDDPM section 3.3)."""

from __future__ import annotations

from typing import Any

import numpy as np

KEPT = 10
"""Losses kept of each time."""

UNIFORM = 0.001
"""The share of the draws that is uniform whatever the losses are."""

WORDS = 2**31

HostArray = np.ndarray[Any, Any]


class LossHistory:
    """The last losses of each time, and the times drawn after them.

        L_vlb = E_{t ~ p}[L_t / p_t],   p_t ∝ √E[L_t²]

    has the least variance of all p. E[L_t²] is the mean over the last 10 losses of each t. Until every t has as many,
    t is uniform. A thousandth of p always is, so that no t is forgotten. The history is state of the training: what is
    drawn next depends on it.

    Args:
        T: the number of times.

    Attributes:
        losses: (T, 10) float32, the oldest first; 0 where none is yet.
        counts: (T,) how many there are of each.
    """

    def __init__(self, T: int) -> None:
        self.losses = np.zeros((T, KEPT), np.float32)
        self.counts = np.zeros(T, np.int64)

    def edges(self) -> HostArray:
        """Return (T + 1,) whole numbers from 0 to 2³¹: t is drawn where a random word lies from edges[t] to the next.

        p is rounded to multiples of 2⁻³¹. The weights are those of the rounded p: rounding leaves no bias.
        """
        T = len(self.counts)
        p = np.full(T, 1 / T)
        if self.counts.min() == KEPT:
            p = np.mean(self.losses.astype(np.float64) ** 2, axis=1) ** 0.5
            p = (1 - UNIFORM) * p / p.sum() + UNIFORM / T
        inner = np.rint(WORDS * np.cumsum(p[:-1])).astype(np.int64)
        return np.concatenate([[0], inner, [WORDS]])

    def draw(self, words: HostArray) -> tuple[HostArray, HostArray]:
        """Return t, (N,), for (N,) random whole numbers in [0, 2³¹), and float32 weights 1 / (T p_t)."""
        edges = self.edges()
        t = np.searchsorted(edges, words, side="right") - 1
        p = np.diff(edges)[t] / WORDS
        return t, (1 / (len(self.counts) * p)).astype(np.float32)

    def record(self, t: HostArray, losses: HostArray) -> None:
        """Add the losses, (N,), of the times t, (N,), in order; of each time the last 10 are kept."""
        for time, loss in zip(t, losses, strict=True):
            if self.counts[time] == KEPT:
                self.losses[time, :-1] = self.losses[time, 1:]
            else:
                self.counts[time] += 1
            self.losses[time, self.counts[time] - 1] = loss

    def packed(self) -> HostArray:
        """Return all of it as one (T, 1 + 10) float32 array: the counts, then the losses."""
        return np.concatenate([self.counts[:, None].astype(np.float32), self.losses], axis=1)

    def unpack(self, packed: HostArray) -> None:
        """Go back to where `packed` was made."""
        self.counts, self.losses = packed[:, 0].astype(np.int64), packed[:, 1:].astype(np.float32)
