"""Inpainting: a part of an image drawn to fit the rest (RePaint: Lugmayr et al. 2022, arXiv 2201.09865)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from tinyddpm.backend import Array
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.errors import ConfigError
from tinyddpm.samplers import Noise, Pairs, Sampler, Step, level


def repaint(
    process: GaussianProcess,
    denoiser: Denoiser,
    x: Array,
    pairs: Pairs,
    noise: Noise,
    *,
    image: Array,
    mask: Array,
    sampler: Sampler,
    jump: int = 10,
    resamplings: int = 10,
) -> Iterator[Step]:
    """Draw the masked part of images, given the rest (RePaint, Algorithm 1).

    After each step the known part is replaced by a sample of q(x_prev | x_0) (eq. 8). The step did not see this sample,
    so the two parts do not fit. The path therefore goes back to more noise and down again several times
    (`repaint_path`), and the parts adapt. For small steps this is Langevin dynamics of the unknown part. The result
    follows the conditional law only approximately, the closer the more resamplings and steps there are.

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`.
        x: see `Sampler`.
        pairs: see `Sampler`.
        noise: fresh noise, called with a running number from 0 instead of the time: times are visited repeatedly.
        image: (N, ...) or (1, ...) the images; only their known part is used, and the result has it unchanged.
        mask: booleans that broadcast to the images: True where they are to be drawn.
        sampler: called for one step at a time, so a multistep sampler gets no earlier steps.
        jump: number of steps that the path goes back each time, j in the paper, which takes 10 of 250.
        resamplings: number of times that each part of the path is taken, r in the paper; 1 never goes back.

    Yields:
        Each step down, the known part in place; the last one's `x` is the result.

    Raises:
        ConfigError: jump or resamplings is below 1.
    """
    return _repaint(process, denoiser, x, repaint_path(pairs, jump, resamplings), noise, image, mask, sampler)


def _repaint(
    process: GaussianProcess,
    denoiser: Denoiser,
    x: Array,
    path: Pairs,
    noise: Noise,
    image: Array,
    mask: Array,
    sampler: Sampler,
) -> Iterator[Step]:
    numbers = count()

    def fresh(t: int) -> Array:
        return noise(next(numbers))

    for t, t_next in path:
        if t_next > t:
            keep = level(process, t_next).alpha / level(process, t).alpha
            x = keep * x + (1 - keep**2) ** 0.5 * fresh(t)
            continue
        (step,) = sampler(process, denoiser, x, [(t, t_next)], fresh)
        known = process.q_sample(image, t_next, fresh(t)) if t_next >= 0 else image
        x = process.backend.xp.where(mask, step.x, known)
        yield Step(t, x, step.x_0)


def repaint_path(pairs: Pairs, jump: int, resamplings: int) -> list[tuple[int, int]]:
    """Return the moves (t, t_next) of RePaint: steps down, and jumps back up (section 4.2 and appendix B).

    The steps are cut into parts of `jump` steps, counted from the last, and each part is taken `resamplings` times. The
    step to the data belongs to no part and is taken once.

    Raises:
        ConfigError: jump or resamplings is below 1.
    """
    for name, value in (("jump", jump), ("resamplings", resamplings)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: give at least 1")
    *before, last = pairs
    parts = [before[max(end - jump, 0) : end] for end in range(len(before), 0, -jump)]
    moves = []
    for part in reversed(parts):
        back = (part[-1][1], part[0][0])
        moves += [*part, *[back, *part] * (resamplings - 1)]
    return [*moves, last]
