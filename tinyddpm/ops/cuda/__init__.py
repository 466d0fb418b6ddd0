"""Kernels for NVIDIA GPUs, one family a `.cu` file, and the classes that compile and launch them.

The backend compiles the kernels. Of these modules, only `cudnn` imports CuPy.
"""
