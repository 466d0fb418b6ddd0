"""What is enlarged exactly shrinks to its picture, in range, and is else as near as can be to what was predicted."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tinyddpm.backend import load_backend
from tinyddpm.diffusion.denoiser import Prediction, Thresholded, static_threshold
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import cosine
from tinyddpm.editing import Matched, matched
from tinyddpm.ops.images import from_model, shrunk, to_model
from tinyddpm.samplers import ancestral, ddim, dpmpp_2m, dpmpp_2m_sde, euler, heun, trailing_pairs, unipc

NUMPY = load_backend("numpy")
RNG = np.random.default_rng(2)


def means(x: np.ndarray, factor: int) -> np.ndarray:
    n, height, width, c = x.shape
    return x.reshape(n, height // factor, factor, width // factor, factor, c).mean(axis=(2, 4))


def spread(small: np.ndarray, factor: int) -> np.ndarray:
    return np.repeat(np.repeat(small, factor, axis=1), factor, axis=2)


@pytest.mark.parametrize("factor", [2, 3])
def test_where_nothing_leaves_the_range_it_is_ddnm(factor: int) -> None:
    """The null space's share of x_0 stays as it is, and the range space's is the picture's."""
    x_0, small = 0.2 * RNG.normal(size=(2, 6, 12, 3)), RNG.uniform(-0.2, 0.2, (2, 6 // factor, 12 // factor, 3))
    expected = x_0 + spread(small - means(x_0, factor), factor)
    assert np.abs(expected).max() < 1
    np.testing.assert_allclose(matched(np, x_0, small, factor), expected, atol=1e-5)


def test_it_is_the_nearest_in_range() -> None:
    """Against Dykstra's alternating projections, which come to the same point by another way."""
    x_0, small = 1.5 * RNG.normal(size=(2, 4, 4, 2)), RNG.uniform(-1, 1, (2, 2, 2, 2))
    small[0, 0, 0], small[1, 1, 1] = 1.0, -1.0
    found = matched(np, x_0, small, 2)
    assert np.abs(found).max() <= 1
    np.testing.assert_allclose(means(found, 2), small, atol=1e-5)
    x, of_range = x_0, np.zeros_like(x_0)
    for _ in range(20_000):
        y = x + spread(small - means(x, 2), 2)
        x = np.clip(y + of_range, -1, 1)
        of_range = y + of_range - x
    np.testing.assert_allclose(found, x, atol=2e-4)


def saturated() -> np.ndarray:
    """Pictures of 8 bits: noise, black and white, a disc on white, white alone."""
    noise = RNG.integers(0, 256, (8, 8, 3), np.uint8)
    y, x = np.mgrid[:8, :8]
    disc = np.where(((y - 3.5) ** 2 + (x - 3.5) ** 2 < 9)[..., None], np.uint8([200, 30, 0]), np.uint8(255))
    return np.stack([noise, 255 * (noise > 128).astype(np.uint8), disc, np.full_like(noise, 255)])


SAMPLERS: dict[str, Any] = {
    "ancestral": partial(ancestral, variance="large"),
    "ddim": ddim,
    "noisy ddim": partial(ddim, eta=1.0),
    "dpmpp-2m": dpmpp_2m,
    "dpmpp-2m-sde": dpmpp_2m_sde,
    "euler": euler,
    "heun": heun,
    "unipc": unipc,
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("clipped", [False, True])
def test_what_is_drawn_shrinks_to_the_picture(sampler: str, clipped: bool) -> None:
    """By any sampler, of a denoiser that is wrong and leaves the range: in 8 bits, within 1/255 rms.

    Without the projection it is far off.
    """
    process = GaussianProcess(NUMPY, cosine(40))
    small = saturated()
    pictures = to_model(small).astype(float)
    wrong = 1.2 * spread(pictures, 2) + 0.3 * RNG.normal(size=(4, 16, 16, 3))

    def wrong_denoiser(x_t: np.ndarray, t: int) -> Prediction:
        x_0 = 0.9 * wrong + 0.1 * x_t
        return Prediction(x_0, process.predict_eps(x_t, t, x_0))

    denoiser: Any = wrong_denoiser
    if clipped:
        denoiser = Thresholded(process, denoiser, static_threshold)

    def off(denoiser: Any) -> float:
        x, rng = np.random.default_rng(1).normal(size=(4, 16, 16, 3)), np.random.default_rng(4)
        *_, last = SAMPLERS[sampler](process, denoiser, x, trailing_pairs(40, 8), lambda t: rng.normal(size=x.shape))
        again = shrunk(from_model(last.x), 2).astype(float)
        return float(np.sqrt(np.mean((again - small) ** 2)))

    assert off(Matched(process, denoiser, pictures, 2)) < 1
    assert off(denoiser) > 5


def test_another_backend_finds_the_same(other_backend: Any) -> None:
    x_0 = 1.5 * RNG.normal(size=(2, 4, 6, 2)).astype(np.float32)
    small = RNG.uniform(-1, 1, (2, 2, 3, 2)).astype(np.float32)
    theirs = matched(other_backend.xp, other_backend.asarray(x_0), other_backend.asarray(small), 2)
    np.testing.assert_allclose(other_backend.to_numpy(theirs), matched(np, x_0, small, 2), atol=1e-5)
