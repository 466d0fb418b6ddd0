"""Draw what the forward process does to digits: from left to right x_0, then x_t at evenly spaced t.

python examples/forward_process.py forward.png cosine
"""

import sys

import numpy as np

from tinyddpm.backend import Purpose, load_backend
from tinyddpm.data import open_dataset
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.figures.images import grid, save_png
from tinyddpm.ops.images import from_model, to_model

COLUMNS, ROWS, T = 10, 4, 1000


def main(path: str, schedule: str = "linear") -> None:
    backend = load_backend("numpy")
    process = GaussianProcess(backend, make_betas(schedule, T))
    x_0 = to_model(open_dataset("digits").read(np.arange(ROWS)))
    eps = backend.random(0).normal(Purpose.NOISE, 0, np.arange(ROWS), x_0.shape[1:])
    times = np.linspace(0, T - 1, COLUMNS - 1).round().astype(int).tolist()
    columns = [x_0, *(process.q_sample(x_0, t, eps) for t in times)]
    rows = np.stack([from_model(x) for x in columns], axis=1)  # (ROWS, COLUMNS, H, W, C)
    save_png(path, grid(rows.reshape(-1, *x_0.shape[1:]), columns=COLUMNS))


if __name__ == "__main__":
    main(*sys.argv[1:])
