"""Samplers: loops over a denoiser that yield every step. They know nothing of networks."""

from tinyddpm.samplers.base import Level, Noise, Pairs, Sampler, Step, level, make_sampler
from tinyddpm.samplers.ddpm import ancestral
from tinyddpm.samplers.dpm_solver import dpmpp_2m, dpmpp_2m_sde
from tinyddpm.samplers.implicit import ddim, ddim_encode
from tinyddpm.samplers.predictor_corrector import unipc
from tinyddpm.samplers.runge_kutta import euler, heun
from tinyddpm.samplers.spacings import make_pairs, trailing_pairs

__all__ = [
    "Level",
    "Noise",
    "Pairs",
    "Sampler",
    "Step",
    "ancestral",
    "ddim",
    "ddim_encode",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "euler",
    "heun",
    "level",
    "make_pairs",
    "make_sampler",
    "trailing_pairs",
    "unipc",
]
