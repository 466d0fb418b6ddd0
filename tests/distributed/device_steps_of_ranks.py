"""Training steps on the stand-in for a GPU, by one process or by several ranks. Run by test_device_step.py.

Each rank writes what it finds, by the names of the cases, to FOLDER/RANK.pickle.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import cupy_stand_in, nccl_stand_in
from helpers.runs import PICTURES, PLANE, config, data_of
from tinyddpm.data.base import Dataset
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.distributed.join import join
from tinyddpm.distributed.launch import launched
from tinyddpm.distributed.ranks import Ranks
from tinyddpm.training import feed, pieces
from tinyddpm.training.assembly import make_trainer

STEPS, POINTS = 3, config(PLANE, batch_size=7)


@dataclass(frozen=True)
class Case:
    """How steps are done: by which network, on what, and in which way."""

    kind: str = "nccl"
    shard: bool = False
    sums: str = "fp32"
    accumulate: int = 1
    whole: bool = True
    graph: bool = True
    pictures: bool = False
    precision: str = "fp32"
    cut: bool = False


CASES = [
    *(Case(*case) for case in product(("nccl", "mpi"), (False, True), ("fp32", "bf16"), (1, 3), (True, False))),
    *(Case(kind, shard, graph=False) for kind, shard in product(("nccl", "mpi"), (False, True))),
    *(Case(kind, pictures=True, precision=p) for kind, p in product(("nccl", "mpi"), ("fp32", "bf16"))),
    *(Case(sums=sums, accumulate=parts, cut=True) for sums, parts in product(("fp32", "bf16"), (1, 3))),
]


@dataclass
class Found:
    """What a rank has found: of each step, the loss and the norm; and what it came to, and how.

    Attributes:
        state: the weights, their average, Adam's moments and further averages, whole.
        graphs: how many launches each graph has, and how many graphs a step launches, at the last.
        sums: what of NCCL's was launched.
        read: the places that were read, of one batch after the other, where these come so.
        samples: how many there are to learn from.
    """

    losses: list[float]
    norms: list[float]
    state: list[np.ndarray[Any, Any]]
    graphs: tuple[int, int]
    sums: list[str]
    read: list[list[int]]
    samples: int


class Counted:
    """A data set that notes what is read of it."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.places = dataset, list[list[int]]()

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.places.append(places.tolist())
        return self.dataset.read(places)


def find(case: Case, group: Group) -> Found:
    """Return what a case's steps come to."""
    training = {"shard": case.shard, "sums": case.sums, "accumulate": case.accumulate}
    settings = PICTURES if case.pictures else POINTS
    feed.SHARE = 0.25 if case.whole else 0.0
    pieces.LEAST = 60 if case.cut else 10**7
    cupy_stand_in.ASKED.clear()
    nccl_stand_in.LAUNCHED.clear()
    backend = group.load_backend("cupy", None, case.precision, case.graph)
    trainer = make_trainer(config(settings, **training), backend, data_of(settings), group=group)
    moved: Any = trainer.advance.feed  # type: ignore[union-attr]
    counted = Counted(trainer.train)
    if not case.whole:
        moved._train = counted
    done = [trainer.train_step() for _ in range(STEPS)]
    asked = cupy_stand_in.ASKED
    graphs = [one for one in asked if one.startswith("record")]
    replays = [one for one in asked if one.startswith("launch")]
    sums = list(nccl_stand_in.LAUNCHED)
    if not case.whole:
        moved._reader.shutdown()
    kept = trainer.checkpoint({})
    assert kept.adam_m is not None
    assert kept.adam_v is not None
    return Found(
        [one.loss for one in done],
        [one.gradient_norm for one in done],
        [np.array(vector) for vector in (kept.weights, kept.ema, kept.adam_m, kept.adam_v, *kept.averages.values())],
        (len(graphs), len(replays) // (STEPS - 1)),
        sums,
        counted.places,
        len(trainer.train),
    )


def alone() -> Iterator[tuple[Case, Found]]:
    """Yield what one process finds, of cases that are the same to it but once."""
    for accumulate, pictures, precision in [
        (1, False, "fp32"),
        (3, False, "fp32"),
        (1, True, "fp32"),
        (1, True, "bf16"),
    ]:
        case = Case("none", accumulate=accumulate, pictures=pictures, precision=precision)
        yield case, find(case, ALONE)


def run(folder: Path) -> None:
    cupy_stand_in.install(monkeypatch := pytest.MonkeyPatch())
    nccl_stand_in.install(monkeypatch)
    groups = {kind: join(kind, launched()) for kind in ("nccl", "mpi")}
    found = {case: find(case, groups[case.kind]) for case in CASES}
    (folder / f"{groups['mpi'].rank}.pickle").write_bytes(pickle.dumps(found))
    for group in groups.values():
        assert isinstance(group, Ranks)
        assert group._watch is not None
        group._watch.leave()
    groups["mpi"].leave()


if __name__ == "__main__":
    from distributed import device_steps_of_ranks  # so that what is pickled is of the module's name

    device_steps_of_ranks.run(Path(sys.argv[1]))
