"""The mean-squared error."""

from __future__ import annotations

from array_api_compat import size

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family, Saved


class Loss(Family):
    """What training makes small."""

    def mse(self, prediction: Array, target: Array) -> tuple[Array, Saved]:
        """Return L = mean((prediction − target)²) over all elements, a 0-d array.

        dprediction = dL · 2 (prediction − target) / size; the target is data. Saved is the difference.
        """
        difference = prediction - target
        return self.xp.mean(difference**2), self._save(difference)

    def mse_backward(self, saved: Saved, dloss: float = 1.0) -> Array:
        """Return dprediction of `mse`, for a loss that counts `dloss` times."""
        (difference,) = saved
        return difference * (2.0 * dloss / size(difference))
