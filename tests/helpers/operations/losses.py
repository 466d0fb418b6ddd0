"""Squared errors, and the terms of the variational bound. They are computed in float32 at least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from helpers.operations.entry import FEW, SHAPE, Case, Operation, normal, torch

if TYPE_CHECKING:
    from torch import Tensor


class SquaredError(Operation, name="mse"):
    """A prediction (N, ...) and its target, which is data: the mean squared error of each sample, (N,)."""

    shapes = ({"shape": (1, 1)}, {"shape": (2, 3, 5, 1)})
    drawn = st.fixed_dictionaries({"shape": st.lists(FEW, min_size=2, max_size=4).map(tuple)})
    kernels = ("numba", "cupy")

    @classmethod
    def case(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
        return Case(cls.name, normal(rng, prediction=shape), {"target": rng.normal(size=shape)})

    @staticmethod
    def by_torch(prediction: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.mse_loss(prediction, target, reduction="none").flatten(1).mean(1)


class GaussianKL(Operation, name="gaussian_kl"):
    """KL(q ‖ p) of each element, in nats: p by mean and log_variance; q, data, by q_mean and q_log_variance."""

    shapes = ({"shape": (1, 1)}, {"shape": (2, 3, 5, 1)})
    drawn = st.fixed_dictionaries({"shape": SHAPE})

    @classmethod
    def case(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
        inputs = normal(rng, mean=shape, log_variance=shape)
        q = {"q_mean": rng.normal(size=shape), "q_log_variance": rng.normal(size=(shape[0], *(1 for _ in shape[1:])))}
        return Case(cls.name, inputs, q)

    @staticmethod
    def by_torch(mean: Tensor, log_variance: Tensor, q_mean: Tensor, q_log_variance: Tensor) -> Tensor:
        p, q = (
            torch.distributions.Normal(m, (v / 2).exp())
            for m, v in ((mean, log_variance), (q_mean, q_log_variance.expand_as(mean)))
        )
        return torch.distributions.kl_divergence(q, p)


class GaussianNLL(Operation, name="gaussian_nll"):
    """−log N(x; mean, e^log_variance) of each element, in nats; x is data."""

    shapes = ({"shape": (1, 1)}, {"shape": (2, 3, 5, 1)})
    drawn = st.fixed_dictionaries({"shape": SHAPE})

    @classmethod
    def case(cls, rng: np.random.Generator, shape: tuple[int, ...]) -> Case:
        return Case(cls.name, normal(rng, mean=shape, log_variance=shape), {"x": rng.normal(size=shape)})

    @staticmethod
    def by_torch(mean: Tensor, log_variance: Tensor, x: Tensor) -> Tensor:
        return -torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(x)


class PixelNLL(Operation, name="pixel_nll"):
    """−log of what N(mean, e^log_variance) gives to the bin of each pixel x, one of 256 from −1 to 1, in nats.

    Cases have the mean some standard deviations away, and every third pixel at an end of the range.
    """

    shapes = tuple({"shape": (2, 4, 5, 1), "log_variance": level} for level in (-10.0, -6.0, 0.0))
    drawn = st.fixed_dictionaries({"shape": SHAPE, "log_variance": st.floats(-9, 2)})

    @classmethod
    def case(cls, rng: np.random.Generator, shape: tuple[int, ...], log_variance: float) -> Case:
        x = rng.integers(0, 256, shape) / 127.5 - 1
        x.flat[::3] = np.sign(x.flat[::3])
        inputs = normal(rng, mean=shape, log_variance=shape)
        inputs["log_variance"] += log_variance
        inputs["mean"] = x + inputs["mean"] * np.exp(log_variance / 2)
        return Case(cls.name, inputs, {"x": x})

    @classmethod
    def by_torch(cls, mean: Tensor, log_variance: Tensor, x: Tensor) -> Tensor:
        """The difference of two values of Φ's tanh approximation, in the lower tail."""
        inverse = (-log_variance / 2).exp()
        a, b = (x - 1 / 255 - mean) * inverse, (x + 1 / 255 - mean) * inverse
        inside = torch.where(a + b < 0, cls.phi(b) - cls.phi(a), cls.phi(-a) - cls.phi(-b))
        return -torch.where(x < -0.999, cls.phi(b), torch.where(x > 0.999, cls.phi(-a), inside)).log()

    @staticmethod
    def phi(z: Tensor) -> Tensor:
        """½ (1 + tanh(y)) = sigmoid(2 y)."""
        return torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3))
