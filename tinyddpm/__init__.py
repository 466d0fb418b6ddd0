"""Denoising diffusion from scratch: hand-derived gradients on NumPy, CuPy and Torch arrays.

Reading order, beside the DDPM paper (Ho, Jain, Abbeel 2020, arXiv 2006.11239):
`diffusion/schedules.py`, `diffusion/process.py`, `training/step.py` (Algorithm 1), `samplers/ancestral.py`
(Algorithm 2), then `ops/` and `nn/unet.py` for the network. Importing this package imports none of them.
"""

__version__ = "0.1.0"
