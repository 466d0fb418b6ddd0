"""Count what accidents and attacks do to the library.

python tests/count_accidents.py --mutations 2000 --kills 200 --resumes 1000

Each line says what was tried, how often, how that ended as it should, and what ended otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from accidents import Count, damage, hostile, ranks, repeated, resumed, surroundings


def attacked(count: int, place: Path, seed: int) -> Count:
    """Count files that attack."""
    return hostile.hostile(place)


def surrounded(count: int, place: Path, seed: int) -> Count:
    """Count commands in all surroundings."""
    return surroundings.surroundings(place)


def twice(count: int, place: Path, seed: int) -> Count:
    """Count files that are drawn by commands given twice."""
    return repeated.repeated(place, resumed.AXES["backend"][:count])


def batched(count: int, place: Path, seed: int) -> Count:
    """Count samples drawn in batches of several sizes."""
    return repeated.batches(place, resumed.AXES["backend"][:count])


COUNTS: dict[str, tuple[int, str, Callable[[int, Path, int], Count]]] = {
    "mutations": (100, "damaged checkpoints", lambda n, place, seed: damage.mutations(n, seed)),
    "kills": (5, "kills", lambda n, place, seed: damage.kills(n, seed)),
    "ranks": (4, "ranks that something befalls", ranks.lost_ranks),
    "resumes": (20, "runs that stop and go on", resumed.resumes),
    "repeats": (1, "backends by which all is done twice", twice),
    "batches": (1, "backends by which batches of all sizes are drawn", batched),
    "attacks": (1, "1 for files that attack, 0 to leave them out", attacked),
    "surroundings": (1, "1 for commands elsewhere, 0 to leave them out", surrounded),
}
"""What is counted: how often where nothing is said, its help, and how."""


def main() -> None:
    """Count, and print a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (number, text, _) in COUNTS.items():
        parser.add_argument(f"--{name}", type=int, default=number, metavar="N", help=f"{text} (default {number})")
    parser.add_argument("--seed", type=int, default=0, help="of all accidents and choices")
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--go-on", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.read:
        damage.read_all(Path(chosen.read[0]), *map(int, chosen.read[1:]))
    elif chosen.go_on:
        resumed.go_on(chosen.go_on)
    else:
        for name, (_, _, tried) in COUNTS.items():
            with tempfile.TemporaryDirectory() as place:
                if number := getattr(chosen, name):
                    print(tried(number, Path(place), chosen.seed), flush=True)


if __name__ == "__main__":
    main()
