"""The exponential function in a form that LLVM vectorises: e^x = 2^n e^r, n = round(x / ln 2) and |r| ≤ ln 2 / 2.

`numpy.exp` in a compiled loop is a function call per number. Here x / ln 2 is added to a constant whose last bit is
worth 1, which rounds it to n and leaves n in the last bits of the sum. A shift then moves these bits to the exponent of
2^n. e^r is a polynomial.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial, log
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from tinyddpm.ops.numba.compiling import FASTMATH


def exp(x: Any) -> Any:
    """Return e^x of a float32 or float64 number, in compiled code.

    The largest relative error is 1e-7 in float32 and 3e-16 in float64. The result is infinite where e^x overflows, 0
    for x < −86, in float64 for x < −707, and NaN for NaN.
    """
    raise NotImplementedError("exp works in compiled code alone: call numpy.exp")


def logistic(x: Any) -> Any:
    """Return σ(x) = 1 / (1 + e^(−x)) of a float32 or float64 number, in compiled code."""
    raise NotImplementedError("logistic works in compiled code alone")


def _halved_power(context: Any, t: Any) -> Any:
    """Return 2^(n−1), given t, the sum of n and the constant that leaves n in its last bits."""
    width, mantissa, bias = {types.float32: (32, 23, 127), types.float64: (64, 52, 1023)}[t]
    integer = ir.IntType(width)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (value,) = arguments
        exponent = builder.shl(builder.bitcast(value, integer), integer(mantissa))
        return builder.bitcast(builder.add(exponent, integer(bias - 1 << mantissa)), value.type)

    return t(t), emit


halved_power = intrinsic(_halved_power)

SINGLE = (89, -86, 12582912, 0.693359375, -2.12194440e-4, (0.001381454, 0.008368745, 0.04166839, 0.1666652, 0.49999993))
DOUBLE = (710, -707, 3 * 2**51, 0.693145751953125, 1.42860682030941723e-6, [1 / factorial(k) for k in range(13, 1, -1)])
"""Constants for float32 and float64: an x at which e^x is infinite, and the x below which it is 0; the constant that
leaves n in the last bits; ln 2 as a sum of two parts; the coefficients of e^r from the highest power down to r², in
float32 those of least maximal relative error, 3e-9, in float64 Taylor's."""


def _exp(x: Any) -> Callable[[Any], Any]:
    number: Any = np.float32 if x == types.float32 else np.float64
    constants: Any = SINGLE if x == types.float32 else DOUBLE
    largest, least, to_last_bits, high, low = map(number, constants[:5])
    coefficients = tuple(map(number, (*constants[5], 1, 1)))
    per_octave, zero, two = number(1 / log(2)), number(0), number(2)

    def exp(x: Any) -> Any:
        bounded = largest if x > largest else x
        t = bounded * per_octave + to_last_bits
        n = t - to_last_bits
        r = bounded - n * high - n * low
        series = zero
        for coefficient in coefficients:
            series = series * r + coefficient
        y = series * halved_power(t) * two
        return zero if x < least else y

    return exp


def _logistic(x: Any) -> Callable[[Any], Any]:
    one = (np.float32 if x == types.float32 else np.float64)(1)

    def logistic(x: Any) -> Any:
        return one / (one + exp(-x))

    return logistic


OPTIONS = {"fastmath": FASTMATH, "error_model": "numpy"}
overload(exp, jit_options=OPTIONS)(_exp)
overload(logistic, jit_options=OPTIONS)(_logistic)
