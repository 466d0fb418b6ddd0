"""What NumPy does fast on this processor."""

from __future__ import annotations

from numpy._core._multiarray_umath import __cpu_features__ as features  # type: ignore[import-not-found]


def silu_function() -> str:
    """Return the function that SiLU costs less by: "exp" where NumPy's vectors are those of AVX2, else "tanh".

    NumPy's tanh looks its coefficients up in tables, of which only AVX-512 holds one in registers: an element took
    3.5 ns on AVX2 (Zen 3), where e^x took 1.3, and less than e^x on AVX-512. Features that NPY_DISABLE_CPU_FEATURES
    names are not in use.
    """
    return "exp" if features.get("AVX2") and not features.get("AVX512_SKX") else "tanh"
