"""A condition that also tells the network how transforms changed the samples in training."""

from __future__ import annotations

from tinyddpm.conditions.base import Given, Telling
from tinyddpm.nn import Gradients, Parameter, Parts, Told, Weights
from tinyddpm.nn.parameters import fan_average
from tinyddpm.ops import Operations, Saved

TRANSFORMS = "transforms"
"""The column of the transforms' parameters, (N, k) numbers; it exists in training only."""

MAP = "time/transforms/w"
"""Path of the linear map of these numbers. A model that only draws samples may leave this parameter out."""


class Transformed(Parts):
    """A condition that also tells the transforms' parameters of a sample (EDM, arXiv 2206.00364, appendix F.2).

    The k numbers are added to the vector by a linear map without a bias. An untransformed sample has only zeros, which
    add nothing. Sampling has no such column and adds nothing either, so it draws untransformed samples.

    Args:
        condition: makes the other parts of `Told`.
        numbers: k.
        width: width of the vector.
    """

    def __init__(self, condition: Telling, numbers: int, width: int) -> None:
        self.condition = condition
        self.map = Parameter(MAP, (numbers, width), fan_average())

    @property
    def parameters(self) -> list[Parameter]:
        """The condition's parameters, then the map."""
        return [*self.condition.parameters, self.map]

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return the condition's `Told`, its vector with the map of the numbers, and the residuals."""
        told, saved = self.condition.forward(ops, w, given)
        saved_map = None
        if TRANSFORMS in given:
            numbers, matrix = given[TRANSFORMS], w[self.map.path]
            no_bias = ops.xp.zeros((matrix.shape[1],), dtype=numbers.dtype, device=ops.backend.device)
            vector, saved_map = ops.linear(ops.xp.astype(numbers, matrix.dtype, copy=False), matrix, no_bias)
            told = told._replace(vector=vector if told.vector is None else told.vector + vector)
        return told, (ops, saved, saved_map) if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Add the gradients of the parameters to `dw`: the map's is numbersᵀ dvector."""
        ops, saved, saved_map = saved
        if saved_map is not None:
            _, dmap, _ = ops.linear_backward(saved_map, dtold.vector)
            dw[self.map.path] += dmap
        self.condition.backward(saved, dw, dtold)
