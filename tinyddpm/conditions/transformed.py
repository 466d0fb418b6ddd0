"""A condition, and beside what it tells, what transforms did to the samples in training."""

from __future__ import annotations

from tinyddpm.conditions.base import Given, Telling
from tinyddpm.nn import Gradients, Parameter, Parts, Told, Weights
from tinyddpm.nn.parameters import fan_average
from tinyddpm.ops import Operations, Saved

TRANSFORMS = "transforms"
"""The column of what was done to samples, (N, k) numbers; it is given in training alone."""

MAP = "time/transforms/w"
"""The path of the parameter that they enter by. What draws samples alone may leave it out."""


class Transformed(Parts):
    """A condition that also tells what was done to a sample (EDM, arXiv 2206.00364, appendix F.2).

    The k numbers enter as a vector by a linear map without a bias. So the numbers of a sample that was left as it is,
    all zero, add nothing. Where there are no numbers, when samples are drawn, nothing is added either: drawn is what
    was left as it is.

    Args:
        condition: tells the rest.
        numbers: k.
        width: of the vector.
    """

    def __init__(self, condition: Telling, numbers: int, width: int) -> None:
        self.condition = condition
        self.map = Parameter(MAP, (numbers, width), fan_average())

    @property
    def parameters(self) -> list[Parameter]:
        """The condition's, then the map."""
        return [*self.condition.parameters, self.map]

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return what is told, and the residuals (None when `ops.training` is False)."""
        told, saved = self.condition.forward(ops, w, given)
        saved_map = None
        if TRANSFORMS in given:
            numbers, matrix = given[TRANSFORMS], w[self.map.path]
            no_bias = ops.xp.zeros((matrix.shape[1],), dtype=numbers.dtype, device=ops.backend.device)
            vector, saved_map = ops.linear(ops.xp.astype(numbers, matrix.dtype, copy=False), matrix, no_bias)
            told = told._replace(vector=vector if told.vector is None else told.vector + vector)
        return told, (ops, saved, saved_map) if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Add the gradients of the parameters: the map's is numbersᵀ dvector."""
        ops, saved, saved_map = saved
        if saved_map is not None:
            _, dmap, _ = ops.linear_backward(saved_map, dtold.vector)
            dw[self.map.path] += dmap
        self.condition.backward(saved, dw, dtold)
