"""What NumPy does faster than the reference operations say it: the same arithmetic, ordered for caches and the BLAS."""
