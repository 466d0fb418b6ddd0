"""Judge how well prompts are obeyed, on emoji: gestures and people in skin tones that were never seen together.

tinyddpm train --preset emoji --backend numba --out runs/emoji
python examples/judge_prompts.py runs/emoji --guidance 1,2,4,8 --out prompts.png

The drawn picture is compared, in pixels, with all real emoji of the gesture that was asked for, in every tone, and with
all of the tone, in every gesture. The tone is right where the nearest of the first is of it, the gesture where the
nearest of the second is. Prompts that the run was trained on are judged beside as many that were held out, and both
beside chance. Several runs, such as one with network.text=concat, come beside each other in the picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

import tinyddpm
from tinyddpm.data import open_dataset
from tinyddpm.data.emoji import Pair, pair
from tinyddpm.figures.images import captioned, save_png

Rows = NDArray[np.float64]

SHOWN = 8
"""Held-out prompts in the picture."""


class Real(NamedTuple):
    """Real emoji of one gesture, or person, in one skin tone: n of them.

    Attributes:
        captions: their names.
        images: uint8 (n, H, W, 3).
        pairs: what each name is composed of.
    """

    captions: list[str]
    images: NDArray[np.uint8]
    pairs: list[Pair]


class Verdict(NamedTuple):
    """Which of n drawn pictures are right, (n,) each, and how many would be by chance."""

    tone: NDArray[np.bool_]
    gesture: NDArray[np.bool_]
    chance: tuple[float, float]

    def __str__(self) -> str:
        both = self.tone & self.gesture
        return "  ".join(f"{100 * share.mean():6.1f}" for share in (self.tone, self.gesture, both))


def real_emoji(split: str, size: tuple[int, int]) -> Real:
    """Return the emoji of a split that are of one gesture in one tone."""
    dataset = open_dataset("emoji", split=split, image_size=size)
    captions = [str(caption) for caption in dataset.columns["text"]]
    chosen = [(i, found) for i, caption in enumerate(captions) if (found := pair(caption))]
    places = np.asarray([i for i, _ in chosen])
    return Real([captions[i] for i in places], dataset.read(places), [found for _, found in chosen])


def judged(drawn: NDArray[np.uint8], wanted: list[Pair], real: Real) -> Verdict:
    """Return the verdict on drawn pictures (n, H, W, 3), each wanted to be of a pair that is among the real ones.

    Where two real pictures are equal, each is taken for the other.
    """
    ours, theirs = (images.reshape(len(images), -1).astype(float) for images in (drawn, real.images))
    distances = squared_distances(ours, theirs)
    gestures, tones = (np.asarray(names) for names in zip(*real.pairs, strict=True))
    place = {found: i for i, found in enumerate(real.pairs)}
    right, chance = [], []
    for row, want in zip(distances, wanted, strict=True):
        own = row[place[want]]
        rivals = [row[gestures == want.gesture], row[tones == want.tone]]
        right.append([own <= rival.min() for rival in rivals])
        chance.append([1 / len(rival) for rival in rivals])
    tone, gesture = np.asarray(right).T
    by_tone, by_gesture = np.mean(chance, axis=0)
    return Verdict(tone, gesture, (by_tone, by_gesture))


def squared_distances(a: Rows, b: Rows) -> Rows:
    """Return those from each row of a to each of b."""
    distances: Rows = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    return distances


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--guidance", default="1,2,3,4,6,8", show_default=True, help="Scales, separated by commas.")
@click.option("--count", default=0, help="Prompts of either kind; all that were held out if not given.")
@click.option("--backend", default="numba", show_default=True, help="Where to compute.")
@click.option("--threads", default=0, help="Threads; 0 for the cores there are.")
@click.option("--out", type=click.Path(path_type=Path), help="A picture of the first held-out prompts.")
def main(runs: tuple[Path, ...], guidance: str, count: int, backend: str, threads: int, out: Path | None) -> None:
    models = {run: tinyddpm.load(run, backend=backend, threads=threads) for run in runs}
    height, width, _ = next(iter(models.values())).sample_shape
    unseen, seen = (real_emoji(split, (height, width)) for split in ("composed", "train"))
    images = np.concatenate([unseen.images, seen.images])
    real = Real(unseen.captions + seen.captions, images, unseen.pairs + seen.pairs)
    n = min(count or len(unseen.captions), len(unseen.captions))
    chosen = {
        "held out": [unseen.captions[i] for i in spread(len(unseen.captions), n)],
        "trained on": [seen.captions[i] for i in spread(len(seen.captions), n)],
    }
    shown: list[NDArray[np.uint8]] = []
    click.echo(f"{n} prompts each, in percent      tone  gesture    both")
    for run, model in models.items():
        for scale in map(float, guidance.split(",")):
            for kind, captions in chosen.items():
                drawn = model.sample(n, prompts=captions, guidance=scale, progress=True)
                verdict = judged(drawn, [want for caption in captions if (want := pair(caption))], real)
                click.echo(f"{run.name:>10}, guidance {scale:g}, {kind:<10}: {verdict}")
                if kind == "held out":
                    shown.append(drawn[:SHOWN])
    tone, gesture = verdict.chance
    click.echo(f"{'by chance':>34}: {100 * tone:6.1f}  {100 * gesture:6.1f}  {100 * tone * gesture:6.1f}")
    if out:
        captions = chosen["held out"][:SHOWN]
        first = np.stack([unseen.images[unseen.captions.index(caption)] for caption in captions])
        save_png(out, captioned(np.concatenate([first, *shown]), captions * (1 + len(shown))))


def spread(n: int, k: int) -> NDArray[np.int64]:
    """Return k numbers below n, evenly spread."""
    return np.arange(k) * n // k


if __name__ == "__main__":
    main()
