"""What must come out the same again: the same command twice, and samples drawn in batches of other sizes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from accidents import Count, command
from accidents.damage import digest
from accidents.resumed import configuration, write_data
from accidents.surroundings import COMMANDS
from tinyddpm import registry
from tinyddpm.backend import load_backend
from tinyddpm.conditions import Wish, in_turn
from tinyddpm.model.checkpoint import load_checkpoint
from tinyddpm.model.load import layout_of, load_model
from tinyddpm.model.sampling import draw
from tinyddpm.progress import Progress
from tinyddpm.training.run import start

SAME, EQUAL, ROUNDED = "with the same bytes", "with equal pixels", "with one pixel of a thousand, at most, a level off"
"""A product of matrices may round otherwise where there are more rows."""

SUFFIXES = {".png", ".gif", ".npz", ".svg"}
NUMBER = 24
BATCHES = (1, 2, 3, 5, 8, 13)
"""Sizes beside that of all samples at once."""


def repeated(place: Path, backends: Sequence[str], commands: Sequence[str] = tuple(COMMANDS)) -> Count:
    """Return whether the files that commands draw, and the arrays of checkpoints, are the same when all is done twice.

    Each time in a folder and processes of its own, with other hashes of Python's.

    Args:
        place: an empty folder.
        backends: what runs are trained by.
        commands: those of `COMMANDS` that are given.
    """
    found = Count("files of commands that are given twice")
    for backend in backends:
        left = []
        for hashes in ("1", "2"):
            here = place / f"{backend}-{hashes}"
            here.mkdir()
            write_data(here)
            before = set(here.rglob("*"))
            env = {**os.environ, "PYTHONHASHSEED": hashes}
            for name in commands:
                more = ["--backend", backend] if name == "train" else []
                ended = command(*COMMANDS[name].split(), *more, cwd=here, env=env)
                if ended.code:
                    found.add(f"{backend}: {name}", "", ended.last_words)
            drawn = {path for path in here.rglob("*") if path.suffix in SUFFIXES} - before
            files = {str(path.relative_to(here)): path.read_bytes() for path in drawn}
            checkpoint = load_checkpoint(here / "run" / "checkpoint.h5", layout_of(load_backend("numpy")))
            left.append({**files, "arrays of the checkpoint": digest(checkpoint)})
        for name in sorted({*left[0], *left[1]}):
            same = left[0].get(name) == left[1].get(name)
            found.add(f"{backend}: {name}", SAME, "" if same else "other bytes")
    return found


def batches(place: Path, backends: Sequence[str], sizes: Sequence[int] = BATCHES) -> Count:
    """Return whether samples of every sampler have the same pixels in batches of these sizes.

    Args:
        place: an empty folder.
        backends: what trains and draws.
        sizes: of batches.
    """
    found = Count(f"{NUMBER} pictures by each sampler in batches of {', '.join(map(str, sizes))} and all at once")
    write_data(place)
    for backend in backends:
        there = load_backend(backend)
        config = configuration((backend, "2 threads", "whole batches", "simple", "uniform", "idx by label"), place)
        config = config.updated({"schedule": {"timesteps": 50}, "training": {"steps": 20}})
        start(config, there, place / backend, Progress(StringIO()))
        model, weights, _ = load_model(place / backend, there, threads=2)
        numbers = np.arange(NUMBER)
        asked = in_turn(model.condition.asked(Wish()), numbers)
        for sampler in (entry.name for entry in registry.entries("samplers")):
            sampling = config.updated({"sampling": {"name": sampler, "steps": 10}}).sampling
            options = {"seed": 1, "sampling": sampling}
            whole = draw(model, weights, numbers, asked, batch_size=NUMBER, **options).values.astype(int)
            for size in sizes:
                apart = draw(model, weights, numbers, asked, batch_size=size, **options).values
                off = np.abs(apart - whole)
                others = f"{(off > 0).sum()} of {off.size} pixels are others, by at most {off.max()}"
                rounded = off.max() <= 1 and (off > 0).mean() <= 0.001
                found.add(f"{backend}, {sampler}, {size}", ROUNDED if off.any() else EQUAL, "" if rounded else others)
    return found
