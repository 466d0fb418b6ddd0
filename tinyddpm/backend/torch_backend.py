"""Torch as an array library on the CPU or an NVIDIA GPU. Its automatic differentiation is never used."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tinyddpm.backend.array import Array
from tinyddpm.backend.base import Backend
from tinyddpm.errors import BackendError


class TorchBackend(Backend):
    """Torch tensors on "cpu" (the default), "cuda" or "cuda:N".

    Raises:
        BackendError: Torch is not installed, or the device is unknown or not there.
    """

    name = "torch"

    def __init__(self, device: str | None = None) -> None:
        try:
            import torch
        except ImportError as cause:
            reason = " ".join(str(cause).split())
            raise BackendError(f"Torch cannot be imported ({reason}): run pip install 'tinyddpm[torch]'") from cause
        import array_api_compat.torch as xp

        self._torch = torch
        super().__init__(xp, _find_device(torch, device or "cpu"))

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Return `values` (host array, scalars or a tensor) on the device, as `dtype` if given, without gradient."""
        if isinstance(values, self._torch.Tensor):
            values = values.detach()
        elif isinstance(values, np.ndarray):  # Torch warns of read-only memory and refuses negative strides.
            values = np.require(values, requirements=["C", "W"])
        return super().asarray(values, dtype)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Return `array` on the host: a view if it is on the CPU, else a copy."""
        return np.asarray(array.detach().cpu())

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context in which no operation records a gradient."""
        context: AbstractContextManager[Any] = self._torch.no_grad()
        return context

    def synchronize(self) -> None:
        """Wait until everything asked of the device is done."""
        if self.device.type == "cuda":
            self._torch.cuda.synchronize(self.device)

    def peak_memory(self) -> int:
        """Return the most bytes that tensors have taken so far on the GPU; on the CPU, the process's peak size."""
        if self.device.type == "cuda":
            return int(self._torch.cuda.max_memory_allocated(self.device))
        return super().peak_memory()

    def describe(self) -> str:
        """Return Torch's version and the device: the CPU with its threads, or the GPU by its name."""
        if self.device.type == "cuda":
            place = f"{self.device} ({self._torch.cuda.get_device_name(self.device)})"
        else:
            place = f"cpu (threads: {self._torch.get_num_threads()})"
        return f"torch {self._torch.__version__} on {place}"


def _find_device(torch: Any, name: str) -> Any:
    """Return the torch device called `name`, or raise BackendError if it is unknown or not there."""
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
