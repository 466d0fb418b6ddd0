"""Operations for NumPy's arrays, compiled by Numba."""

from __future__ import annotations

from tinyddpm.ops.numba.optimisation import NumbaOptimisation
from tinyddpm.ops.numpy_operations import NumpyOperations


class NumbaOperations(NumbaOptimisation, NumpyOperations):
    """NumPy's operations, with those that take most of a training step compiled."""
