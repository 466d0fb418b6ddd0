"""Denoising diffusion from scratch: hand-derived gradients on NumPy, CuPy and Torch arrays.

    model = tinyddpm.train(images)          # uint8 (n, H, W, C), or the name of a data set
    samples = model.sample(16, seed=1)

Reading order, beside the DDPM paper (Ho, Jain, Abbeel 2020, arXiv 2006.11239):
`diffusion/schedules.py`, `diffusion/process.py`, `training/step.py` (Algorithm 1), `samplers/ddpm.py`
(Algorithm 2), then `ops/` and `nn/unet.py` for the network. Importing this package imports none of them: each name
below is imported at its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyddpm.backend import load_backend
    from tinyddpm.diffusion.process import GaussianProcess
    from tinyddpm.diffusion.schedules import make_betas
    from tinyddpm.face import load, plugins, resume, save_png, train
    from tinyddpm.model.config import Config

__version__ = "0.1.0"

__all__ = ["Config", "GaussianProcess", "load", "load_backend", "make_betas", "plugins", "resume", "save_png", "train"]

_HOMES = {
    "Config": "model.config",
    "GaussianProcess": "diffusion.process",
    "load_backend": "backend",
    "make_betas": "diffusion.schedules",
    **dict.fromkeys(("load", "plugins", "resume", "save_png", "train"), "face"),
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    """Import and return the object of this name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tinyddpm' has no attribute {name!r}")
    return getattr(import_module(f"tinyddpm.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
