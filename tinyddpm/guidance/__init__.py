"""Guidance: denoisers made of denoisers. Like the samplers, this knows nothing of networks."""

from tinyddpm.guidance.base import Guidance, Lone, Pair, Side, make_guidance
from tinyddpm.guidance.blend import Blend
from tinyddpm.guidance.extrapolation import auto, cfg

__all__ = ["Blend", "Guidance", "Lone", "Pair", "Side", "auto", "cfg", "make_guidance"]
