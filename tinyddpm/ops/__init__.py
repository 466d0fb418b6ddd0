"""The operations, one family a file: each forward with its hand-derived backward, and both ends of a training step."""

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
    """The reference operations, written in the array API standard alone: correct on every array library that keeps it.

    A backend with faster operations subclasses this and overrides methods, with the same names, arguments and defaults.
    """


def load_operations(backend: Backend, training: bool = False, recompute: bool = False) -> Operations:
    """Return an instance of the class of operations that `backend` names.

    Args:
        backend: the array library and device to compute on.
        training: whether forwards save what their backwards need.
        recompute: in training, whether networks save only the inputs of their blocks and run the blocks again in the
            backward.
    """
    operations = EntryPoint("operations", backend.operations, "").load()
    result: Operations = operations(backend, training)
    result.recompute = recompute
    return result
