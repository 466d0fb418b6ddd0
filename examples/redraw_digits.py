"""Turn threes into eights (SDEdit): a column for each three, shown at the top, and a row for each strength.

tinyddpm train
python examples/redraw_digits.py redrawn.png runs/digits
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np

from tinyddpm.backend import Purpose, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data import open_dataset
from tinyddpm.editing import sdedit
from tinyddpm.figures.images import grid, save_png
from tinyddpm.model.load import load_model
from tinyddpm.ops.images import from_model, to_model
from tinyddpm.samplers import ancestral, trailing_pairs

THREE, EIGHT = 3, 8
COLUMNS, STRENGTHS = 10, (0.2, 0.4, 0.6, 0.8, 1.0)


def main(path: str, run: str = "runs/digits") -> None:
    backend = load_backend("numpy")
    model, weights, _ = load_model(Path(run), backend)
    digits, numbers = open_dataset("digits"), np.arange(COLUMNS)
    image = to_model(digits.read(np.flatnonzero(digits.labels == THREE)[:COLUMNS]))
    denoiser = model.denoiser(weights, Asked(np.repeat(EIGHT, COLUMNS)), model.config.sampling)
    random = backend.random(0)
    rows = [image]
    for strength in STRENGTHS:
        *_, last = sdedit(
            model.process,
            denoiser,
            random.normal(Purpose.SAMPLE_START, 0, numbers, model.sample_shape),
            trailing_pairs(model.process.T),
            lambda t: random.normal(Purpose.SAMPLE_STEP, t, numbers, model.sample_shape),
            image=image,
            strength=strength,
            sampler=partial(ancestral, variance="small"),
        )
        rows.append(last.x)
    save_png(path, grid(from_model(np.concatenate(rows)), columns=COLUMNS))


if __name__ == "__main__":
    main(*sys.argv[1:])
