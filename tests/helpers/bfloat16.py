"""Cases as networks of bfloat16 store them: activations and matrices rounded, vectors and their gradients float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from helpers.operations import ALL_SHAPES, OPERATIONS, Case

BFLOAT16, ROUNDING = np.dtype(ml_dtypes.bfloat16), 2.0**-8
"""The type, and the most that rounding to it changes a number by, relative to the number."""

FLOAT32 = 16 * float(np.finfo(np.float32).eps)
"""What float32 arithmetic may be off by in all, relative to the largest element."""

STORED = [case for case in ALL_SHAPES if OPERATIONS[case[0]].roundings is not None]
"""Operations of networks of bfloat16, and their shapes."""


def stored(case: Case) -> tuple[Case, Case]:
    """Return the case as a network of bfloat16 stores it, and the same numbers in float64."""
    vectors = OPERATIONS[case.operation].vectors
    inputs = {name: a.astype(np.float32 if name in vectors else BFLOAT16) for name, a in case.inputs.items()}
    rounded = Case(case.operation, inputs, case.others, case.together)
    return rounded, rounded.map(lambda a: a if a.dtype.kind == "i" else a.astype(np.float64))
