"""Operations compiled by Numba: one pass over memory where NumPy takes one for each step of the arithmetic."""
