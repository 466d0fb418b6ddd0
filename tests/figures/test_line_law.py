"""Laws on a line: diffused and reversed, against integrals on a grid and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm.errors import DataError
from tinyddpm.figures.line_law import Law, density, diffused, law_of_points, posterior, reverse

THREE = Law(np.array([0.5, 0.3, 0.2]), np.array([-1.0, 0.6, 1.6]), np.array([0.04, 0.09, 0.02]))
X = np.linspace(-9, 9, 6001)
H = X[1] - X[0]

shares = st.floats(0.02, 0.98)


def normal(x: np.ndarray, mean: np.ndarray | float, variance: float) -> np.ndarray:
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


@given(alpha_bar=shares)
@settings(max_examples=25, deadline=None)
def test_a_diffused_law_is_the_shrunk_one_convolved_with_the_kernel(alpha_bar: float) -> None:
    """The integral of DDPM's eq. 4 by sums on a grid, which for these smooth functions are exact to rounding."""
    found = density(diffused(THREE, alpha_bar), X)
    assert H * found.sum() == pytest.approx(1, abs=1e-9)
    at = X[::300]
    integral = H * normal(at[:, None], alpha_bar**0.5 * X, 1 - alpha_bar) @ density(THREE, X)
    np.testing.assert_allclose(density(diffused(THREE, alpha_bar), at), integral, atol=1e-9)


def test_points_are_diffused_to_a_sum_of_kernels() -> None:
    points = np.array([[-1.0], [0.5], [2.0]])
    law = law_of_points(points)
    mean_of_kernels = np.mean([normal(X, 0.8**0.5 * p, 0.2) for p in points[:, 0]], axis=0)
    np.testing.assert_allclose(density(diffused(law, 0.8), X), mean_of_kernels, atol=1e-12)
    assert law.mean == pytest.approx(0.5)
    with pytest.raises(DataError, match=r"shape \(2,\): this figure is one-dimensional: give points \(n, 1\)"):
        law_of_points(np.zeros((4, 2)))


@given(prev=shares, step=st.floats(0.1, 0.99), x_t=st.floats(-2.5, 2.5))
@settings(max_examples=25, deadline=None)
def test_the_step_back_is_bayes_rule_on_a_grid(prev: float, step: float, x_t: float) -> None:
    """q(x_t | x_prev) q(x_prev), normalised by a sum, whatever the length of the step."""
    product = normal(x_t, step**0.5 * X, 1 - step) * density(diffused(THREE, prev), X)
    np.testing.assert_allclose(
        density(reverse(THREE, step * prev, prev, x_t), X), product / (H * product.sum()), atol=1e-8
    )


def test_the_step_back_is_the_posterior_averaged_over_x_0() -> None:
    """∫ q(x_prev | x_t, x_0) q(x_0 | x_t) dx_0, another way to the same density."""
    t, prev, x_t = 0.3, 0.5, 0.2
    of_x_0 = density(reverse(THREE, t, 1.0, x_t), X)
    at = X[::100]
    each = np.stack([density(posterior(x_0, t, prev, x_t), at) for x_0 in X], axis=1)
    np.testing.assert_allclose(density(reverse(THREE, t, prev, x_t), at), H * each @ of_x_0, atol=1e-8)


def test_from_one_point_the_step_back_is_the_posterior() -> None:
    exact, gaussian = reverse(law_of_points(np.array([[0.7]])), 0.3, 0.5, -0.4), posterior(0.7, 0.3, 0.5, -0.4)
    np.testing.assert_allclose(np.concatenate(exact), np.concatenate(gaussian), rtol=1e-12)
