"""Interpolate between two digits: above through their noise (DDIM), below half-noised and mixed (DDPM, figure 8).

tinyddpm train
python examples/interpolate_digits.py between.png runs/digits
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np

from tinyddpm.backend import Purpose, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data import open_dataset
from tinyddpm.editing import ddim_interpolation, stochastic_interpolation
from tinyddpm.figures.images import grid, save_png
from tinyddpm.guidance import Blend
from tinyddpm.model.load import load_model
from tinyddpm.ops.images import from_model, to_model
from tinyddpm.samplers import ancestral, trailing_pairs

COLUMNS, STRENGTH = 9, 0.5
IMAGES = np.array([3, 5])  # indices in the data set, whose first images are 0, 1, 2, …


def main(path: str, run: str = "runs/digits") -> None:
    backend = load_backend("numpy")
    model, weights, _ = load_model(Path(run), backend)
    digits = open_dataset("digits")
    assert digits.labels is not None
    ends = to_model(digits.read(IMAGES))
    sampling = model.config.sampling
    first, second = (model.guided(weights, Asked(np.repeat(label, COLUMNS))) for label in digits.labels[IMAGES])
    own = model.thresholded(first, sampling), model.thresholded(second, sampling)
    lam = np.linspace(0, 1, COLUMNS, dtype=np.float32)
    between = model.thresholded(Blend(first, second, lam), sampling)
    pairs = trailing_pairs(model.process.T)
    *_, through_noise = ddim_interpolation(model.process, own, between, (ends[:1], ends[1:]), lam, pairs)

    random = backend.random(0)
    x = random.normal(Purpose.SAMPLE_START, 0, [0, 1], model.sample_shape)
    *_, mixed = stochastic_interpolation(
        model.process,
        between,
        (x[:1], x[1:]),
        pairs,
        lambda t: random.normal(Purpose.SAMPLE_STEP, t, [0], model.sample_shape),
        ends=(ends[:1], ends[1:]),
        lam=lam,
        strength=STRENGTH,
        sampler=partial(ancestral, variance="small"),
    )
    rows = [np.concatenate([ends[:1], step.x, ends[1:]]) for step in (through_noise, mixed)]
    save_png(path, grid(from_model(np.concatenate(rows)), columns=COLUMNS + 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
