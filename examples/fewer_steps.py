"""Draw the same digits in fewer and fewer steps: a row for each number of steps, a column for each class.

tinyddpm train
python examples/fewer_steps.py steps.png runs/digits
"""

import sys
from pathlib import Path

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.conditions import Wish, in_turn
from tinyddpm.figures.images import grid, save_png
from tinyddpm.model.load import load_model
from tinyddpm.model.sampling import draw

STEPS, COUNT = (5, 10, 20, 50, 0), 10  # 0 is the whole chain


def main(path: str, run: str = "runs/digits", sampler: str = "dpmpp-2m") -> None:
    model, weights, _ = load_model(Path(run), load_backend("numpy"))
    numbers = np.arange(COUNT)
    rows = [
        draw(
            model,
            weights,
            numbers,
            in_turn(model.condition.asked(Wish()), numbers),
            seed=0,
            sampling=model.config.updated({"sampling": {"name": sampler, "steps": steps}}).sampling,
            batch_size=COUNT,
        ).values
        for steps in STEPS
    ]
    save_png(path, grid(np.concatenate(rows), columns=COUNT))


if __name__ == "__main__":
    main(*sys.argv[1:])
