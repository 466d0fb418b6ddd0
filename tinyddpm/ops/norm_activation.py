"""Group norm, modulation, SiLU and dropout as one operation: what precedes each convolution of a residual block."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.ops.activation import Activation, Dropout
from tinyddpm.ops.base import Saved
from tinyddpm.ops.normalisation import EPS, Normalisation


class NormActivation(Normalisation, Activation):
    """Sequences of operations under one name, so that a backend can compute each in a single pass over the data."""

    def group_norm_silu(
        self,
        x: Array,
        scale: Array,
        shift: Array,
        groups: int,
        modulation: tuple[Array, ...] = (),
        dropout: Dropout | None = None,
        eps: float = EPS,
    ) -> tuple[Array, Saved]:
        """Return dropout(silu(modulate(group_norm(x)))), without modulation or dropout where none is given.

        The backward runs the backwards of the four in reverse order. Saved are the residuals of each; a backend may
        save x and the mask alone, from which the others follow.

        Args:
            x: (N, ..., C).
            scale: (C,), scale of the norm.
            shift: (C,), shift of the norm.
            groups: number of groups, a divisor of C.
            modulation: scale and shift of `modulate`, (N, C) each, or the empty tuple.
            dropout: argument of `dropout`, or None.
            eps: ε, added to the variance.

        Returns:
            y of x's shape, and the residuals of the four operations, None for one left out.
        """
        h, saved_norm = self.group_norm(x, scale, shift, groups, eps)
        saved_modulation = None
        if modulation:
            h, saved_modulation = self.modulate(h, *modulation)
        y, saved_silu = self.silu(h)
        saved_dropout = None
        if dropout:
            y, saved_dropout = self.dropout(y, dropout)
        return y, self._save(saved_norm, saved_modulation, saved_silu, saved_dropout)

    def group_norm_silu_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array, tuple[Array, ...]]:
        """Return (dx, dscale, dshift, dmodulation) of `group_norm_silu`; dmodulation is empty without a modulation."""
        saved_norm, saved_modulation, saved_silu, saved_dropout = saved
        dh = dy if saved_dropout is None else self.dropout_backward(saved_dropout, dy)
        dh = self.silu_backward(saved_silu, dh)
        dmodulation: tuple[Array, ...] = ()
        if saved_modulation is not None:
            dh, *rest = self.modulate_backward(saved_modulation, dh)
            dmodulation = tuple(rest)
        return *self.group_norm_backward(saved_norm, dh), dmodulation
