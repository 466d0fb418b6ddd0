"""Steps of a training by several ranks on NVIDIA GPUs. Run by test_ranks_on_gpus.py.

python -m gpu.ranks_on_a_gpu KIND DEVICE FOLDER: each rank writes its losses, and then its weights, to FOLDER/RANK.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from helpers.runs import WIDE, config
from tinyddpm.cli.ranks import ranks
from tinyddpm.data import open_dataset
from tinyddpm.distributed.group import Group
from tinyddpm.training.assembly import make_trainer
from tinyddpm.training.trainer import Trainer

STEPS = 20


def trainer(group: Group, device: str, graph: bool = True, **training: Any) -> Trainer:
    backend = group.load_backend("cupy", device, graph=graph)
    return make_trainer(config(WIDE, batch_size=63, **training), backend, open_dataset("digits"), group=group)


def losses(of: Trainer) -> list[float]:
    return [of.train_step().loss for _ in range(STEPS)]


if __name__ == "__main__":
    kind, device, folder = sys.argv[1:]
    with ranks(kind) as group:
        ours = trainer(group, device)
        found = losses(ours)
        np.savez(Path(folder) / f"{group.rank}.npz", losses=found, weights=ours.model.backend.to_numpy(ours.weights))
