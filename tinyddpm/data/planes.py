"""Toy distributions known exactly: Gaussian mixtures on a line and in the plane, two moons, a swiss roll, a ring.

Each data set is 20000 points, computed from uniform and normal numbers, then shifted and scaled, all coordinates alike,
so that the distribution has mean 0 and the mean of its coordinates' variances is 1. Shift and scale are exact, computed
by hand from the distribution, not from the points. The points are always the same; "train" and "test" are independent
draws. Below, u is uniform over [0, 1) and z standard normal, independent wherever they occur.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Purpose, Random
from tinyddpm.data.base import ArrayDataset, require_split
from tinyddpm.errors import ConfigError

POINTS = 20_000
SPLITS = ("train", "test")
SEED = 2006_11239

MODES = 8
MODE_DEVIATION = 0.1
"""Standard deviation of each mode of the mixture, in each direction."""
MODE_RADIUS = math.sqrt(2.0 * (1.0 - MODE_DEVIATION**2))
"""Radius of the circle of modes. A coordinate then has variance radius² / 2 + deviation² = 1."""
LINE_WEIGHTS = (0.5, 0.3, 0.2)
LINE_PLACES = (-1.0, 0.6, 1.6)
"""Weights and, up to a factor, means of the three modes on a line; the weighted mean is 0."""
LINE_DEVIATION = 0.2
MOON_NOISE = 0.1
ROLL_NOISE = 0.5
RING_NOISE = 0.1

Values = NDArray[np.float64]


class Mixture(NamedTuple):
    """A mixture of Gaussians: weights (k,), means (k, D), covariances (k, D, D), all float64."""

    weights: Values
    means: Values
    covariances: Values


def mixture_parameters() -> Mixture:
    """Return the distribution of `mixture`: eight equal, isotropic modes on a circle."""
    angles = 2.0 * np.pi * np.arange(MODES) / MODES
    means = MODE_RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Mixture(
        weights=np.full(MODES, 1.0 / MODES),
        means=means,
        covariances=np.tile(MODE_DEVIATION**2 * np.eye(2), (MODES, 1, 1)),
    )


def mixture(split: str, data_dir: str | None) -> ArrayDataset:
    """Return points (n, 2) of `mixture_parameters()`, labelled with their mode: mean_k + deviation · z."""
    draw = _Draws("mixture", split)
    modes = draw.integers(MODES)
    points = mixture_parameters().means[modes] + MODE_DEVIATION * draw.normal()
    return ArrayDataset(points, modes, _mode_names(MODES), name="mixture")


def mixture_1d_parameters() -> Mixture:
    """Return the distribution of `mixture_1d`: three modes on a line, of unequal weights and equal deviation.

    With weights w and places m the means are c m, where c² Σ w m² + deviation² = 1.
    """
    weights, places = np.array(LINE_WEIGHTS), np.array(LINE_PLACES)
    means = places * math.sqrt((1.0 - LINE_DEVIATION**2) / (weights @ places**2))
    return Mixture(weights, means[:, None], np.full((len(means), 1, 1), LINE_DEVIATION**2))


def mixture_1d(split: str, data_dir: str | None) -> ArrayDataset:
    """Return points (n, 1) of `mixture_1d_parameters()`, labelled with their mode: mean_k + deviation · z."""
    draw = _Draws("mixture-1d", split)
    modes = np.searchsorted(np.cumsum(LINE_WEIGHTS)[:-1], draw.uniform(), side="right")
    points = mixture_1d_parameters().means[modes] + LINE_DEVIATION * draw.normal(1)
    return ArrayDataset(points, modes, _mode_names(len(LINE_WEIGHTS)), name="mixture-1d")


def _mode_names(count: int) -> tuple[str, ...]:
    return tuple(f"mode {k}" for k in range(count))


def moons(split: str, data_dir: str | None, *, noise: float = MOON_NOISE) -> ArrayDataset:
    """Return two interleaving half circles, labelled: with a = π u,

        upper (cos a, sin a),  lower (1 - cos a, 1/2 - sin a),  each + noise · z.

    Either moon has the x variance E cos² = 1/2; their means 0 and 1 add 1/4. E y = (2/π + 1/2 - 2/π) / 2 = 1/4, and
    E y² = (1/2 + 3/4 - 2/π) / 2, so the y variance is 9/16 - 1/π.
    """
    draw = _Draws("moons", split)
    angle = np.pi * draw.uniform()
    lower = draw.integers(2)
    sign = 1 - 2 * lower
    points = np.stack([lower + sign * np.cos(angle), 0.5 * lower + sign * np.sin(angle)], axis=1)
    variance = (3 / 4 + 9 / 16 - 1 / math.pi) / 2 + _checked(noise) ** 2
    points = (points + noise * draw.normal() - [0.5, 0.25]) / math.sqrt(variance)
    return ArrayDataset(points, lower, ("upper", "lower"), name="moons")


def swiss_roll(split: str, data_dir: str | None, *, noise: float = ROLL_NOISE) -> ArrayDataset:
    """Return a spiral of one and a half turns: with a = 3π/2 (1 + 2u), the points a (cos a, sin a) + noise · z.

    The mean of a (cos a, sin a) over [3π/2, 9π/2] is (2, 2 / 3π), by parts. The second moments of both coordinates add
    up to E a² = 9.75 π².
    """
    draw = _Draws("swiss-roll", split)
    angle = 1.5 * np.pi * (1.0 + 2.0 * draw.uniform())
    points = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + noise * draw.normal()
    mean = np.array([2.0, 2.0 / (3.0 * np.pi)])
    variance = (9.75 * np.pi**2 - mean @ mean) / 2 + _checked(noise) ** 2
    return ArrayDataset((points - mean) / math.sqrt(variance), name="swiss-roll")


def ring(split: str, data_dir: str | None, *, noise: float = RING_NOISE) -> ArrayDataset:
    """Return a circle blurred along its radius: with a = 2π u, the points (1 + noise · z) (cos a, sin a).

    The mean is 0 and each coordinate's variance E r² / 2 = (1 + noise²) / 2.
    """
    draw = _Draws("ring", split)
    angle = 2.0 * np.pi * draw.uniform()
    radius = 1.0 + noise * draw.normal()[:, 0]
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return ArrayDataset(points / math.sqrt((1.0 + _checked(noise) ** 2) / 2.0), name="ring")


def _checked(noise: float) -> float:
    if not 0 <= noise < math.inf:
        raise ConfigError(f"noise is {noise}: give a standard deviation from 0 on")
    return noise


class _Draws:
    """The random numbers of one split; each kind has a layer of its own, so that they are independent."""

    def __init__(self, name: str, split: str) -> None:
        require_split(split, SPLITS, name)
        self._random = Random(np, SEED)
        self._step = SPLITS.index(split)

    def normal(self, D: int = 2) -> Values:
        """Return standard normal z, (n, D)."""
        return np.asarray(self._random.normal(Purpose.DATA, self._step, range(POINTS), (D,), layer=0), np.float64)

    def uniform(self) -> Values:
        """Return uniform u, (n,)."""
        return np.asarray(self._random.uniform(Purpose.DATA, self._step, range(POINTS), (), layer=1), np.float64)

    def integers(self, high: int) -> NDArray[np.int64]:
        """Return integers in [0, high), (n,)."""
        return np.asarray(self._random.integers(Purpose.DATA, self._step, range(POINTS), (), high, layer=2), np.int64)
