"""Matrix products of a few dozen rows and columns, for which a call of the BLAS costs more than the arithmetic.

A block of the result stays in registers until all its terms are added. With AVX-512, it has 8 rows of 2 vectors:

                b[k, :L]  b[k, L:2L]    2 vectors of row k
    a[0, k] ×     c_00      c_01
      ...         ...       ...         16 sums, each a vector
    a[7, k] ×     c_70      c_71

Each step over k loads 2 vectors and 8 single numbers, each repeated in a vector, and does 16 independent multiply-adds.
The columns of b are stored in panels, 2 vectors wide, one after the other, so that a panel is read from its start to
its end.
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
"""Bytes of a cache line."""

VECTORS = 2
"""Number of vectors in a row of a block."""

ROWS = 8 if BYTES == 64 else 6
"""Rows of a block. AVX-512 has 32 registers, and 16 sums are enough; AVX2 has 16 for sums and operands together."""


def panel_width(itemsize: int) -> int:
    """Return the number of columns of a panel, for numbers of `itemsize` bytes."""
    return VECTORS * BYTES // itemsize


def fits(columns: int, dtype: np.dtype[Any]) -> bool:
    """Whether `columns` fill whole panels."""
    return columns % panel_width(dtype.itemsize) == 0


def _block(rows: int) -> Any:
    """Return the compiled function that does the product of `multiply` for one block of `rows` rows."""

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
            sums = [cgutils.alloca_once(builder, result.vector) for _ in places]  # LLVM keeps these in registers
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
"""Rows of the smallest block that keeps the processor's multipliers busy."""

_rows_most, _rows_4, _rows_2, _rows_1 = _block(ROWS), _block(4), _block(2), _block(1)


@intrinsic  # type: ignore[untyped-decorator]
def add(typing: Any, target: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """Add `count` numbers of `source` from index `at` on to those of `target` from index `to` on."""
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
    """Copy `count` numbers of `source` from index `at` on to `target` from index `to` on."""
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
    """Fetch the cache line at index `at`, inside the array or not, for reading, or for writing if `writes` is 1."""

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
    """Return memory for `count` numbers of the dtype of `like`, aligned to a cache line."""
    memory: NDArray = np.empty(count + LINE // like.itemsize, like.dtype)
    skip = -memory.ctypes.data % LINE // like.itemsize
    return memory[skip : skip + count]


@compiled
def multiply(
    c: NDArray, c_at: int, c_row: int, a: NDArray, a_at: int, a_row: int, a_column: int,
    b: NDArray, b_at: int, b_row: int, rows: int, terms: int, adds: int,
) -> None:  # fmt: skip
    """Write the product a b to a panel of c, or add it to the panel if `adds` is not 0.

    Arrays are flat. A matrix begins at index `…_at`, and its rows are `…_row` numbers apart. The columns of a are
    `a_column` numbers apart, so that a can be a transpose; those of b and c are adjacent.

    Args:
        c: (rows, columns of a panel).
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
    """Write the product a b to c, or add it to c if `adds` is not 0; `columns` fill whole panels. See `multiply`."""
    for at in range(0, columns, VECTORS * BYTES // c.itemsize):
        multiply(c, c_at + at, c_row, a, a_at, a_row, a_column, b, b_at + at, b_row, rows, terms, adds)
