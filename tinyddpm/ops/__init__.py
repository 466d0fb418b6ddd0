"""The operations, one family a file: every forward with its hand-derived backward, and both ends of a training step."""

from __future__ import annotations

from importlib.metadata import EntryPoint

from tinyddpm.backend import Backend
from tinyddpm.ops.attention import Attention
from tinyddpm.ops.base import Saved
from tinyddpm.ops.convolution import Convolution
from tinyddpm.ops.linear import Linear
from tinyddpm.ops.loss import Loss
from tinyddpm.ops.noising import Noising
from tinyddpm.ops.norm_activation import NormActivation
from tinyddpm.ops.optimisation import Optimisation
from tinyddpm.ops.resampling import Resampling

__all__ = ["Operations", "Saved", "load_operations"]


class Operations(Convolution, Linear, NormActivation, Attention, Resampling, Loss, Noising, Optimisation):
    """The reference operations, in the array API standard's terms alone: correct wherever the standard is kept.

    A backend's faster operations subclass this and override methods, with the same names, arguments and defaults.
    """


def load_operations(backend: Backend, training: bool = False, recompute: bool = False) -> Operations:
    """Return the operations of `backend`: its own where it has them, the reference otherwise.

    Args:
        backend: whose arrays are computed on.
        training: whether forwards keep what their backwards need.
        recompute: with training, whether networks keep only the inputs of their blocks, and run those again.
    """
    operations = EntryPoint("operations", backend.operations, "").load()
    result: Operations = operations(backend, training)
    result.recompute = recompute
    return result
