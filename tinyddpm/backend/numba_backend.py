"""NumPy on the CPU with compiled operations."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import ClassVar

from tinyddpm.backend.numpy_backend import NumpyBackend
from tinyddpm.backend.random import Random
from tinyddpm.errors import BackendError

OLDEST = "0.64"
"""First version of Numba for all of NumPy 2.0 to 2.4 and Python 3.11 to 3.14; pyproject.toml requires it too."""


class NumbaBackend(NumpyBackend):
    """NumPy arrays, with operations compiled by Numba.

    Raises:
        BackendError: Numba is not installed or too old, or the device is neither None nor "cpu".
    """

    name = "numba"
    operations = "tinyddpm.ops.numba_operations:NumbaOperations"
    randomness = "tinyddpm.ops.numba.random:NumbaRandom"
    spreads = True
    requires: ClassVar[Mapping[str, str]] = {"numba": "tinyddpm[numba]"}

    def __init__(self, device: str | None = None) -> None:
        try:
            import numba
        except ImportError as cause:
            reason = " ".join(str(cause).split())
            raise BackendError(f"Numba cannot be imported ({reason}): run pip install -U 'numba>={OLDEST}'") from cause
        self._version: str = numba.__version__
        if tuple(map(int, self._version.split(".")[:2])) < tuple(map(int, OLDEST.split("."))):
            raise BackendError(f"Numba {self._version} is too old: run pip install -U 'numba>={OLDEST}'")
        super().__init__(device)

    def random(self, seed: int) -> Random:
        """Return the stateless random numbers of `seed`, drawn by compiled code."""
        randomness = EntryPoint("randomness", self.randomness, "").load()
        found: Random = randomness(self.xp, seed, self.device)
        return found

    def describe(self) -> str:
        """Return Numba's version, followed by NumPy's line."""
        return f"numba {self._version}, {super().describe()}"
