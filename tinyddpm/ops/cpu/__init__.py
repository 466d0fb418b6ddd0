"""Faster NumPy versions of the reference operations: the same arithmetic, ordered for caches and the BLAS."""
