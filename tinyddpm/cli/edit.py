"""`tinyddpm edit`: interpolate, from, inpaint, enlarge."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyddpm.cli.completion import FilePath, RunPath
from tinyddpm.cli.options import GroupedCommand, GroupedOption, argument, option
from tinyddpm.cli.sample import drawing_params
from tinyddpm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tinyddpm.cli.editor import Editor, Numbers
    from tinyddpm.samplers import Step

IMAGES = """IMAGE is a file, or an image of a data set as DATA:NUMBER, such as digits:12. DATA is anything that `train
--data` takes; the image's class or caption is then known too."""

SMALL = """IMAGE is a file, an image of a data set as DATA:NUMBER, or a whole data set, such as samples.npz. It must
have the size that the model enlarges, unless --fit resizes it."""


@click.group(epilog=IMAGES)
def edit() -> None:
    """Edit images: interpolate between two, redraw, inpaint, enlarge."""


@edit.command(cls=GroupedCommand, epilog=IMAGES, short_help="Interpolate between two images, prompts or classes.")
@argument("checkpoint", "A checkpoint, or a run folder.", type=RunPath())
@argument("images", "The two images; none for two prompts or classes.", metavar="[IMAGE IMAGE]", nargs=-1)
@option("--count", "number", type=click.IntRange(2), default=9, show_default=True, help="Images in all.", group="Edit")
@option(
    "--strength",
    type=float,
    help="Noise both images over this share of the chain, mix and denoise them, as DDPM does. If not given, DDIM"
    " encodes each image as noise, and decodes the noise between them.",
    group="Edit",
)
def interpolate(images: tuple[str, ...], number: int, strength: float | None, **given: Any) -> None:
    """Interpolate between two images with the model in CHECKPOINT, a file or a run folder.

    The picture starts with the first image as it was given, and ends with the second. If they differ in class or
    caption, the predictions for both are mixed.

    Without images, interpolate between two --prompt, or between the two classes of --labels. All images are then drawn
    from one noise, that of the first sample of `tinyddpm sample` with the same --seed.
    """
    from tinyddpm.cli.editor import Editor

    if len(images) not in (0, 2):
        raise ConfigError(f"interpolate takes two images, not {len(images)}: give two, or none and two prompts")
    if not images and strength is not None:
        raise ConfigError("--strength is for two images: give them, or leave it out")
    if images and strength is None:
        if given["sampler"] or given["assignments"]:
            raise ConfigError("without --strength the sampler is DDIM: leave out --sampler and --sampler-option")
        given |= {"sampler": "ddim", "assignments": ("eta=0",)}
    editor = Editor(**given)
    if images:
        _between_images(editor, images, number, strength)
    else:
        _between_wishes(editor, number)


def _between_images(editor: Editor, images: tuple[str, ...], number: int, strength: float | None) -> None:
    import numpy as np

    from tinyddpm.editing import ddim_interpolation, pairs_from, stochastic_interpolation
    from tinyddpm.guidance import Blend

    pictures = [editor.read(image) for image in images]
    asked = editor.asked(pictures)
    ends = editor.to_model(pictures[:1]), editor.to_model(pictures[1:])
    share = np.linspace(0, 1, number, dtype=np.float32)

    def edited(rows: Numbers) -> Iterator[Step]:
        """Yield the steps of the images with these numbers, from the first image to the second."""
        lam = editor.backend.asarray(share[rows])
        first, second = editor.both(asked, len(rows))
        between = editor.thresholded(Blend(first, second, lam))
        if strength is None:
            own = editor.thresholded(first), editor.thresholded(second)
            return ddim_interpolation(editor.process, own, between, ends, lam, editor.pairs)
        x = editor.start(np.asarray([0])), editor.start(np.asarray([1]))
        noise = editor.noise(np.zeros_like(rows))  # the same for all, so that only λ tells them apart
        noised = partial(stochastic_interpolation, ends=ends, lam=lam, strength=strength, sampler=editor.sampler)
        return noised(editor.process, between, x, editor.pairs, noise)

    steps = 3 * len(editor.pairs) if strength is None else len(pairs_from(editor.pairs, strength, editor.process.T))
    results = editor.run(number, edited, steps)
    shown = [pictures[0].pixels, *results, pictures[1].pixels]
    told = {"strength": strength, "ends": editor.said(pictures, asked)}
    editor.write(results, shown, number + 2, "interpolate", _shares(number), **told)


def _between_wishes(editor: Editor, number: int) -> None:
    import numpy as np

    from tinyddpm.editing import conditional_interpolation
    from tinyddpm.figures.marks import said_of
    from tinyddpm.guidance import Blend

    asked = editor.two_wishes()
    share = np.linspace(0, 1, number, dtype=np.float32)

    def edited(rows: Numbers) -> Iterator[Step]:
        between = editor.thresholded(Blend(*editor.both(asked, len(rows)), editor.backend.asarray(share[rows])))
        x, noise = editor.start(np.asarray([0])), editor.noise(np.asarray([0]))
        drawn = partial(conditional_interpolation, n=len(rows), sampler=editor.sampler)
        return drawn(editor.process, between, x, editor.pairs, noise)

    results = editor.run(number, edited, len(editor.pairs))
    editor.write(results, [*results], number, "interpolate", _shares(number), ends=said_of(editor.model, asked, 2))


def _shares(number: int) -> list[dict[str, Any]]:
    """Return an entry for the mark of each of `number` images: its number, and its share of the second end."""
    return [{"number": i, "share": i / (number - 1)} for i in range(number)]


@edit.command("from", cls=GroupedCommand, epilog=IMAGES, short_help="Redraw images from noised copies (SDEdit).")
@argument("checkpoint", "A checkpoint, or a run folder.", type=RunPath())
@argument("images", "A file, or DATA:NUMBER such as digits:12.", metavar="IMAGE...", nargs=-1, required=True)
@option(
    "--strength",
    type=float,
    default=0.5,
    show_default=True,
    help="Share of the chain by which images are noised and denoised: near 0 they hardly change, at 1 they are new.",
    group="Edit",
)
@option("--count", "number", type=click.IntRange(1), default=8, show_default=True, help="Per image.", group="Edit")
def from_(images: tuple[str, ...], strength: float, number: int, **given: Any) -> None:
    """Redraw each IMAGE with the model in CHECKPOINT: noise it, and denoise it again (SDEdit).

    The picture has a row for each image, which begins with the image itself. --labels or --prompt asks for another
    class or caption than the image's own.
    """
    from tinyddpm.cli.editor import Editor
    from tinyddpm.editing import pairs_from, sdedit

    editor = Editor(**given)
    steps = len(pairs_from(editor.pairs, strength, editor.process.T))
    pictures = [editor.read(image) for image in images]
    anew = partial(sdedit, strength=strength)
    shown = [picture.pixels for picture in pictures]
    editor.variants(pictures, number, anew, steps, shown, "from", strength=strength)


@edit.command(cls=GroupedCommand, epilog=IMAGES, short_help="Paint the masked part of images (RePaint).")
@argument("checkpoint", "A checkpoint, or a run folder.", type=RunPath())
@argument("images", "A file, or DATA:NUMBER such as digits:12.", metavar="IMAGE...", nargs=-1, required=True)
@option(
    "--mask",
    type=FilePath(),
    required=True,
    help="An image of the same size: white where to paint, black where to keep the image.",
    group="Edit",
)
@option("--count", "number", type=click.IntRange(1), default=8, show_default=True, help="Per image.", group="Edit")
@option(
    "--jump",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Steps that each resampling goes back.",
    group="Edit",
)
@option(
    "--resamplings",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="How often each step is taken: more make the painted part fit better, and take longer.",
    group="Edit",
)
def inpaint(images: tuple[str, ...], mask: Path, number: int, jump: int, resamplings: int, **given: Any) -> None:
    """Paint the white part of a mask in each IMAGE with the model in CHECKPOINT (RePaint).

    The picture has a row for each image, which begins with the image, its masked part grey. The other pixels are kept
    exactly.
    """
    from tinyddpm.cli.editor import Editor, veiled
    from tinyddpm.editing import repaint, repaint_path

    editor = Editor(**given)
    pictures = [editor.read(image) for image in images]
    white = editor.read_mask(mask)
    painted = partial(repaint, mask=editor.backend.asarray(white), jump=jump, resamplings=resamplings)
    steps = sum(t_next < t for t, t_next in repaint_path(editor.pairs, jump, resamplings))
    shown = [veiled(picture.pixels, white) for picture in pictures]
    told = {"mask": str(mask), "jump": jump, "resamplings": resamplings}
    editor.variants(pictures, number, painted, steps, shown, "inpaint", **told)


@edit.command(cls=GroupedCommand, epilog=SMALL, short_help="Enlarge small pictures.")
@argument("checkpoint", "A checkpoint, or a run folder.", type=RunPath())
@argument("images", "A file, or DATA:NUMBER such as digits:12.", metavar="IMAGE...", nargs=-1, required=True)
@option("--count", "number", type=click.IntRange(1), default=1, show_default=True, help="Per image.", group="Edit")
@option(
    "--augment",
    type=float,
    default=0.0,
    show_default=True,
    help="Noise added to the images first, up to that of the training: it hides the faults of images that were drawn"
    " by a model themselves.",
    group="Edit",
)
@option(
    "--exact/--no-exact",
    default=None,
    help="Whether results shrink to exactly the given image; if not given, they do without --augment.",
    group="Edit",
)
def enlarge(images: tuple[str, ...], number: int, augment: float, exact: bool | None, **given: Any) -> None:
    """Enlarge each IMAGE with the model in CHECKPOINT, trained with the condition `image` (SR3).

    The picture has a row for each image: its pixels made larger, its bicubic interpolation, and the model's results.
    """
    import numpy as np

    from tinyddpm.cli.editor import Editor
    from tinyddpm.conditions import Asked
    from tinyddpm.conditions.image import LEVEL, PICTURE, Image
    from tinyddpm.editing import Matched
    from tinyddpm.ops.images import bicubic, from_model, to_model

    editor = Editor(**given)
    model, condition, backend = editor.model, editor.model.condition, editor.backend
    if not isinstance(condition, Image):
        raise ConfigError("the model was not trained to enlarge pictures: train one with --condition image")
    if not 0 <= augment <= condition.noise:
        raise ConfigError(f"--augment is {augment:g}: the model was trained with noise from 0 to {condition.noise:g}")
    pictures = editor.read_small(images, condition.shape)
    small = np.stack([picture.pixels for picture in pictures])
    asked = condition.asked(editor.wish._replace(images=small))
    exact = not augment if exact is None else exact

    def enlarged(rows: Numbers) -> Iterator[Step]:
        """Yield the steps of the samples with these numbers: `number` samples of each small image."""
        low = backend.asarray(asked.columns[PICTURE][rows // number])
        level = np.full(len(rows), augment, np.float32)
        noisy = condition.augmented(backend.xp, low, backend.asarray(level), editor.random, 0, rows)
        denoiser = editor.denoiser(Asked(None, {PICTURE: backend.to_numpy(noisy), LEVEL: level}))
        if exact:
            denoiser = Matched(model.process, denoiser, low, condition.factor)
        return editor.sampler(model.process, denoiser, editor.start(rows), editor.pairs, editor.noise(rows))

    results = editor.run(len(small) * number, enlarged, len(editor.pairs))
    nearest = np.repeat(np.repeat(small, condition.factor, axis=1), condition.factor, axis=2)
    smooth = from_model(bicubic(to_model(small), *condition.size))
    shown = [
        picture
        for i in range(len(small))
        for picture in (nearest[i], smooth[i], *results[i * number : (i + 1) * number])
    ]
    samples = [{"number": row, "image": pictures[row // number].name} for row in range(len(results))]
    editor.write(results, shown, 2 + number, "enlarge", samples, augment=augment, exact=exact)


SHARED = [
    GroupedOption(["--fit"], is_flag=True, help="Crop images in the middle and resize them to fit.", group="Edit"),
    GroupedOption(
        ["--labels", "classes"],
        help="Classes to draw, one for each image in turn, by name or number, separated by commas; the images' own if"
        " not given.",
        group="Edit",
        env=False,
    ),
    GroupedOption(["--out"], type=FilePath(), help="Folder; edits if not given.", group="Output"),
    *drawing_params("singles", "npz", "prompts", "prompts_file", "embeddings", "seed", "batch_size"),
]
"""Options of all edits: three of their own, and those of `sample` that mean the same here."""

for command in edit.commands.values():
    command.params += SHARED
