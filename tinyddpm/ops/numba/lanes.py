"""Vectors of adjacent numbers, one per processor register, for functions that emit LLVM instructions.

LLVM vectorises a Numba loop only if it can prove that no arrays overlap and expects a gain. An `intrinsic` function
emits vector instructions itself. Its Python code runs at compile time, so that its loops and lists become unrolled
code.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target

BYTES = 64 if "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2] else 32
"""Bytes of a vector: a register of AVX-512 or else of AVX2. With narrower registers LLVM uses two for a vector."""

INTEGER = ir.IntType(64)
"""LLVM type of an index."""

CONTRACT = ("contract",)
"""Fast-math flag that lets LLVM fuse a product and a sum into one instruction."""


class Lanes:
    """A vector in a function that is being compiled; its operators emit instructions.

    Args:
        builder: llvmlite's IRBuilder.
        value: LLVM value of the vector.
    """

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def __add__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fadd(self.value, other.value, flags=CONTRACT))

    def __sub__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fsub(self.value, other.value, flags=CONTRACT))

    def __rmul__(self, factor: float) -> Lanes:
        constant = ir.Constant(self.value.type, [factor] * self.value.type.count)
        return Lanes(self.builder, self.builder.fmul(constant, self.value, flags=CONTRACT))

    def __mul__(self, other: Lanes) -> Lanes:
        return Lanes(self.builder, self.builder.fmul(self.value, other.value, flags=CONTRACT))


class Memory:
    """The elements of a flat array from some index on, in a function that is being compiled.

    Args:
        context: Numba's target context.
        builder: llvmlite's IRBuilder.
        array: Numba type of the array.
        value: LLVM value of the array.
        at: index of the first element, an LLVM integer; other indices count from here.
    """

    def __init__(self, context: Any, builder: Any, array: types.Array, value: Any, at: Any) -> None:
        self.context, self.builder = context, builder
        self.number = context.get_value_type(array.dtype)
        self.size = array.dtype.bitwidth // 8
        self.count = BYTES // self.size
        self.vector = ir.VectorType(self.number, self.count)
        self.start = builder.gep(context.make_array(array)(context, builder, value).data, [at])

    def zero(self) -> Lanes:
        """Return a vector of zeros."""
        return Lanes(self.builder, ir.Constant(self.vector, [0.0] * self.count))

    def load(self, at: Any, mask: Any = None) -> Lanes:
        """Return the vector that starts at index `at`; lanes that are off in the mask are 0 and not read."""
        pointer = self._pointer(at)
        if mask is None:
            return Lanes(self.builder, self.builder.load(pointer, align=self.size, typ=self.vector))
        arguments = [pointer, self._align(), self._truths(mask), self.zero().value]
        return Lanes(self.builder, self._call("load", self.vector, arguments))

    def store(self, vector: Lanes, at: Any, mask: Any = None) -> None:
        """Write the vector to memory from index `at` on; lanes that are off in the mask are not written."""
        pointer = self._pointer(at)
        if mask is None:
            self.builder.store(vector.value, pointer, align=self.size)
        else:
            self._call("store", ir.VoidType(), [vector.value, pointer, self._align(), self._truths(mask)])

    def spread(self, at: Any) -> Lanes:
        """Return a vector whose lanes all hold the number at index `at`."""
        number = self.builder.load(self.builder.gep(self.start, [at]))
        return Lanes(self.builder, self.splat(number))

    def splat(self, number: Any) -> Any:
        """Return a vector whose lanes all hold one LLVM number."""
        kind = ir.VectorType(number.type, self.count)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), self.count), None))

    def first(self, lanes: Any) -> Any:
        """Return a mask that is on for the first `lanes` lanes: an integer with one bit per lane."""
        kind = ir.VectorType(lanes.type, self.count)
        on = self.builder.icmp_signed("<", ir.Constant(kind, list(range(self.count))), self.splat(lanes))
        return self.builder.bitcast(on, ir.IntType(self.count))

    def _pointer(self, at: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(self.start, [at]), self.vector.as_pointer())

    def _align(self) -> Any:
        return ir.IntType(32)(self.size)

    def _truths(self, mask: Any) -> Any:
        return self.builder.bitcast(mask, ir.VectorType(ir.IntType(1), self.count))

    def _call(self, name: str, returned: Any, arguments: list[Any]) -> Any:
        letter = {4: "f32", 8: "f64"}[self.size]
        kind = ir.FunctionType(returned, [argument.type for argument in arguments])
        name = f"llvm.masked.{name}.v{self.count}{letter}.p0"
        return self.builder.call(self.builder.module.declare_intrinsic(name, fnty=kind), arguments)
