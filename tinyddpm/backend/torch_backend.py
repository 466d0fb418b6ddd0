"""Torch as an array library on the CPU or an NVIDIA GPU. Its automatic differentiation is never used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from tinyddpm.backend.array import Array
from tinyddpm.backend.base import Backend
from tinyddpm.errors import BackendError


class TorchBackend(Backend):
    """Torch tensors on "cpu" (the default), "cuda" or "cuda:N".

    Args:
        device: one of these names.
        precision: "fp32"; "tf32", on a GPU only, where factors of products are rounded to 10 bits after the point and
            summed in float32 (Torch's own default uses TF32 in convolutions, but not in matrix products); or "bf16",
            where a network's activations and matrices are bfloat16 as well. Trained weights, statistics and sums are
            float32 in all three.

    Raises:
        BackendError: Torch is not installed, the device is unknown or missing, or it lacks this precision.
    """

    name = "torch"
    operations = "tinyddpm.ops.torch_operations:TorchOperations"
    precisions = ("fp32", "tf32", "bf16")
    requires: ClassVar[Mapping[str, str]] = {"torch": "tinyddpm[torch]"}

    def __init__(self, device: str | None = None, *, precision: str = "fp32") -> None:
        try:
            import torch
        except ImportError as cause:
            reason = " ".join(str(cause).split())
            raise BackendError(f"Torch cannot be imported ({reason}): run pip install 'tinyddpm[torch]'") from cause
        import array_api_compat.torch as xp

        self._torch = torch
        self.memory_errors = (MemoryError, torch.OutOfMemoryError)
        super().__init__(xp, _find_device(torch, device or "cpu"), precision)
        if precision == "tf32" and self.device.type == "cpu":
            raise BackendError("precision 'tf32' is of NVIDIA GPUs alone: use --device cuda, or --precision fp32")

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Return `values` (host array, scalars or a tensor) on the device, as `dtype` if given, without gradient."""
        if isinstance(values, self._torch.Tensor):
            values = values.detach()
        elif isinstance(values, np.ndarray):  # Torch warns about read-only memory and refuses negative strides.
            values = np.require(values, requirements=["C", "W"])
        return super().asarray(values, dtype)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Return `array` on the host: a view if it is on the CPU, else a copy."""
        return np.asarray(array.detach().cpu())

    @property
    def storage(self) -> Any:
        """The type of a network's activations and matrices: float32, or bfloat16 with the precision "bf16"."""
        return self._torch.bfloat16 if self.precision == "bf16" else self._torch.float32

    @contextmanager
    def _context(self) -> Iterator[None]:
        """Record no gradients, multiply in the chosen precision, and sum in float32.

        The switches for the last two belong to the process; they are restored afterwards.
        """
        matmul, cudnn = self._torch.backends.cuda.matmul, self._torch.backends.cudnn
        before = matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_bf16_reduced_precision_reduction
        matmul.allow_tf32 = cudnn.allow_tf32 = self.precision == "tf32"
        matmul.allow_bf16_reduced_precision_reduction = False
        try:
            with self._torch.no_grad():
                yield
        finally:
            matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_bf16_reduced_precision_reduction = before

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""
        if self.device.type == "cuda":
            self._torch.cuda.synchronize(self.device)

    def peak_memory(self) -> int:
        """Return the peak of the GPU's memory held by Torch, in bytes; on the CPU, the process's peak size."""
        if self.device.type == "cuda":
            return int(self._torch.cuda.max_memory_reserved(self.device))
        return super().peak_memory()

    def forget_peak(self) -> None:
        """Begin to measure `peak_memory` anew, on a GPU."""
        if self.device.type == "cuda":
            self._torch.cuda.empty_cache()
            self._torch.cuda.reset_peak_memory_stats(self.device)

    def describe(self) -> str:
        """Return Torch's version, the device (the CPU with its threads, or the GPU's name) and the precision."""
        if self.device.type == "cuda":
            place = f"{self.device} ({self._torch.cuda.get_device_name(self.device)})"
        else:
            place = f"cpu (threads: {self._torch.get_num_threads()})"
        return f"torch {self._torch.__version__} on {place}, {self.precision}"


def _find_device(torch: Any, name: str) -> Any:
    """Return the torch device called `name`, or raise BackendError if it is unknown or missing."""
    try:
        device = torch.device(name)
    except RuntimeError as cause:
        raise BackendError(f"the torch backend does not know device {name!r}: use 'cpu', 'cuda' or 'cuda:N'") from cause
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"the torch backend does not compute on {name!r}: use 'cpu', 'cuda' or 'cuda:N'")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        why = (
            "this Torch is built without CUDA" if torch.version.cuda is None else "Torch finds no NVIDIA driver and GPU"
        )
        raise BackendError(f"device {name!r} is not available: {why}; use --device cpu")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise BackendError(f"device {name!r} does not exist: there are {count} GPUs, cuda:0 to cuda:{count - 1}")
    return device
