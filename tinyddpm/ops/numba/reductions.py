"""Maximum, sum and scalar product of contiguous rows, vectorised: the compiler chooses the order of additions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.extending import intrinsic

from tinyddpm.ops.numba.arrays import NDArray
from tinyddpm.ops.numba.compiling import FASTMATH, kept


def _reducing(function: Callable[..., Any]) -> Any:
    """Return `function` compiled with leave to reorder sums: in their written order they could not be vectorised."""
    return kept(numba.njit(error_model="numpy", nogil=True, fastmath=FASTMATH | {"reassoc"})(function))


def _larger(context: Any, a: Any, b: Any) -> Any:
    """Return the larger of two numbers, or NaN if either is NaN, by an instruction and not a branch."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = arguments[0].type
        maximum = builder.module.declare_intrinsic("llvm.maximum", [number], ir.FunctionType(number, [number] * 2))
        return builder.call(maximum, arguments)

    return a(a, a), emit


larger = intrinsic(_larger)


@_reducing
def largest_of(row: NDArray) -> Any:
    """Return the largest number of a row, or NaN if it contains NaN."""
    largest = row[0]
    for i in range(len(row)):
        largest = larger(largest, row[i])
    return largest


@_reducing
def total_of(row: NDArray) -> Any:
    """Return the sum of a row."""
    total = row.dtype.type(0)
    for i in range(len(row)):
        total += row[i]
    return total


@_reducing
def product_of(a: NDArray, b: NDArray) -> Any:
    """Return the scalar product of two rows."""
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
