"""The base class of operations that launch kernels."""

from __future__ import annotations

from functools import reduce
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from tinyddpm.backend import Array, Backend
from tinyddpm.ops import Operations
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.kernels import STORAGE, Kernels

Found = TypeVar("Found", bound=tuple[Any, ...])

Places: TypeAlias = tuple[Array, Array] | None
"""Arrays for the gradients of two parameters, which a backward writes to; None to allocate new ones."""


class Launching(Operations):
    """The reference operations, with methods that launch kernels, for subclasses that replace some of them."""

    stores = True

    def __init__(self, backend: Backend, training: bool = False) -> None:
        super().__init__(backend, training)
        self._kernels = Kernels(backend)

    def _elementwise(self, family: str, kernel: str, *inputs: Array, options: tuple[float, ...] = ()) -> Array:
        """Return the array that an elementwise kernel computes from contiguous inputs of one shape."""
        out = self._empty(inputs[0].shape, inputs[0].dtype)
        where = geometry.packs(out.size, out.dtype.itemsize)
        self._launch(family, kernel, where, *inputs, out, *options, np.int64(out.size))
        return out

    def _launch(self, family: str, kernel: str, where: geometry.Geometry, first: Array, *others: Any) -> None:
        """Launch a kernel, compiled for the first array's dtype."""
        self._kernels.launch(family, kernel, str(first.dtype), where, first, *others)

    def _takes(self, *arrays: Array) -> bool:
        """Whether kernels can work on these arrays: non-empty, and all of one dtype in STORAGE."""
        names = {str(array.dtype) for array in arrays}
        return len(names) == 1 and names <= STORAGE.keys() and all(array.size > 0 for array in arrays)

    def _as_contiguous(self, a: Array, like: Array) -> Array:
        """Return `a` as a contiguous array with the dtype of `like`."""
        return self.xp.ascontiguousarray(self.xp.astype(a, like.dtype, copy=False))

    def _sum(self, arrays: tuple[Array, ...], like: Array) -> Array | None:
        """Return the sum of arrays as a contiguous array with the dtype of `like`; None for no arrays."""
        if not arrays:
            return None
        first, *others = (self._as_contiguous(array, like) for array in arrays)
        return reduce(self._sum_of_two, others, first)

    def _sum_of_two(self, a: Array, b: Array) -> Array:
        """Return a + b of contiguous arrays, by packs: CuPy's own kernel reads and writes number by number."""
        if not self._takes(a, b) or a.shape != b.shape:
            return a + b
        return self._elementwise("activation", "sum_of_two", a, b)

    def _stored(self, gradients: Found, into: Places, added: tuple[Array, ...]) -> Found:
        """Return the reference's gradients with `added` added to dx, and the parameters' copied to `into` if given."""
        dx, first, second, *others = gradients
        dx = sum(added, start=dx)
        if into is None:
            return cast(Found, (dx, first, second, *others))
        for place, gradient in zip(into, (first, second), strict=True):
            place[...] = gradient
        return cast(Found, (dx, *into, *others))

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype=dtype, device=self.backend.device)
