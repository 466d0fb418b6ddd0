"""The time of drawing 256 images by DDPM's CIFAR-10 network in all its steps, by us and by variants of the Torch peer.

PYTHONPATH=. python tests/gpu/drawing.py VARIANT …: prints a line of JSON for each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from tinyddpm.backend import load_backend
from tinyddpm.bench.peers import find_peer
from tinyddpm.bench.process import PeerError, Runner
from tinyddpm.bench.task import Task, make_task
from tinyddpm.conditions import Asked
from tinyddpm.model.config import Config, preset
from tinyddpm.model.model import Model
from tinyddpm.model.sampling import draw

IMAGES, WARM_UP = 256, 3


def ours(config: Config, shape: tuple[int, ...]) -> tuple[float, str]:
    """Return the seconds of a drawing by `tinyddpm sample`'s own function, and by what: the second one, so that kernels
    are compiled and plans chosen."""
    backend = load_backend(config.backend, config.device, config.precision)
    model = Model(config, shape, (), backend)
    weights, numbers = backend.asarray(model.layout.initialise(config.seed)), np.arange(IMAGES)
    for sampling in (replace(config.sampling, steps=WARM_UP), config.sampling):
        began = time.perf_counter()
        draw(model, weights, numbers, Asked(None), seed=0, sampling=sampling, batch_size=IMAGES)
    return time.perf_counter() - began, backend.describe()


def theirs(variant: str, task: Task) -> tuple[float, str]:
    """Return the seconds of a chain of the peer's denoising steps, and by what."""
    with closing(Runner(f"torch {variant}", find_peer("torch"), variant, task)) as runner:
        runner.ready()
        for _ in range(WARM_UP):
            runner.turn("denoise_step", 0.0)
        steps = task.config.schedule.timesteps
        return sum(runner.turn("denoise_step", 0.0) for _ in range(steps)), runner.description


def drawings(config: Config, variants: list[str]) -> Iterator[dict[str, Any]]:
    """Yield what each has taken."""
    task = make_task(config, "cifar10")
    about = {"images": IMAGES, "steps": config.schedule.timesteps}
    seconds, description = ours(config, task.sample_shape)
    yield {"name": "tinyddpm cupy", **about, "seconds": seconds, "description": description}
    for variant in variants:
        try:
            seconds, description = theirs(variant, task)
        except PeerError as error:
            print(error, file=sys.stderr)
            continue
        yield {"name": f"torch {variant}", **about, "seconds": seconds, "description": description}


if __name__ == "__main__":
    settings = {"backend": "cupy", "precision": "bf16", "training": {"batch_size": IMAGES}}
    for line in drawings(preset("cifar10").config.updated(settings), sys.argv[1:]):
        print(json.dumps(line), flush=True)
