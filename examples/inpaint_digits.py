"""Paint the lower half of digits to fit the upper half (RePaint): a row for each digit, which begins with the digit.

tinyddpm train
python examples/inpaint_digits.py painted.png runs/digits
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np

from tinyddpm.backend import Purpose, load_backend
from tinyddpm.conditions import some
from tinyddpm.data import open_dataset
from tinyddpm.editing import repaint
from tinyddpm.figures.images import grid, save_png
from tinyddpm.model.load import load_model
from tinyddpm.ops.images import from_model, to_model
from tinyddpm.samplers import ancestral, trailing_pairs

ROWS, DRAWN, STEPS = 4, 8, 50


def main(path: str, run: str = "runs/digits") -> None:
    backend = load_backend("numpy")
    model, weights, _ = load_model(Path(run), backend)
    digits, of = open_dataset("digits"), np.repeat(np.arange(ROWS), DRAWN)
    assert digits.labels is not None
    image = to_model(digits.read(of))
    mask = np.arange(image.shape[1])[:, None, None] >= image.shape[1] // 2
    numbers, random = np.arange(len(of)), backend.random(0)
    *_, last = repaint(
        model.process,
        model.denoiser(weights, some(digits, of), model.config.sampling),
        random.normal(Purpose.SAMPLE_START, 0, numbers, model.sample_shape),
        trailing_pairs(model.process.T, STEPS),
        lambda number: random.normal(Purpose.SAMPLE_STEP, number, numbers, model.sample_shape),
        image=image,
        mask=mask,
        sampler=partial(ancestral, variance="small"),
        jump=5,
        resamplings=5,
    )
    first = image.reshape(ROWS, DRAWN, *image.shape[1:])[:, :1]
    rows = np.concatenate([first, last.x.reshape(ROWS, DRAWN, *image.shape[1:])], axis=1)
    save_png(path, grid(from_model(rows.reshape(-1, *image.shape[1:])), columns=1 + DRAWN))


if __name__ == "__main__":
    main(*sys.argv[1:])
