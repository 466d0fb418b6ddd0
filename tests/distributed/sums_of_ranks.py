"""What each of several ranks sums, gathers and is told, written to FOLDER/RANK.npz. Run by test_sums.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tinyddpm.backend import Backend, load_backend
from tinyddpm.distributed.join import join
from tinyddpm.distributed.launch import launched
from tinyddpm.distributed.ranks import Ranks

SIZES = (1, 2, 7, 1000)


class Apart(Backend):
    """A backend whose arrays the host does not see, but by a copy."""

    def __init__(self) -> None:
        super().__init__(load_backend("numpy").xp)

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        return np.array(array)

    def upload(self, array: Any, values: np.ndarray[Any, Any]) -> None:
        assert not np.may_share_memory(array, values)
        array[...] = values


BACKENDS: dict[str, Backend | None] = {"none": None, "numpy": load_backend("numpy"), "apart": Apart()}


def numbers(rank: int, n: int) -> np.ndarray[Any, Any]:
    """Return what a rank adds, of all magnitudes."""
    rng = np.random.default_rng((rank, n))
    return (rng.normal(size=n) * 10.0 ** rng.integers(-6, 7, n)).astype(np.float32)


def word(rank: int) -> dict[str, Any]:
    """Return an object of a size of its own."""
    return {"rank": rank, "text": "é" * rank, "array": np.arange(rank * 1000)}


def run(folder: Path) -> None:
    group = join("auto", launched())
    assert isinstance(group, Ranks)
    found: dict[str, Any] = {}
    for name, backend in BACKENDS.items():
        group._backend = backend
        for n in SIZES:
            mine = group.parts(n)[group.rank]
            for sums in ("fp32", "bf16"):
                flat = numbers(group.rank, n)
                group.sum_(flat, sums)
                found[f"sum {name} {n} {sums}"] = flat
                flat = numbers(group.rank, n)
                group.sum_part(flat, sums)
                found[f"part {name} {n} {sums}"] = flat[mine].copy()
            flat = np.full(n, np.nan, np.float32)
            flat[mine] = numbers(group.rank, n)[mine]
            group.gather_parts(flat)
            found[f"gathered {name} {n}"] = flat
    gathered = group.gather(word(group.rank))
    for rank, one in enumerate(gathered):
        np.testing.assert_array_equal(one["array"], word(rank)["array"])
    found["texts"] = [one["text"] for one in gathered]
    found["told"] = [group.broadcast(word(group.rank + 5))["text"], str(group.broadcast(None))]
    found["most"] = [group.most(value) for value in (group.rank, -group.rank - 3, 2**62 - group.rank)]
    found["total"] = [group.total(value) for value in (0.1 * (group.rank + 1), 1e17 if group.rank == 1 else 1.0)]
    group.barrier()
    np.savez(folder / f"{group.rank}.npz", **found)
    group.leave()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
