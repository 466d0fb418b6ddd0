"""Kernels for NVIDIA GPUs, one family a `.cu` file, and what compiles and launches them.

Nothing here imports CuPy: the backend compiles.
"""
