"""Samplers: loops over a denoiser that yield every step. They know nothing of networks."""

from tinyddpm.samplers.base import Level, Noise, Pairs, Sampler, Step, level
from tinyddpm.samplers.ddim import ddim_encode
from tinyddpm.samplers.spacings import make_pairs, trailing_pairs

__all__ = ["Level", "Noise", "Pairs", "Sampler", "Step", "ddim_encode", "level", "make_pairs", "trailing_pairs"]
