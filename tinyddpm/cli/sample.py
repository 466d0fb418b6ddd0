"""`tinyddpm sample`."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyddpm.cli.completion import OF_SETTINGS, FilePath, RunPath
from tinyddpm.cli.options import argument, option
from tinyddpm.cli.output import say
from tinyddpm.cli.ranks import SharedCommand, shared
from tinyddpm.cli.trained import Chosen, keeping, machine_options, new_folder, open_model, refuse_full, wished_in_turn
from tinyddpm.errors import ConfigError

if TYPE_CHECKING:
    from tinyddpm.distributed.group import Group
    from tinyddpm.kept import KeptRows

LAST = 2**32 - 1
"""Largest number of a sample: the counter of the random numbers has 32 bits for it."""

LONG = 60
"""Seconds of remaining time from which the command prints, after the first batch, how long the rest will take."""

SAMPLES = "samples"
"""Name of the folder that is written to if none is given."""

KEPT = "kept"
"""Name of the folder, below that of the samples, that keeps finished samples until all are drawn."""


@click.command(cls=SharedCommand)
@argument("checkpoint", "A checkpoint, or a run folder.", type=RunPath())
@option("--out", type=FilePath(), help="Folder to write to; samples if not given.", group="Output")
@option("--singles", is_flag=True, help="Write every image as a PNG of its own.", group="Output")
@option("--npz", is_flag=True, help="Write all samples into one .npz file: uint8 images, or points.", group="Output")
@option("--gif", is_flag=True, help="Write the denoising as an animated GIF.", group="Output")
@option("--film-strip", is_flag=True, help="Write the denoising of a few images as one picture.", group="Output")
@option("--resume", is_flag=True, help="Continue a stopped command in its folder --out.", group="Output", env=False)
@option(
    "--count",
    "number",
    type=click.IntRange(1, LAST),
    default=64,
    show_default=True,
    help="Number of samples.",
    group="Samples",
)
@option(
    "--first",
    type=click.IntRange(0, LAST),
    default=0,
    show_default=True,
    help="Number of the first sample.",
    group="Samples",
)
@option(
    "--labels",
    "classes",
    help="Classes to draw, by name or number, separated by commas, names with commas in double quotes; all in turn if"
    " not given.",
    group="Samples",
    env=False,
)
@option(
    "--prompt",
    "prompts",
    multiple=True,
    help="A caption to draw, for a model trained with captions; several are drawn in turn.",
    group="Samples",
)
@option(
    "--prompts",
    "prompts_file",
    type=FilePath(),
    help="A text file of captions, a line each.",
    group="Samples",
)
@option(
    "--embeddings",
    type=FilePath(),
    help="A file of tokens, .npz or HDF5, for a model trained with tokens of the same encoder.",
    group="Samples",
)
@option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the noise.", group="Samples")
@option(
    "--batch-size",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Samples computed at once: changes memory, and the rounding of sums.",
    group="Samples",
)
@option(
    "--sampler",
    type=OF_SETTINGS["sampler"],
    help="The sampler, a registered name; the run's own if not given.",
    group="Sampling",
)
@option(
    "--steps",
    "--sample-steps",
    "sample_steps",
    type=click.IntRange(0),
    help="Sampling steps; 0 for one per step of the chain.",
    group="Sampling",
)
@option(
    "--spacing",
    type=OF_SETTINGS["spacing"],
    help="How the steps are spaced over the chain's times, a registered name.",
    group="Sampling",
)
@option(
    "--threshold",
    type=OF_SETTINGS["threshold"],
    help="How predicted images are kept in range: static (clipping), dynamic or none.",
    group="Sampling",
)
@option(
    "--percentile",
    type=float,
    help="Share of pixels that the dynamic threshold does not clip.",
    group="Sampling",
)
@option(
    "--sampler-option",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the sampler.",
    group="Sampling",
)
@option(
    "--spacing-option",
    "spacing_assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the spacing, such as rho=5 for karras.",
    group="Sampling",
)
@option(
    "--guidance",
    "scale",
    type=float,
    help="Guidance scale: 1 is no guidance; more moves predictions further from those without the condition.",
    group="Sampling",
)
@option(
    "--guide",
    type=OF_SETTINGS["guide"],
    help="The guidance: cfg, auto or another registered name; cfg if only a scale is given.",
    group="Sampling",
)
@option(
    "--guide-option",
    "guide_assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the guidance, such as weak=OTHER_RUN for auto.",
    group="Sampling",
)
@option("--raw", is_flag=True, help="Use the weights as trained, not their average.", group="Sampling")
@machine_options
@shared
def sample(
    checkpoint: Path,
    out: Path | None,
    singles: bool,
    npz: bool,
    gif: bool,
    film_strip: bool,
    resume: bool,
    number: int,
    first: int,
    seed: int,
    batch_size: int,
    raw: bool,
    group: Group,
    **given: Any,
) -> None:
    """Draw samples from CHECKPOINT, and write them as a grid.

    Sample number i depends on --seed, and not on batch size or count.
    """
    import numpy as np

    from tinyddpm.figures.marks import checkpoint_of, mark_of, samples_of
    from tinyddpm.figures.samples import check_written, write
    from tinyddpm.kept import KeptRows
    from tinyddpm.model.sampling import draw
    from tinyddpm.progress import duration
    from tinyddpm.training.interrupt import Stoppable

    chosen = Chosen.taken(given)
    model, weights, loaded = open_model(checkpoint, raw, group=group, **given)
    files = {"singles": singles, "npz": npz, "gif": gif, "strip": film_strip}
    check_written(model.sample_shape, **files)
    sampling, guidance = chosen.sampling(model.config), chosen.guidance(model.config)
    numbers = np.arange(first, first + number)
    asked = wished_in_turn(model, chosen.wish(model), numbers)
    mark = mark_of(
        model,
        "tinyddpm sample",
        checkpoint_of(checkpoint, loaded, raw),
        seed=seed,
        sampling=sampling,
        guidance=guidance,
        samples=samples_of(model, asked, numbers),
        embeddings=chosen.embeddings,
    )

    folder = out or (new_folder(SAMPLES) if group.first else Path(SAMPLES))
    kept = KeptRows(folder / KEPT, {**mark, "samples": []})
    if group.first:
        _check(folder, kept, resume)
    progress, began = Stoppable(group), time.monotonic()
    steps = len(model.pairs(sampling))

    def watch(done: int, total: int) -> None:
        left = (time.monotonic() - began) * (total / steps - 1)
        if done == steps and left >= LONG:
            progress.say(f"drawing {number} samples will take about {duration(left)}")
        progress.update(done, total, f"drawing {number} samples")

    def said() -> str:
        go_on = f": go on with --resume --out {folder}" if len(kept) else ""
        return f"{len(kept)} of {number} samples are kept{go_on}"

    with keeping(progress, said):
        samples = draw(
            model,
            weights,
            numbers,
            asked,
            seed=seed,
            sampling=sampling,
            guidance=guidance,
            batch_size=batch_size,
            frames=gif or film_strip,
            watch=watch,
            kept=kept,
            group=group,
        )
        progress.close()
        if not group.first:
            return
        for path in write(samples, folder, mark, first=first, **files):
            say(f"wrote {path}")
    shutil.rmtree(folder / KEPT)


def drawing_params(*names: str) -> list[click.Parameter]:
    """Return the options with these names, those on how samples are drawn, and those of the machine."""
    return [
        given
        for given in sample.params
        if given.name in names or getattr(given, "group", "") in ("Sampling", "General")
    ]


def _check(folder: Path, kept: KeptRows, resume: bool) -> None:
    """Check that a folder holds the stopped samples of this command with `resume`, and nothing without.

    Raises:
        ConfigError: it does not.
    """
    if resume and not (folder / KEPT).is_dir():
        raise ConfigError(f"{folder} holds no stopped samples: leave --resume out, or give their folder with --out")
    if resume and not len(kept):
        raise ConfigError(f"{folder} holds samples of another command: give the same options again, with --resume")
    if not resume and (folder / KEPT).is_dir():
        raise ConfigError(f"{folder} holds stopped samples: go on with --resume, or choose another --out")
    if not resume:
        refuse_full(folder)
