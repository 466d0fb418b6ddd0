"""Compare DDPM and rectified flow, trained alike, in few sampling steps: a table of Fréchet distances, and a picture.

python examples/flow_table.py flow.png digits flow-digits
python examples/flow_table.py flow.png runs/fashion runs/flow --features efficientnet-lite0 --count 500 --seeds 1
python examples/flow_table.py flow.png digits flow-digits --train-steps 100 --count 100      # a trial of one minute

Each model is a run, or a preset, which is trained into `runs/` first. The real samples are split into two halves of the
same classes. As many samples of these classes are drawn as one half has, and compared with the other half; the floor is
the distance between the halves. The picture has a row for each sampler and a column for each number of steps, all from
the same noise.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tinyddpm
from tinyddpm.backend import load_backend
from tinyddpm.data import open_dataset
from tinyddpm.figures.images import grid
from tinyddpm.figures.style import drawing, show_tiles
from tinyddpm.metrics.base import make_features
from tinyddpm.metrics.frechet import distance, moments
from tinyddpm.model.config import preset

SAMPLERS = {True: ("euler", "heun"), False: ("ddim", "dpmpp-2m")}
"""Samplers of a flow, and of any other model. N steps of Heun's method evaluate the network 2 N − 1 times, others N."""

SHOWN = 5
"""Number of samples for each row and column of the picture."""


def trained(name: str, train_steps: int | None, **machine: Any) -> Any:
    """Return the model in a run's folder, or that of a preset, which is trained unless its run exists."""
    if Path(name).exists():
        return tinyddpm.load(name, **machine)
    folder, config = Path("runs") / (name if train_steps is None else f"{name}-{train_steps}"), preset(name).config
    if not folder.exists():
        steps = train_steps or config.training.steps
        tinyddpm.train(config.data.source, preset=name, out=folder, steps=steps, **machine)
    return tinyddpm.load(folder, **machine)


def halves(labels: NDArray[np.int64], count: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of two sets of samples with the same number of each class, and at most `count` in each set."""
    rng = np.random.default_rng(0)
    order = [rng.permutation(np.flatnonzero(labels == k)) for k in np.unique(labels)]
    pairs = np.concatenate([each[: len(each) // 2 * 2].reshape(-1, 2) for each in order])
    pairs = rng.permutation(pairs)[:count]
    return pairs[:, 0], pairs[:, 1]


def main(*arguments: str) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", help="file to write, PNG or SVG")
    parser.add_argument("models", nargs="+", help="run folders or presets, all of one data set with classes")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16], help="numbers of sampling steps")
    parser.add_argument("--train-steps", type=int, help="training steps of presets; their own if not given")
    parser.add_argument("--count", type=int, help="number of samples; half of the real ones if not given")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds that the distance is averaged over")
    parser.add_argument("--features", default="pixels")
    parser.add_argument("--threshold", default="static", help="static, dynamic or none")
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args(arguments)

    models = {
        Path(name).name: trained(name, given.train_steps, backend=given.backend, threads=given.threads)
        for name in given.models
    }
    first = next(iter(models.values()))
    dataset, features = open_dataset(first.config.data.source), make_features(given.features, load_backend("numpy"))
    assert dataset.labels is not None, "the data have no classes"
    ours, others = halves(dataset.labels, given.count)
    real, asked = moments(features(dataset.read(others)).features), dataset.labels[ours].tolist()
    floor = distance(moments(features(dataset.read(ours)).features), real)
    print(f"Fréchet distance of {len(ours)} samples in {features.description}, mean of {given.seeds} seeds;", end=" ")
    print(f"floor {floor:.4g}\n\n| model | sampler |", *(f"{steps} steps |" for steps in given.steps))
    print("|---|---|" + "---|" * len(given.steps))

    tiles, rows = [], []
    for name, model in models.items():
        for sampler in SAMPLERS[model.config.training.predict == "flow"]:
            way, found = {"sampler": sampler, "threshold": given.threshold}, []
            for steps in given.steps:
                drawn = [model.sample(len(asked), labels=asked, seed=seed, steps=steps, **way)
                         for seed in range(given.seeds)]  # fmt: skip
                found.append([distance(moments(features(images).features), real) for images in drawn])
                tiles.append(grid(model.sample(SHOWN, labels=[*range(SHOWN)], steps=steps, **way), SHOWN, 1, 1))
            numbers = (f"{np.mean(each):.4g} ± {np.ptp(each) / 2:.2g} |" for each in found)
            print(f"| {name}, {model.step:,} steps | `{sampler}` |", *numbers, flush=True)
            rows.append(f"{name}, {sampler}")
    pictures = np.stack(tiles).reshape(len(rows), len(given.steps), *tiles[0].shape)
    shape = (pictures.shape[2] + 2) / (pictures.shape[3] + 2)  # height by width of a picture with the gap around it
    with drawing(given.picture, (1.6 + 2.5 * len(given.steps), 0.5 + 2.5 * len(rows) * shape)) as figure:
        show_tiles(figure.subplots(), pictures, [f"{steps} steps" for steps in given.steps], rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
