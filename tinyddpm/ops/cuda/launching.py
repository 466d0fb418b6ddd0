"""What operations that launch kernels share."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyddpm.backend import Array, Backend
from tinyddpm.ops import Operations
from tinyddpm.ops.cuda import geometry
from tinyddpm.ops.cuda.kernels import STORAGE, Kernels


class Launching(Operations):
    """The reference operations, with the means to launch kernels instead of some of them."""

    def __init__(self, backend: Backend, training: bool = False) -> None:
        super().__init__(backend, training)
        self._kernels = Kernels(backend)

    def _elementwise(self, family: str, kernel: str, *inputs: Array, options: tuple[float, ...] = ()) -> Array:
        """Return what a kernel makes of contiguous inputs, element by element."""
        out = self._empty(inputs[0].shape, inputs[0].dtype)
        self._launch(family, kernel, geometry.elements(out.size), *inputs, out, *options, np.int64(out.size))
        return out

    def _launch(self, family: str, kernel: str, where: geometry.Geometry, first: Array, *others: Any) -> None:
        """Launch a kernel for numbers stored as the first array's are."""
        self._kernels.launch(family, kernel, str(first.dtype), where, first, *others)

    def _takes(self, *arrays: Array) -> bool:
        """Whether kernels can work on these arrays: one type, which they know, and something in each."""
        names = {str(array.dtype) for array in arrays}
        return len(names) == 1 and names <= STORAGE.keys() and all(array.size > 0 for array in arrays)

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype=dtype, device=self.backend.device)
