"""Operations for NumPy's arrays, compiled by Numba."""

from __future__ import annotations

from tinyddpm.backend import Backend
from tinyddpm.ops.numba.preparing import prepare
from tinyddpm.ops.numpy_operations import NumpyOperations


class NumbaOperations(NumpyOperations):
    """NumPy's operations, with those that take most of a training step compiled."""

    def __init__(self, backend: Backend, training: bool = False) -> None:
        prepare(backend.threads(0))
        super().__init__(backend, training)
