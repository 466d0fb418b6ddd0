"""The faster of NumPy's functions on this processor."""

from __future__ import annotations

from numpy._core._multiarray_umath import __cpu_features__ as features  # type: ignore[import-not-found]


def silu_function() -> str:
    """Return the NumPy function that SiLU is faster with: "exp" if NumPy computes with AVX2, else "tanh".

    NumPy's tanh looks its coefficients up in tables, which only AVX-512 holds in registers. On AVX2 (Zen 3) an element
    of tanh took 3.5 ns and one of e^x took 1.3 ns; on AVX-512 tanh takes less than e^x. Features that
    NPY_DISABLE_CPU_FEATURES disables count as missing.
    """
    return "exp" if features.get("AVX2") and not features.get("AVX512_SKX") else "tanh"
