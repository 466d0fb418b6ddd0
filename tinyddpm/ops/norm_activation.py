"""Group norm and what follows it in every block, as one operation: modulation and dropout where there are any, SiLU."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.ops.activation import Activation, Dropout
from tinyddpm.ops.base import Saved
from tinyddpm.ops.normalisation import EPS, Normalisation


class NormActivation(Normalisation, Activation):
    """Operations one after the other, named as one so that a backend can do them in one pass over the data."""

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
        """Return dropout(silu(modulate(group_norm(x)))), modulation and dropout being left out where there is none.

        The backward is those of the four, last first. Saved is what they save; x and the mask give it back.

        Args:
            x: (N, ..., C).
            scale: (C,), of the norm.
            shift: (C,), of the norm.
            groups: number of groups; it divides C.
            modulation: scale and shift of `modulate`, (N, C) each, or nothing.
            dropout: as in `dropout`, or None.
            eps: added to the variance.

        Returns:
            y of x's shape, and the residuals of each.
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
        """Return (dx, dscale, dshift, dmodulation) of `group_norm_silu`; dmodulation is empty where there is none."""
        saved_norm, saved_modulation, saved_silu, saved_dropout = saved
        dh = dy if saved_dropout is None else self.dropout_backward(saved_dropout, dy)
        dh = self.silu_backward(saved_silu, dh)
        dmodulation: tuple[Array, ...] = ()
        if saved_modulation is not None:
            dh, *rest = self.modulate_backward(saved_modulation, dh)
            dmodulation = tuple(rest)
        return *self.group_norm_backward(saved_norm, dh), dmodulation
