"""Norms, and what a sample is told: a scale and a shift, or a vector."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from helpers.operations.activations import Dropout, SiLU
from helpers.operations.entry import FEW, LEADING, PIXELS, SIZE, Case, Operation, dropout, normal, torch

if TYPE_CHECKING:
    from torch import Tensor

    from tinyddpm.ops import activation


class GroupNorm(Operation, name="group_norm"):
    """x (N, ..., C), standardised in each sample's groups of C / groups channels, times scale (C,), plus shift (C,)."""

    shapes = (
        {"leading": (2, 3, 5), "groups": 1, "each": 6},
        {"leading": (1, 3, 3), "groups": 3, "each": 2},
        {"leading": (2, 4, 2), "groups": 5, "each": 1},
        {"leading": (3, 7), "groups": 2, "each": 4, "eps": 0.1},
        {"leading": (3,), "groups": 2, "each": 3},
    )
    drawn = st.fixed_dictionaries(
        {"leading": LEADING, "groups": FEW, "each": FEW, "eps": st.sampled_from([1e-6, 1e-3, 0.5])}
    ).filter(lambda shape: prod(shape["leading"]) * shape["each"] > 1)  # Torch refuses a single element.
    kernels = ("numpy", "numba", "torch", "cupy")
    parameters = vectors = ("scale", "shift")
    roundings = (1, 1, 0)

    @classmethod
    def case(
        cls, rng: np.random.Generator, leading: tuple[int, ...], groups: int, each: int, eps: float | None = None
    ) -> Case:
        c = groups * each
        inputs = normal(rng, x=(*leading, c), scale=(c,), shift=(c,))
        return Case(cls.name, inputs, {"groups": groups} if eps is None else {"groups": groups, "eps": eps})

    @staticmethod
    def by_torch(x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float = 1e-6) -> Tensor:
        y = torch.nn.functional.group_norm(x.movedim(-1, 1)[..., None], groups, scale, shift, eps)
        return y[..., 0].movedim(1, -1)


class GroupNormSiLU(Operation, name="group_norm_silu"):
    """`group_norm`, then `modulate` by a modulation of scale and shift (N, C) if there is one, SiLU, and `dropout`."""

    shapes = (
        {"leading": (2, 3, 5), "groups": 1, "each": 6, "modulated": False},
        {"leading": (3, 4, 2), "groups": 2, "each": 3, "modulated": True},
        {"leading": (2, 7), "groups": 3, "each": 2, "modulated": True},
        {"leading": (3,), "groups": 2, "each": 3, "modulated": False},
        {"leading": (2, 3, 5), "groups": 2, "each": 4, "modulated": False, "rate": 0.2},
        {"leading": (3, 5), "groups": 2, "each": 3, "modulated": True, "rate": 0.4},
    )
    drawn = st.fixed_dictionaries(
        {
            "leading": LEADING,
            "groups": FEW,
            "each": FEW,
            "modulated": st.booleans(),
            "rate": st.sampled_from([0.0, 0.3]),
        }
    ).filter(lambda shape: prod(shape["leading"][1:]) * shape["each"] > 2)  # Two elements, nearly equal, amplify all.
    kernels = ("numpy", "numba", "torch", "cupy")
    parameters = vectors = ("scale", "shift")
    roundings = (6, 6, 6)  # the norm, `modulate`, SiLU, dropout
    cancels = True

    @classmethod
    def case(
        cls,
        rng: np.random.Generator,
        leading: tuple[int, ...],
        groups: int,
        each: int,
        modulated: bool,
        rate: float = 0.0,
    ) -> Case:
        n, c = leading[0], groups * each
        shapes: dict[str, tuple[int, ...]] = {"x": (*leading, c), "scale": (c,), "shift": (c,)}
        others: dict[str, Any] = {"groups": groups}
        if rate:
            others["dropout"] = dropout(n, rate, layer=2)
        if not modulated:
            return Case(cls.name, normal(rng, **shapes), others)
        names = ("m_scale", "m_shift")
        inputs = normal(rng, **shapes, **dict.fromkeys(names, (n, c)))
        return Case(cls.name, inputs, others, {"modulation": names})

    @staticmethod
    def by_torch(
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        groups: int,
        m_scale: Tensor | None = None,
        m_shift: Tensor | None = None,
        dropout: activation.Dropout | None = None,
    ) -> Tensor:
        h = GroupNorm.by_torch(x, scale, shift, groups)
        y = SiLU.by_torch(h if m_scale is None or m_shift is None else Modulate.by_torch(h, m_scale, m_shift))
        return Dropout.by_torch(y, dropout) if dropout else y


class LayerNorm(Operation, name="layer_norm"):
    """x (..., C), standardised over its last axis, times scale (C,), plus shift (C,)."""

    shapes = (
        {"leading": (1,), "c": 5},
        {"leading": (2, 7), "c": 3, "eps": 0.1},
        {"leading": (2, 3, 1), "c": 8},
    )
    drawn = st.fixed_dictionaries({"leading": LEADING, "c": SIZE, "eps": st.sampled_from([1e-6, 1e-3, 0.5])})
    kernels = ("numba", "torch", "cupy")
    parameters = vectors = ("scale", "shift")
    roundings = (1, 1, 0)

    @classmethod
    def case(cls, rng: np.random.Generator, leading: tuple[int, ...], c: int, eps: float | None = None) -> Case:
        inputs = normal(rng, x=(*leading, c), scale=(c,), shift=(c,))
        return Case(cls.name, inputs, {} if eps is None else {"eps": eps})

    @staticmethod
    def by_torch(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
        return torch.nn.functional.layer_norm(x, scale.shape, scale, shift, eps)


class Modulate(Operation, name="modulate"):
    """x (N, ..., C) times 1 + scale (N, C), plus shift (N, C)."""

    shapes = (
        {"n": 1, "pixels": (3, 3), "c": 1},
        {"n": 3, "pixels": (5, 2), "c": 4},
        {"n": 2, "pixels": (7,), "c": 3},
        {"n": 3, "pixels": (), "c": 2},
    )
    drawn = st.fixed_dictionaries({"n": FEW, "pixels": PIXELS, "c": FEW})
    kernels = ("numba", "cupy")
    roundings = (3, 2, 0)  # 1 + scale, a product, a sum; for dx the first two, for dscale the last two
    cancels = True

    @classmethod
    def case(cls, rng: np.random.Generator, n: int, pixels: tuple[int, ...], c: int) -> Case:
        return Case(cls.name, normal(rng, x=(n, *pixels, c), scale=(n, c), shift=(n, c)), {})

    @staticmethod
    def by_torch(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return torch.einsum("n...c,nc->n...c", x, 1 + scale) + AddVector.by_torch(torch.zeros_like(x), shift)


class AddVector(Operation, name="add_vector"):
    """x (N, ..., C) plus v (N, C)."""

    shapes = (
        {"n": 1, "pixels": (3, 3), "c": 1},
        {"n": 3, "pixels": (5, 2), "c": 4},
        {"n": 3, "pixels": (), "c": 2},
    )
    drawn = st.fixed_dictionaries({"n": FEW, "pixels": PIXELS, "c": FEW})
    kernels = ("numba", "cupy")
    roundings = (1, 1, 0)

    @classmethod
    def case(cls, rng: np.random.Generator, n: int, pixels: tuple[int, ...], c: int) -> Case:
        return Case(cls.name, normal(rng, x=(n, *pixels, c), v=(n, c)), {})

    @staticmethod
    def by_torch(x: Tensor, v: Tensor) -> Tensor:
        return x + torch.einsum("n...c,nc->n...c", torch.ones_like(x), v)
