"""All edits on every backend: the same numbers as on NumPy, and nothing beyond the array API standard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tinyddpm.backend import Backend
from tinyddpm.diffusion.denoiser import Denoiser, Prediction
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.editing import ddim_interpolation, repaint, sdedit, stochastic_interpolation
from tinyddpm.guidance import Blend
from tinyddpm.samplers import Step, ancestral, trailing_pairs

PAIRS = trailing_pairs(100, 8)
HOST = np.random.default_rng(5).standard_normal((64, 4, 3, 3, 1)).astype(np.float32)
LAM = np.linspace(0, 1, 4, dtype=np.float32)


def gaussian(process: GaussianProcess, mean: float) -> Denoiser:
    """The exact denoiser of N(mean, 1/4) in each pixel."""

    def denoise(x_t: Any, t: int) -> Prediction:
        alpha_bar = float(process.alpha_bar[t])
        x_0 = mean + alpha_bar**0.5 / (4 - 3 * alpha_bar) * (x_t - alpha_bar**0.5 * mean)
        return Prediction(x_0, (x_t - alpha_bar**0.5 * x_0) / (1 - alpha_bar) ** 0.5)

    return denoise


def between(process: GaussianProcess, arrays: list[Any], lam: Any, mask: Any, noise: Any) -> Iterator[Step]:
    denoisers = gaussian(process, -0.3), gaussian(process, 0.4)
    ends = arrays[0][:1, ...], arrays[1][:1, ...]
    return ddim_interpolation(process, denoisers, Blend(*denoisers, lam), ends, lam, PAIRS)


def mixed(process: GaussianProcess, arrays: list[Any], lam: Any, mask: Any, noise: Any) -> Iterator[Step]:
    blend = Blend(gaussian(process, -0.3), gaussian(process, 0.4), lam)
    ways: dict[str, Any] = {"ends": (arrays[0], arrays[1]), "lam": lam, "strength": 0.6, "sampler": ancestral}
    return stochastic_interpolation(process, blend, (arrays[2], arrays[3]), PAIRS, noise, **ways)


def anew(process: GaussianProcess, arrays: list[Any], lam: Any, mask: Any, noise: Any) -> Iterator[Step]:
    ways: dict[str, Any] = {"image": arrays[0][:1, ...], "strength": 0.6, "sampler": ancestral}
    return sdedit(process, gaussian(process, 0.4), arrays[1], PAIRS, noise, **ways)


def painted(process: GaussianProcess, arrays: list[Any], lam: Any, mask: Any, noise: Any) -> Iterator[Step]:
    ways: dict[str, Any] = {"image": arrays[0], "mask": mask, "sampler": ancestral, "jump": 2, "resamplings": 2}
    return repaint(process, gaussian(process, 0.4), arrays[1], PAIRS, noise, **ways)


def result(edit: Callable[..., Iterator[Step]], backend: Backend) -> Any:
    process = GaussianProcess(backend, make_betas("linear", 100))
    arrays = [backend.asarray(array) for array in HOST]
    mask = backend.asarray(np.arange(3)[:, None, None] > 0)
    *_, last = edit(process, arrays, backend.asarray(LAM), mask, lambda number: arrays[number % len(arrays)])
    assert last.x.dtype == backend.xp.float32
    return backend.to_numpy(last.x)


@pytest.mark.parametrize("edit", [between, mixed, anew, painted])
def test_edits_agree(edit: Callable[..., Iterator[Step]], numpy_backend: Backend, other_backend: Backend) -> None:
    np.testing.assert_allclose(result(edit, other_backend), result(edit, numpy_backend), rtol=1e-4, atol=1e-5)
