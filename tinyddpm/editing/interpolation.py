"""Interpolation of two images, by their noise under DDIM or by mixing them half-noised, and of two conditions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinyddpm.backend import Array, clipped
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.editing.sdedit import pairs_from
from tinyddpm.samplers import Noise, Pairs, Sampler, Step, ddim, ddim_encode


def ddim_interpolation(
    process: GaussianProcess,
    denoisers: tuple[Denoiser, Denoiser],
    between: Denoiser,
    ends: tuple[Array, Array],
    lam: Array,
    pairs: Pairs,
) -> Iterator[Step]:
    """Encode two images as noise, interpolate between the noises, and decode the result (DDIM section 5.3).

    Deterministic. λ = 0 and 1 give the ends back, up to the error of encoding and decoding (`ddim_encode`).

    Args:
        process: the chain that the denoisers were made for.
        denoisers: one for the first end's condition, one for the second's; twice the same without conditions.
        between: the denoiser of the interpolated samples, (N, ...), such as a `Blend` of the two.
        ends: two images, or two batches of them, (1, ...) or (N, ...).
        lam: (N,) λ, in [0, 1]: 0 is the first end, 1 the second.
        pairs: the steps from noise to data; encoding takes them in reverse.

    Yields:
        The steps that encode the first end, those that encode the second, and those that decode; the last one's `x` is
        (N, ...).
    """
    codes = []
    for denoiser, end in zip(denoisers, ends, strict=True):
        for step in ddim_encode(process, denoiser, end, pairs):
            yield step
        codes.append(step.x)
    x = slerp(process.backend.xp, codes[0], codes[1], lam)
    yield from ddim(process, between, x, pairs, _no_noise)


def stochastic_interpolation(
    process: GaussianProcess,
    denoiser: Denoiser,
    x: tuple[Array, Array],
    pairs: Pairs,
    noise: Noise,
    *,
    ends: tuple[Array, Array],
    lam: Array,
    strength: float,
    sampler: Sampler,
) -> Iterator[Step]:
    """Noise two images to one time, mix them, and denoise the mixture (DDPM section 4.4 and figure 8).

        x_t ~ q(x_t | x_0),  x'_t ~ q(x_t | x'_0),  x̄_t = (1 − λ) x_t + λ x'_t,  x̄_0 ~ p(x_0 | x̄_t)

    Args:
        process: see `Sampler`.
        denoiser: see `Sampler`; such as a `Blend` if the ends are of two classes.
        x: standard normal noise for each end, (1, ...) or (N, ...). Noise that is the same in all rows keeps x_t and
            x'_t fixed while λ varies, as in the paper.
        pairs: the steps of the whole chain; those above the start are left out.
        noise: see `Sampler`.
        ends: two images, or two batches of them, (1, ...) or (N, ...).
        lam: (N,) λ, in [0, 1].
        strength: the share of the chain after which they are mixed, in (0, 1], as for `sdedit`. A small one shows both
            images on top of each other, a large one gives new images that have less of the two.
        sampler: denoises the mixture.

    Raises:
        ConfigError: strength is outside (0, 1].
    """
    steps = pairs_from(pairs, strength, process.T)
    x_t, x_t_prime = (process.q_sample(end, steps[0][0], eps) for end, eps in zip(ends, x, strict=True))
    share = _per_row(lam, x_t)
    return sampler(process, denoiser, (1 - share) * x_t + share * x_t_prime, steps, noise)


def conditional_interpolation(
    process: GaussianProcess,
    between: Denoiser,
    x: Array,
    pairs: Pairs,
    noise: Noise,
    *,
    n: int,
    sampler: Sampler,
) -> Iterator[Step]:
    """Draw n samples from one noise, while the condition goes from a first to a second.

        ε_λ(x_t) = (1 − λ) ε(x_t | first) + λ ε(x_t | second),   all from one x_T

    λ = 0 and 1 give what the sampler draws from this noise for either condition alone.

    Args:
        process: see `Sampler`.
        between: the denoiser of the n samples, a `Blend` of those for the two conditions.
        x: (1, ...) standard normal noise, from which all start.
        pairs: the steps from noise to data.
        noise: see `Sampler`, (1, ...): the same for all samples, so that they differ in λ alone.
        n: number of samples.
        sampler: denoises them.
    """
    xp = process.backend.xp
    return sampler(process, between, xp.concat([x] * n), pairs, lambda t: xp.concat([noise(t)] * n))


def slerp(xp: Any, a: Array, b: Array, lam: Array) -> Array:
    """Return the points at λ on the arcs from a to b (DDIM, appendix D.5, after Shoemake 1985).

        sin((1 − λ) θ) / sin θ a + sin(λ θ) / sin θ b,   θ the angle between two whole samples

    Points on the straight line would be too short to be noise: half-way, by √2 for independent a and b.

    Args:
        xp: the array namespace.
        a: (N, ...) or (1, ...).
        b: (N, ...) or (1, ...).
        lam: (N,) λ in [0, 1].
    """
    axes = tuple(range(1, a.ndim))

    def dot(u: Array, v: Array) -> Array:
        return xp.sum(u * v, axis=axes, keepdims=True)

    cosine = dot(a, b) / xp.sqrt(dot(a, a) * dot(b, b))
    theta = xp.acos(clipped(xp, cosine, -1.0, 1.0))
    share = _per_row(lam, a)
    # Where the two point the same way, the arc is the line between them.
    bent = xp.sin(theta) > 1e-3
    sine = xp.where(bent, xp.sin(theta), xp.ones_like(theta))
    first = xp.where(bent, xp.sin((1 - share) * theta) / sine, 1 - share)
    second = xp.where(bent, xp.sin(share * theta) / sine, share)
    return first * a + second * b


def _per_row(lam: Array, x: Array) -> Array:
    """Return lam, (N,), in a shape that broadcasts to x."""
    return lam[(..., *(None,) * (x.ndim - 1))]


def _no_noise(t: int) -> Array:
    raise AssertionError("DDIM with eta = 0 asks for no noise")
