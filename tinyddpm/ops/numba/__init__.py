"""Operations compiled by Numba: a single pass over memory where NumPy makes one for each step of the arithmetic."""
