"""A denoiser between two."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.affine import LINEAR
from helpers.gaussians import Floats, Mixture
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.guidance import Blend

A, B = np.array([1.1, 0.4]), np.array([-0.7, -0.2])
RNG = np.random.default_rng(6)


def shifted(mean: Floats) -> Mixture:
    return Mixture(np.ones(1), mean[None], np.array([[[0.3, 0.1], [0.1, 0.2]]]))


@pytest.mark.parametrize("t", [0, 300, 999])
def test_a_blend_of_two_gaussians_is_the_gaussian_between(t: int) -> None:
    """p^(1 − λ) q^λ of two Gaussians that differ in mean alone is the one at the mean between: so is the denoiser."""
    lam = np.array([0.0, 0.2, 0.7, 1.0])
    x = RNG.standard_normal((4, 2))
    blend = Blend(shifted(A).denoiser(LINEAR), shifted(B).denoiser(LINEAR), lam)
    x_0, eps = blend(x, t)
    for i, share in enumerate(lam):
        expected = shifted((1 - share) * A + share * B).denoiser(LINEAR)(x[i : i + 1], t)
        np.testing.assert_allclose(x_0[i : i + 1], expected.x_0, rtol=1e-9)
        np.testing.assert_allclose(eps[i : i + 1], expected.eps, rtol=1e-9)


def test_a_blend_mixes_learned_variances_and_asks_one_denoiser_once() -> None:
    asked = []

    def saying(value: float, fraction: float | None) -> object:
        def denoiser(x_t: Floats, t: int) -> Prediction:
            asked.append(value)
            return Prediction(x_t, x_t, None if fraction is None else np.full_like(x_t, fraction))

        return denoiser

    x, lam = np.ones((1, 2)), np.array([0.25])
    first, second, silent = saying(1, 0.2), saying(2, 0.6), saying(3, None)
    np.testing.assert_allclose(Blend(first, second, lam)(x, 0).fraction, 0.3)
    assert Blend(first, silent, lam)(x, 0).fraction is None
    asked.clear()
    np.testing.assert_allclose(Blend(first, first, lam)(x, 0).fraction, 0.2)
    assert asked == [1]
