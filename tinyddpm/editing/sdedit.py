"""Image to image from a noised start (SDEdit: Meng et al. 2021, arXiv 2108.01073)."""

from __future__ import annotations

from collections.abc import Iterator

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError
from tinyddpm.samplers import Noise, Pairs, Sampler, Step


def sdedit(
    process: GaussianProcess,
    denoiser: Denoiser,
    x: Array,
    pairs: Pairs,
    noise: Noise,
    *,
    image: Array,
    strength: float,
    sampler: Sampler,
) -> Iterator[Step]:
    """Noise images up to a part of the chain, and denoise them from there (SDEdit, Algorithm 1).

    Structure that is coarser than the noise stays as in the image, finer structure is drawn anew: strength trades
    faithfulness for likeness to the data. At 1 the start is noise, plus the share √alpha_bar of the image at T − 1.

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: (N, ...) standard normal noise, added to the images.
        pairs: the steps of the whole chain; those above the start are left out.
        noise: see `Sampler`.
        image: (N, ...) or (1, ...) images to start from.
        strength: the share of the chain that is run, in (0, 1]: the t_0 of the paper.
        sampler: denoises the noised images.

    Raises:
        ConfigError: strength is outside (0, 1].
    """
    steps = pairs_from(pairs, strength, process.T)
    start = process.q_sample(image, steps[0][0], x)
    return sampler(process, denoiser, start, steps, noise)


def pairs_from(pairs: Pairs, strength: float, T: int) -> list[tuple[int, int]]:
    """Return the steps from the start, time strength · T − 1 rounded, down to the data.

    Below the start they visit the times of `pairs`; the pair that the start lies in is shortened to begin there.

    Raises:
        ConfigError: strength is outside (0, 1].
    """
    if not 0 < strength <= 1:
        raise ConfigError(f"strength is {strength}: give a share of the chain, above 0 (the image) and up to 1 (noise)")
    start = max(round(strength * T), 1) - 1
    return [(min(t, start), t_prev) for t, t_prev in pairs if t_prev < start]
