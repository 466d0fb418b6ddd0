"""Editing: a trained denoiser changes, completes, interpolates and enlarges images. It knows nothing of networks."""

from tinyddpm.editing.enlarging import Matched, matched
from tinyddpm.editing.inpainting import repaint, repaint_path
from tinyddpm.editing.interpolation import (
    conditional_interpolation,
    ddim_interpolation,
    slerp,
    stochastic_interpolation,
)
from tinyddpm.editing.sdedit import pairs_from, sdedit

__all__ = [
    "Matched",
    "conditional_interpolation",
    "ddim_interpolation",
    "matched",
    "pairs_from",
    "repaint",
    "repaint_path",
    "sdedit",
    "slerp",
    "stochastic_interpolation",
]
