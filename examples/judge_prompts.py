"""Judge how well prompts are obeyed, on emoji: pairs of a gesture or person and a skin tone that were held out.

tinyddpm train --preset emoji --backend numba --out runs/emoji
python examples/judge_prompts.py runs/emoji --guidance 1,2,4,8 --out prompts.png

The drawn image is compared, in pixels, with the real emoji of the wanted gesture in every tone: the tone is right if
the nearest of them has it. It is also compared with those of the wanted tone in every gesture: the gesture is right if
the nearest of them has it. Held-out prompts are judged, as many prompts of the training, and chance. The picture shows
several runs, such as one with network.text=concat, one below the other.
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
"""Number of held-out prompts in the picture."""


class Real(NamedTuple):
    """n real emoji, each of one gesture or person in one skin tone.

    Attributes:
        captions: their names.
        images: uint8 (n, H, W, 3).
        pairs: gesture and tone of each.
    """

    captions: list[str]
    images: NDArray[np.uint8]
    pairs: list[Pair]


class Verdict(NamedTuple):
    """Which of n drawn images have the right tone and the right gesture, (n,) each, and the shares right by chance."""

    tone: NDArray[np.bool_]
    gesture: NDArray[np.bool_]
    chance: tuple[float, float]

    def __str__(self) -> str:
        both = self.tone & self.gesture
        return "  ".join(f"{100 * share.mean():6.1f}" for share in (self.tone, self.gesture, both))


def real_emoji(split: str, size: tuple[int, int]) -> Real:
    """Return the emoji of a split that show one gesture or person in one tone."""
    dataset = open_dataset("emoji", split=split, image_size=size)
    captions = [str(caption) for caption in dataset.columns["text"]]
    chosen = [(i, found) for i, caption in enumerate(captions) if (found := pair(caption))]
    places = np.asarray([i for i, _ in chosen])
    return Real([captions[i] for i in places], dataset.read(places), [found for _, found in chosen])


def judged(drawn: NDArray[np.uint8], wanted: list[Pair], real: Real) -> Verdict:
    """Return the verdict on drawn images (n, H, W, 3), given the wanted pair of each, which is among the real ones.

    If two real images are equal, either of them counts as right.
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
    """Return the squared distance of each row of a to each row of b, (len(a), len(b))."""
    distances: Rows = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    return distances


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--guidance", default="1,2,3,4,6,8", show_default=True, help="Scales, separated by commas.")
@click.option("--count", default=0, help="Number of prompts of either kind; that of all held-out ones if not given.")
@click.option("--sampler", help="The sampler; the run's own if not given.")
@click.option("--steps", type=int, help="Sampling steps; the run's own number if not given.")
@click.option("--backend", default="numba", show_default=True, help="Where to compute.")
@click.option("--threads", default=0, help="Number of threads; 0 for one per core.")
@click.option("--out", type=click.Path(path_type=Path), help="File for a picture of the first held-out prompts.")
def main(
    runs: tuple[Path, ...],
    guidance: str,
    count: int,
    sampler: str | None,
    steps: int | None,
    backend: str,
    threads: int,
    out: Path | None,
) -> None:
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
                drawn = model.sample(n, prompts=captions, guidance=scale, sampler=sampler, steps=steps, progress=True)
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
    """Return k indices below n, evenly spread."""
    return np.arange(k) * n // k


if __name__ == "__main__":
    main()
