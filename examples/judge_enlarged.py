"""Judge enlarged images: the error of images that the model draws for shrunk ones, against the originals.

tinyddpm train --preset enlarge-emoji --backend numba --out runs/enlarge-emoji
python examples/judge_enlarged.py enlarged.png runs/enlarge-emoji composed

The picture has a row for each of some images: the small one, bicubic interpolation, the drawn one, and the original.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinyddpm.backend import Purpose, load_backend
from tinyddpm.cli.measurement import opened
from tinyddpm.conditions import Wish
from tinyddpm.conditions.image import Image as Enlarges
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.editing import Matched
from tinyddpm.figures.images import grid, save_png
from tinyddpm.model.load import load_model
from tinyddpm.ops.images import from_model, shrunk, to_model
from tinyddpm.samplers import make_sampler

MOST, SHOWN = 500, 8
Pixels = NDArray[np.uint8]


def by_pillow(small: Pixels, size: tuple[int, int], how: Image.Resampling) -> Pixels:
    """Return images (n, h, w, C) enlarged to (height, width) by Pillow."""
    channels = np.moveaxis(small, -1, 1).reshape(-1, *small.shape[1:3])
    large = np.stack([np.asarray(Image.fromarray(channel).resize(size[::-1], how)) for channel in channels])
    return np.moveaxis(large.reshape(len(small), -1, *size), 1, -1)


def psnr(images: Pixels, real: Pixels) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each image, (n,), in decibels."""
    errors = np.mean((images.astype(float) - real) ** 2, axis=(1, 2, 3))
    decibels: NDArray[np.float64] = 10 * np.log10(255**2 / np.maximum(errors, 1e-2))
    return decibels


def main(path: str, run: str, split: str = "held-out") -> None:
    backend = load_backend("numpy")
    model, weights, _ = load_model(Path(run), backend)
    condition, sampling = model.condition, model.config.sampling
    assert isinstance(condition, Enlarges)
    dataset, _ = opened(model, None, None, split)
    numbers = np.arange(min(MOST, len(dataset)))
    real = dataset.read(numbers)
    small = shrunk(real, condition.factor)
    random, sampler = backend.random(0), make_sampler(sampling.name, **sampling.options)

    def drawn(denoiser: Denoiser) -> Pixels:
        x = random.normal(Purpose.SAMPLE_START, 0, numbers, model.sample_shape)
        *_, last = sampler(
            model.process, denoiser, x, model.pairs(sampling),
            lambda t: random.normal(Purpose.SAMPLE_STEP, t, numbers, model.sample_shape),
        )  # fmt: skip
        images: Pixels = from_model(last.x)
        return images

    denoiser = model.denoiser(weights, condition.asked(Wish(images=small)), sampling)
    nearest, bicubic = (
        by_pillow(small, condition.size, how) for how in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    )
    plain, exact = drawn(denoiser), drawn(Matched(model.process, denoiser, to_model(small), condition.factor))
    print(f"{len(real)} pictures of {dataset.description}, {split}, {len(model.pairs(sampling))} steps")
    for name, images in (("nearest", nearest), ("bicubic", bicubic), ("drawn", plain), ("drawn exactly", exact)):
        decibels, better = psnr(images, real), psnr(images, real) - psnr(bicubic, real)
        error = better.std(ddof=1) / np.sqrt(len(real))
        again = np.sqrt(np.mean((shrunk(images, condition.factor).astype(float) - small) ** 2))
        print(
            f"{name:13}  PSNR {decibels.mean():.2f} dB, {better.mean():+.2f} ± {error:.2f} to bicubic's; "
            f"shrunk again {again:.2f}/255 rms off"
        )
    chosen = np.linspace(0, len(real) - 1, min(SHOWN, len(real))).astype(int)
    rows = [images[chosen] for images in (nearest, bicubic, exact, real)]
    save_png(path, grid(np.stack(rows, axis=1).reshape(-1, *real.shape[1:]), columns=len(rows)))


if __name__ == "__main__":
    main(*sys.argv[1:])
