"""Cases of operations as networks in bfloat16 have them: activations and matrices in bfloat16, vectors in float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from helpers.operations import ALL_SHAPES, OPERATIONS, Case

BFLOAT16, ROUNDING = np.dtype(ml_dtypes.bfloat16), 2.0**-8
"""The type, and the largest relative change of a number that is rounded to it."""

FLOAT32 = 16 * float(np.finfo(np.float32).eps)
"""Largest error of float32 arithmetic, relative to the largest element."""

STORED = [case for case in ALL_SHAPES if OPERATIONS[case[0]].roundings is not None]
"""Operations that networks in bfloat16 use, and their shapes."""


def stored(case: Case) -> tuple[Case, Case]:
    """Return the case with the types of a network in bfloat16, and the same numbers in float64."""
    vectors = OPERATIONS[case.operation].vectors
    inputs = {name: a.astype(np.float32 if name in vectors else BFLOAT16) for name, a in case.inputs.items()}
    rounded = Case(case.operation, inputs, case.others, case.together)
    return rounded, rounded.map(lambda a: a if a.dtype.kind == "i" else a.astype(np.float64))
