"""The table of operations: what each takes, and all that its tests need to know. Each has one entry, in its family.

OPERATIONS["group_norm"].shapes
make_case("group_norm", {"leading": (3, 7), "groups": 2, "each": 4}, seed=1)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from helpers.comparison import HostArray
from helpers.operations import activations, losses, norms, products, resampling  # noqa: F401
from helpers.operations.entry import Case, Operation

OPERATIONS = {operation.name: operation for operation in Operation.__subclasses__()}
"""By the names of their methods."""

NOT_DIFFERENTIABLE = {"sinusoidal"}
"""Operations on data alone: they have no backward."""

NOT_OPERATIONS = {
    "conv2d_costs", "weights", "x_0", "noised", "lengths", "step_factors", "decay", "adam", "power_average",
}  # fmt: skip
"""What else an operations class can be asked."""

ALL_SHAPES = [(name, shape) for name, operation in OPERATIONS.items() for shape in operation.shapes]


def name_of(shape: Any) -> str:
    """Return a short test id, such as `n2-h5-w4`."""
    if not isinstance(shape, dict):
        return str(shape)
    return "-".join(name + str(value).replace(" ", "") for name, value in shape.items())


def make_case(operation: str, shape: Mapping[str, Any], seed: int) -> Case:
    """Return a float64 case with random inputs."""
    return OPERATIONS[operation].case(np.random.default_rng(seed), **shape)


def _strided(array: HostArray) -> HostArray:
    """Return `array` as every second element, backwards, of a larger one; between them lies what would be noticed."""
    gap = {"f": np.nan, "b": True, "i": np.iinfo(np.int64).max}[array.dtype.kind]
    around = np.full([2 * side for side in array.shape], gap, array.dtype)
    view: HostArray = around[(slice(None, None, -2),) * array.ndim]
    view[...] = array
    return view


LAYOUTS: dict[str, Callable[[HostArray], HostArray]] = {
    "contiguous": np.ascontiguousarray,
    "transposed": np.asfortranarray,
    "strided": _strided,
}
"""The same array in three orders of memory."""
