"""Samplers: loops over a denoiser that yield every step. They know nothing of networks."""

from tinyddpm.samplers.base import Noise, Pairs, Sampler, Step, uniform_pairs

__all__ = ["Noise", "Pairs", "Sampler", "Step", "uniform_pairs"]
