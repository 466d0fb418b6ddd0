"""Runs that stop and go on, beside straight ones: of every objective, law of times, condition, data and backend."""

from __future__ import annotations

import gzip
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from itertools import combinations, product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from accidents import SCRIPT, Count
from accidents.damage import digest
from tinyddpm.backend import load_backend
from tinyddpm.model.checkpoint import load_checkpoint
from tinyddpm.model.config import Config
from tinyddpm.model.load import layout_of
from tinyddpm.progress import Progress
from tinyddpm.training.run import resume, start

Case = tuple[str, ...]
"""A value of each of `AXES`."""

AXES: dict[str, tuple[str, ...]] = {
    "backend": ("numpy", "numba", "torch"),
    "threads": ("1 thread", "2 threads"),
    "parts": ("whole batches", "accumulated"),
    "objective": ("simple", "hybrid", "vlb"),
    "times": ("uniform", "history", "log-normal"),
    "data": (
        "moons", "npz", "hdf5", "csv", "folder",
        "idx by label", "captions by text", "npz by embeddings", "digits by image",
    ),
}  # fmt: skip

STEPS, STOP = 5, 3
"""A run validates where it ends, so one that stops there is due to do so; its lines of metrics are not.

The loss is logged there too, of the steps since the last line, which the next line counts again.
"""

SETTINGS: dict[str, Any] = {
    "schedule": {"name": "cosine", "timesteps": 4},
    "training": {
        "steps": STEPS, "batch_size": 24, "learning_rate": 1e-2, "warmup": 2, "ema": 0.9,
        "log_every": 2, "validate_every": STOP, "save_every": 100, "sample_every": 100,
    },
    "sampling": {"name": "ddim", "steps": 2, "count": 4},
}  # fmt: skip
"""Of few times, so that each has the ten losses that times are drawn after before the run stops."""

UNET = {"name": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.2}
TEXT = {"name": "text", "dropout": 0.3, "token_width": 8, "depth": 1, "heads": 2, "length": 8}
WORDS = ("a red apple", "two apples 🍏", "la forêt", "a hand: waving")
SAME = "bit for bit"


def write_data(place: Path) -> None:
    """Write 40 pictures, of four classes and captions, in every kind of file."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    classes = np.arange(40) % 4
    np.savez(place / "images.npz", images=images)
    tokens = np.random.default_rng(1).standard_normal((40, 5, 6)).astype(np.float32)
    np.savez(place / "tokens.npz", images=images, tokens=tokens, length=1 + classes)
    with h5py.File(place / "images.h5", "w") as file:
        file.create_dataset("images", data=images, chunks=(7, 8, 8), compression="gzip")
    rows = (",".join(map(str, [label, *image.ravel()])) for label, image in zip(classes, images, strict=True))
    (place / "images.csv").write_text("\n".join([",".join(["label", *map(str, range(64))]), *rows]))
    for name in ("folder", "captions"):
        (place / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(place / name / f"{i:02d}.png")
    lines = (
        json.dumps({"file_name": f"{i:02d}.png", "text": f"{WORDS[label]} {i}"}, ensure_ascii=False)
        for i, label in enumerate(classes)
    )
    (place / "captions" / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (place / "idx").mkdir()
    for name, array in (
        ("train-images-idx3-ubyte.gz", images),
        ("train-labels-idx1-ubyte.gz", classes.astype(np.uint8)),
    ):
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (place / "idx" / name).write_bytes(gzip.compress(header + array.tobytes()))


def configuration(case: Case, place: Path) -> Config:
    """Return the settings of a run, whose data lie in `place`."""
    backend, threads, parts, objective, times, kind = case
    data, _, condition = kind.partition(" by ")
    files = {"npz": "tokens.npz" if condition else "images.npz", "hdf5": "images.h5", "csv": "images.csv"}
    source = data if data in ("moons", "digits") else str(place / files.get(data, data))
    known = {"text": TEXT, "embeddings": {"token_width": 8}, "image": {"noise": 0.3}}.get(condition, {})
    flip = {} if data == "moons" else {"flip": True}
    return Config.from_dict({**SETTINGS, "backend": backend}).updated({
        "data": {"source": source, "labels": condition == "label", **flip},
        "network": {"name": "mlp", "width": 16, "depth": 1} if data == "moons" else UNET,
        "condition": {"dropout": 0.3, **known, "name": condition} if condition else {},
        "training": {
            "threads": int(threads[0]), "accumulate": 1 + (parts == "accumulated"), "loss": objective, "times": times,
        },
    })  # fmt: skip


def cases(count: int, seed: int = 0) -> list[Case]:
    """Return so many of all cases, or all; first those that bring most pairs of values that none before them has."""
    left = list(product(*AXES.values()))
    random.Random(seed).shuffle(left)
    seen: set[tuple[str, str]] = set()
    found: list[Case] = []
    while left and len(found) < count:
        best = max(left, key=lambda case: len({*combinations(case, 2)} - seen))
        if seen.issuperset(combinations(best, 2)):
            return [*found, *left[: count - len(found)]]
        seen.update(combinations(best, 2))
        found.append(best)
        left.remove(best)
    return found


def go_on(folders: Sequence[str]) -> None:
    """Resume the runs in these folders to their end."""
    for folder in folders:
        resume(Path(folder), Progress(StringIO()), steps=STEPS)


def resumes(count: int, place: Path, seed: int = 0) -> Count:
    """Return how so many runs that were stopped, and resumed by another process, ended beside straight ones.

    Compared are all that the checkpoint holds, the lines of the metrics but for their speed and for the loss where the
    run was stopped, and the last pictures.

    Args:
        count: how many.
        place: an empty folder.
        seed: of the choice among the cases.
    """
    found = Count("runs stopped and resumed beside straight ones")
    chosen = cases(count, seed)
    write_data(place)
    pairs = [(place / f"{i}-straight", place / f"{i}-stopped") for i in range(len(chosen))]
    for case, (straight, stopped) in zip(chosen, pairs, strict=True):
        config = configuration(case, place)
        for folder, steps in ((straight, STEPS), (stopped, STOP)):
            shortened = config.updated({"training": {"steps": steps}})
            start(shortened, load_backend(config.backend), folder, Progress(StringIO()))
    line = [sys.executable, SCRIPT, "--go-on", *(str(stopped) for _, stopped in pairs)]
    subprocess.run(line, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    for case, (straight, stopped) in zip(chosen, pairs, strict=True):
        one, other = (_left_by(folder) for folder in (straight, stopped))
        found.add(", ".join(case), SAME, ", ".join(f"another {what}" for what in one if one[what] != other[what]))
    return found


def _left_by(folder: Path) -> dict[str, Any]:
    """Return what a run has left behind, by name."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    due = [line for line in lines if "loss" not in line or line["step"] != STOP]
    logged = [{key: value for key, value in line.items() if key != "samples_per_second"} for line in due]
    pictures = {path.name: path.read_bytes() for path in (*folder.glob("*.png"), *folder.glob("*.gif"))}
    checkpoint = load_checkpoint(folder / "checkpoint.h5", layout_of(load_backend("numpy")))
    return {"checkpoint": digest(checkpoint), "metrics": logged, **pictures}
