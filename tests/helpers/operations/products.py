"""Products with weights, and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from helpers.operations.entry import FEW, LEADING, SIZE, Case, Operation, normal, torch

if TYPE_CHECKING:
    from torch import Tensor


class Convolution(Operation, name="conv2d"):
    """x (N, H, W, C_in) with w (k, k, C_in, C_out), plus b (C_out,): y (N, ⌈H / stride⌉, ⌈W / stride⌉, C_out).

    A residual, of y's shape, is added.
    """

    shapes = (
        {"n": 2, "h": 5, "w": 4, "c_in": 3, "c_out": 2, "kernel": 3, "stride": 1},
        {"n": 1, "h": 1, "w": 1, "c_in": 2, "c_out": 3, "kernel": 3, "stride": 1},
        {"n": 2, "h": 6, "w": 4, "c_in": 2, "c_out": 3, "kernel": 3, "stride": 2},
        {"n": 1, "h": 5, "w": 7, "c_in": 1, "c_out": 2, "kernel": 3, "stride": 2},
        {"n": 3, "h": 4, "w": 7, "c_in": 3, "c_out": 1, "kernel": 3, "stride": 2},
        {"n": 2, "h": 3, "w": 4, "c_in": 3, "c_out": 2, "kernel": 1, "stride": 1},
        {"n": 1, "h": 5, "w": 4, "c_in": 2, "c_out": 2, "kernel": 1, "stride": 2},
        {"n": 2, "h": 5, "w": 3, "c_in": 2, "c_out": 3, "kernel": 3, "stride": 2, "residual": True},
        {"n": 2, "h": 5, "w": 4, "c_in": 3, "c_out": 2, "kernel": 3, "stride": 1, "residual": True},
    )
    drawn = st.fixed_dictionaries(
        {
            "n": FEW,
            "h": SIZE,
            "w": SIZE,
            "c_in": FEW,
            "c_out": FEW,
            "kernel": st.sampled_from([1, 3]),
            "stride": st.sampled_from([1, 2]),
            "residual": st.booleans(),
        }
    )
    kernels = ("numpy", "numba", "torch", "cupy")
    parameters, vectors = ("w", "b"), ("b",)
    roundings = (3, 1, 1)  # b, the product, its sum with a residual; dx; dw and db
    multiplies = True

    @classmethod
    def case(
        cls,
        rng: np.random.Generator,
        n: int,
        h: int,
        w: int,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int,
        residual: bool = False,
    ) -> Case:
        shapes = {"x": (n, h, w, c_in), "w": (kernel, kernel, c_in, c_out), "b": (c_out,)}
        if residual:
            shapes["residual"] = (n, -(-h // stride), -(-w // stride), c_out)
        return Case(cls.name, normal(rng, **shapes), {"stride": stride})

    @classmethod
    def by_torch(cls, x: Tensor, w: Tensor, b: Tensor, stride: int, residual: Tensor | None = None) -> Tensor:
        _, height, width, _ = x.shape
        kernel = w.shape[0]
        sides = (*cls.padding(width, kernel, stride), *cls.padding(height, kernel, stride))
        padded = torch.nn.functional.pad(x.movedim(-1, 1), sides)
        y = torch.nn.functional.conv2d(padded, w.permute(3, 2, 0, 1).contiguous(), b, stride).movedim(1, -1)
        return y if residual is None else y + residual

    @staticmethod
    def padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
        """DDPM's padding by its cases: none for 1×1, right and bottom for stride 2 on an even side, else both sides."""
        if kernel == 1:
            return 0, 0
        return (0, 1) if stride == 2 and side % 2 == 0 else (1, 1)


class Linear(Operation, name="linear"):
    """x (..., C_in) times w (C_in, C_out), plus b (C_out,): y (..., C_out). A residual, of y's shape, is added."""

    shapes = (
        {"leading": (1,), "c_in": 1, "c_out": 3},
        {"leading": (5,), "c_in": 3, "c_out": 4},
        {"leading": (2, 3, 5), "c_in": 4, "c_out": 2},
        {"leading": (2, 3, 5), "c_in": 2, "c_out": 3, "residual": True},
    )
    drawn = st.fixed_dictionaries({"leading": LEADING, "c_in": FEW, "c_out": FEW, "residual": st.booleans()})
    kernels = ("numpy", "numba", "torch", "cupy")
    parameters, vectors = ("w", "b"), ("b",)
    roundings = (3, 1, 1)  # as of a convolution
    multiplies = True

    @classmethod
    def case(
        cls, rng: np.random.Generator, leading: tuple[int, ...], c_in: int, c_out: int, residual: bool = False
    ) -> Case:
        shapes = {"x": (*leading, c_in), "w": (c_in, c_out), "b": (c_out,)}
        if residual:
            shapes["residual"] = (*leading, c_out)
        return Case(cls.name, normal(rng, **shapes), {})

    @staticmethod
    def by_torch(x: Tensor, w: Tensor, b: Tensor, residual: Tensor | None = None) -> Tensor:
        y = torch.nn.functional.linear(x, w.T, b)
        return y if residual is None else y + residual


class Embedding(Operation, name="embedding"):
    """The rows of a table (K, D) at indices (N,): y (N, D)."""

    shapes = ({"n": 1, "k": 3, "d": 2}, {"n": 7, "k": 3, "d": 5})
    drawn = st.fixed_dictionaries({"n": SIZE, "k": FEW, "d": FEW})
    kernels = ("torch", "cupy")
    parameters = ("table",)
    roundings = (0, 0, 0)

    @classmethod
    def case(cls, rng: np.random.Generator, n: int, k: int, d: int) -> Case:
        return Case(cls.name, normal(rng, table=(k, d)), {"index": rng.integers(0, k, n)})

    @staticmethod
    def by_torch(table: Tensor, index: Tensor) -> Tensor:
        return torch.nn.functional.embedding(index, table)


class Attention(Operation, name="attention"):
    """Queries q (N, M, C), keys k and values v (N, L, C), in heads of C / heads channels: y (N, M, C).

    A mask (N, L) says which keys are there. In a case with one, at least one key of each sample is.
    """

    shapes = (
        {"n": 1, "queries": 5, "keys": 5, "heads": 1, "each": 3},
        {"n": 2, "queries": 4, "keys": 7, "heads": 2, "each": 3},
        {"n": 1, "queries": 1, "keys": 3, "heads": 4, "each": 1},
        {"n": 3, "queries": 6, "keys": 2, "heads": 3, "each": 2},
        {"n": 3, "queries": 4, "keys": 8, "heads": 2, "each": 3, "masked": True},
    )
    drawn = st.fixed_dictionaries(
        {"n": FEW, "queries": SIZE, "keys": SIZE, "heads": FEW, "each": FEW, "masked": st.booleans()}
    )
    kernels = ("numpy", "numba", "torch", "cupy")
    roundings = (8, 8, 0)  # scores, twice, and P; dP, dP P, its sum, dS, dS / √d, and dQ or dK
    cancels = multiplies = True

    @classmethod
    def case(
        cls, rng: np.random.Generator, n: int, queries: int, keys: int, heads: int, each: int, masked: bool = False
    ) -> Case:
        c = heads * each
        inputs = normal(rng, q=(n, queries, c), k=(n, keys, c), v=(n, keys, c))
        if not masked:
            return Case(cls.name, inputs, {"heads": heads})
        mask = rng.random((n, keys)) < 0.5
        mask[np.arange(n), rng.integers(0, keys, n)] = True
        return Case(cls.name, inputs, {"heads": heads, "mask": mask})

    @staticmethod
    def by_torch(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        q, k, v = (a.unflatten(-1, (heads, -1)).transpose(1, 2) for a in (q, k, v))
        there = None if mask is None else mask[:, None, None, :]
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, there).transpose(1, 2).flatten(2)
