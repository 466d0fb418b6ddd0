"""What operations that launch kernels share."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from tinyddpm.backend import Array, Backend
from tinyddpm.ops import Operations
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.kernels import STORAGE, Kernels

Found = TypeVar("Found", bound=tuple[Any, ...])

Places: TypeAlias = tuple[Array, Array] | None
"""Where a backward writes the gradients of two parameters; None where it makes room for them."""


class Launching(Operations):
    """The reference operations, with the means to launch kernels instead of some of them."""

    stores = True

    def __init__(self, backend: Backend, training: bool = False) -> None:
        super().__init__(backend, training)
        self._kernels = Kernels(backend)

    def _elementwise(self, family: str, kernel: str, *inputs: Array, options: tuple[float, ...] = ()) -> Array:
        """Return what a kernel makes of contiguous inputs, element by element."""
        out = self._empty(inputs[0].shape, inputs[0].dtype)
        where = geometry.packs(out.size, out.dtype.itemsize)
        self._launch(family, kernel, where, *inputs, out, *options, np.int64(out.size))
        return out

    def _launch(self, family: str, kernel: str, where: geometry.Geometry, first: Array, *others: Any) -> None:
        """Launch a kernel for numbers stored as the first array's are."""
        self._kernels.launch(family, kernel, str(first.dtype), where, first, *others)

    def _takes(self, *arrays: Array) -> bool:
        """Whether kernels can work on these arrays: one type, which they know, and something in each."""
        names = {str(array.dtype) for array in arrays}
        return len(names) == 1 and names <= STORAGE.keys() and all(array.size > 0 for array in arrays)

    def _as_contiguous(self, a: Array, like: Array) -> Array:
        """Return an array in the type of another, contiguous."""
        return self.xp.ascontiguousarray(self.xp.astype(a, like.dtype, copy=False))

    def _sum(self, arrays: tuple[Array, ...], like: Array) -> Array | None:
        """Return the sum of arrays in the type of another, contiguous; None of none."""
        if not arrays:
            return None
        first, *others = arrays
        return self._as_contiguous(sum(others, start=first), like)

    def _stored(self, gradients: Found, into: Places, added: tuple[Array, ...]) -> Found:
        """Return what a reference backward found, with `added` added to dx and its parameters' gradients in place."""
        dx, first, second, *others = gradients
        dx = sum(added, start=dx)
        if into is None:
            return cast(Found, (dx, first, second, *others))
        for place, gradient in zip(into, (first, second), strict=True):
            place[...] = gradient
        return cast(Found, (dx, *into, *others))

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype=dtype, device=self.backend.device)
