"""Matrix products of a few dozen rows and columns, for which a call of the BLAS costs more than the arithmetic.

A block of the result stays in registers until all its terms are added. With 8 rows of 2 vectors, as AVX-512 has:

                         b[k, :L]  b[k, L:2L]      2 vectors of row k of b
    a[0, k] repeated ×      c_00      c_01
      ...                   ...       ...          16 sums, each a vector
    a[7, k] repeated ×      c_70      c_71

so that each step over k loads 2 vectors and 8 single numbers, and does 16 multiply-adds that wait for none of each
other. b's columns lie in panels, 2 vectors wide, one after the other: a panel is read from its start to its end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyddpm.ops.cpu.blocks import NDArray
from tinyddpm.ops.numba.compiling import ahead, compiled
from tinyddpm.ops.numba.lanes import BYTES, INTEGER, Lanes, Memory

LINE = 64
"""Bytes of a line of the cache."""

VECTORS = 2
"""Vectors in a row of a block."""

ROWS = 8 if BYTES == 64 else 6
"""Rows of a block: with AVX-512 there are 32 registers, and 16 sums are enough; with AVX2 there are 16 for all."""


def panel_width(itemsize: int) -> int:
    """Return the columns of a panel, of numbers so large in bytes."""
    return VECTORS * BYTES // itemsize


def fits(columns: int, dtype: np.dtype[Any]) -> bool:
    """Whether so many columns fill panels."""
    return columns % panel_width(dtype.itemsize) == 0


def _block(rows: int) -> Any:
    """Return the function that computes a block of so many rows: `multiply`, of one block."""

    @intrinsic  # type: ignore[untyped-decorator]
    def block(typing: Any, c: Any, c_at: Any, c_row: Any, a: Any, a_at: Any, a_row: Any, a_column: Any,
              b: Any, b_at: Any, b_row: Any, terms: Any, adds: Any) -> Any:  # fmt: skip
        n = types.intp
        signature = types.void(c, n, n, a, n, n, n, b, n, n, n, n)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            c, c_at, c_row, a, a_at, a_row, a_column, b, b_at, b_row, terms, adds = arguments
            result = Memory(context, builder, signature.args[0], c, c_at)
            left = Memory(context, builder, signature.args[3], a, a_at)
            right = Memory(context, builder, signature.args[7], b, b_at)
            of_rows = [(builder.mul(c_row, INTEGER(i)), builder.mul(a_row, INTEGER(i))) for i in range(rows)]
            across = [INTEGER(j * result.count) for j in range(VECTORS)]
            places = [builder.add(start, j) for start, _ in of_rows for j in across]
            sums = [cgutils.alloca_once(builder, result.vector) for _ in places]  # LLVM makes registers of these
            for total in sums:
                builder.store(result.zero().value, total)
            with builder.if_then(builder.icmp_signed("!=", adds, INTEGER(0))):
                for place, total in zip(places, sums, strict=True):
                    builder.store(result.load(place).value, total)
            with cgutils.for_range(builder, terms) as loop:
                of_a, of_b = builder.mul(loop.index, a_column), builder.mul(loop.index, b_row)
                vectors = [right.load(builder.add(of_b, j)) for j in across]
                numbers = [left.spread(builder.add(start, of_a)) for _, start in of_rows]
                terms_added = [number * vector for number in numbers for vector in vectors]
                for total, term in zip(sums, terms_added, strict=True):
                    builder.store((Lanes(builder, builder.load(total)) + term).value, total)
            for place, total in zip(places, sums, strict=True):
                result.store(Lanes(builder, builder.load(total)), place)
            return context.get_dummy_value()

        return signature, emit

    return block


FEW = 4
"""Rows of the smallest block that keeps the multipliers busy."""

_rows_most, _rows_4, _rows_2, _rows_1 = _block(ROWS), _block(4), _block(2), _block(1)


@intrinsic  # type: ignore[untyped-decorator]
def add(typing: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """Add so many numbers that lie side by side to others that do."""
    signature = types.void(target, types.intp, source, types.intp, types.intp)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, to, source, at, count = arguments
        written = Memory(context, builder, signature.args[0], target, to)
        read = Memory(context, builder, signature.args[2], source, at)
        step = INTEGER(read.count)
        with cgutils.for_range_slice(builder, INTEGER(0), count, step, inc=True) as (k, _):
            mask = read.first(builder.sub(count, k))
            written.store(written.load(k, mask) + read.load(k, mask), k, mask)
        return context.get_dummy_value()

    return signature, emit


@intrinsic  # type: ignore[untyped-decorator]
def copy(typing: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """Copy so many numbers that lie side by side."""
    signature = types.void(target, types.intp, source, types.intp, types.intp)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, to, source, at, count = arguments
        written = Memory(context, builder, signature.args[0], target, to)
        read = Memory(context, builder, signature.args[2], source, at)
        cgutils.raw_memcpy(builder, written.start, read.start, count, read.size)
        return context.get_dummy_value()

    return signature, emit


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing: Any, array: Any, at: Any, writes: Any) -> Any:
    """Have the cache fetch the line at an index, which need not be in the array, to be read or, if 1, written."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = Memory(context, builder, signature.args[0], arguments[0], arguments[1]).start
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [start.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        builder.call(function, [start, number(writes.literal_value), number(3), number(1)])
        return context.get_dummy_value()

    if isinstance(writes, types.IntegerLiteral):
        return types.void(array, types.intp, writes), emit
    return None


@ahead("i8, f4[::1]")
@compiled
def scratch(count: int, like: NDArray) -> NDArray:
    """Return memory for so many numbers like an array's, that begins where a line of the cache does."""
    memory: NDArray = np.empty(count + LINE // like.itemsize, like.dtype)
    skip = -memory.ctypes.data % LINE // like.itemsize
    return memory[skip : skip + count]


@compiled
def multiply(
    c: NDArray, c_at: int, c_row: int, a: NDArray, a_at: int, a_row: int, a_column: int,
    b: NDArray, b_at: int, b_row: int, rows: int, terms: int, adds: int,
) -> None:  # fmt: skip
    """Write a b to a panel of c, or add it to what is there if `adds` is not 0.

    Arrays are flat: a matrix begins at `_at`, its rows are `_row` numbers apart, and so are a's columns, `a_column`: a
    matrix and its transpose are alike. Rows of b and c lie one number after the other.

    Args:
        c: of as many columns as a panel has.
        a: (rows, terms).
        b: (terms, columns of a panel).
    """
    i = 0
    while i + ROWS <= rows:
        _rows_most(c, c_at + i * c_row, c_row, a, a_at + i * a_row, a_row, a_column, b, b_at, b_row, terms, adds)
        i += ROWS
    if i + 4 <= rows:
        _rows_4(c, c_at + i * c_row, c_row, a, a_at + i * a_row, a_row, a_column, b, b_at, b_row, terms, adds)
        i += 4
    if i + 2 <= rows:
        _rows_2(c, c_at + i * c_row, c_row, a, a_at + i * a_row, a_row, a_column, b, b_at, b_row, terms, adds)
        i += 2
    if i < rows:
        _rows_1(c, c_at + i * c_row, c_row, a, a_at + i * a_row, a_row, a_column, b, b_at, b_row, terms, adds)


@compiled
def product(
    c: NDArray, c_at: int, c_row: int, a: NDArray, a_at: int, a_row: int, a_column: int,
    b: NDArray, b_at: int, b_row: int, rows: int, columns: int, terms: int, adds: int,
) -> None:  # fmt: skip
    """Write a b to c, or add it to what is there if `adds` is not 0: `multiply` for as many columns as whole panels."""
    for at in range(0, columns, VECTORS * BYTES // c.itemsize):
        multiply(c, c_at + at, c_row, a, a_at, a_row, a_column, b, b_at + at, b_row, rows, terms, adds)
