"""Operations for NumPy on a CPU."""

from __future__ import annotations

from tinyddpm.ops import Operations
from tinyddpm.ops.cpu.attention import CpuAttention
from tinyddpm.ops.cpu.convolution import CpuConvolution
from tinyddpm.ops.cpu.linear import CpuLinear
from tinyddpm.ops.cpu.normalisation import CpuNormActivation


class NumpyOperations(CpuConvolution, CpuLinear, CpuNormActivation, CpuAttention, Operations):
    """The reference operations; those that take most of a training step are replaced by faster NumPy versions."""
