"""Operations on NumPy's arrays, compiled by Numba."""

from __future__ import annotations

import tinyddpm.ops.numba.random  # noqa: F401 - declares its functions for `prepare`
from tinyddpm.backend import Backend
from tinyddpm.ops.base import Saved
from tinyddpm.ops.numba.activations import NumbaActivations
from tinyddpm.ops.numba.arrays import NDArray, Places, stored
from tinyddpm.ops.numba.attention import NumbaAttention
from tinyddpm.ops.numba.convolution import NumbaConvolution
from tinyddpm.ops.numba.linear import NumbaLinear
from tinyddpm.ops.numba.loss import NumbaLoss
from tinyddpm.ops.numba.norms import NumbaNorms
from tinyddpm.ops.numba.optimisation import NumbaOptimisation
from tinyddpm.ops.numba.preparing import prepare
from tinyddpm.ops.numba.resampling import NumbaResampling
from tinyddpm.ops.numpy_operations import NumpyOperations


class NumbaOperations(
    NumbaConvolution,
    NumbaNorms,
    NumbaActivations,
    NumbaAttention,
    NumbaLinear,
    NumbaResampling,
    NumbaLoss,
    NumbaOptimisation,
    NumpyOperations,
):
    """NumPy's operations; those that take most of a training step are compiled by Numba."""

    stores = True

    def __init__(self, backend: Backend, training: bool = False) -> None:
        prepare(backend.threads(0))
        super().__init__(backend, training)

    def conv2d_backward(
        self, saved: Saved, dy: NDArray, into: Places = None, added: tuple[NDArray, ...] = ()
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Return (dx, dw, db) of `conv2d`, the arrays of `added` added to dx in place."""
        return stored(super().conv2d_backward(saved, dy), into, added)
