"""The code that the commands of `tinyddpm edit` share: reading model and images, and writing pictures."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Array, Purpose
from tinyddpm.cli.output import say
from tinyddpm.cli.trained import Chosen, new_folder, open_model, refuse_full, wished_in_turn
from tinyddpm.conditions import Asked, Known, count, some
from tinyddpm.data import open_dataset
from tinyddpm.data.base import ArrayDataset, Dataset
from tinyddpm.data.image_files import SUFFIXES, decode_image
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.errors import ConfigError, DataError, said_before
from tinyddpm.figures.images import Pixels, grid, save_images, save_npz, save_png
from tinyddpm.figures.marks import checkpoint_of, mark_of, said_of
from tinyddpm.figures.samples import is_drawable
from tinyddpm.model.sampling import on_host
from tinyddpm.ops.images import to_model
from tinyddpm.progress import Progress
from tinyddpm.samplers import Noise, Step, make_sampler

Numbers = NDArray[np.int64]
"""Indices of images or samples, shape (n,)."""

BLACK, WHITE = 0, 255
GREY = 127


@dataclass(frozen=True)
class Picture:
    """An image to edit.

    Attributes:
        name: the text by which the user named it.
        pixels: uint8 (H, W, C).
        known: its class, caption or other condition, as one row; None if that is unknown.
    """

    name: str
    pixels: Pixels
    known: Asked | None = None


Edit: TypeAlias = Callable[..., Iterator[Step]]


class Editor:
    """A trained model, with the sampling and the guidance by which it edits images.

    Args:
        checkpoint: a checkpoint, or a run folder.
        raw, seed, batch_size, out, singles, npz: as for `tinyddpm sample`.
        fit: whether to crop images in the middle and resize them to the model's size; if not, they must have it.
        given: the options of `Chosen`, and those of `open_model`.

    Raises:
        ConfigError: the model does not draw images, an option is wrong, or the folder `out` is not empty.
    """

    def __init__(
        self,
        checkpoint: Path,
        *,
        raw: bool,
        seed: int,
        batch_size: int,
        fit: bool,
        out: Path | None,
        singles: bool,
        npz: bool,
        **given: Any,
    ) -> None:
        chosen = Chosen.taken(given)
        self.model, self.weights, loaded = open_model(checkpoint, raw, **given)
        self.checkpoint = checkpoint_of(checkpoint, loaded, raw)
        self.backend = self.model.backend
        if not (self.model.is_image and is_drawable(self.model.sample_shape)):
            raise ConfigError(f"{checkpoint} draws samples of shape {self.model.sample_shape}: edit is for images")
        self.out = out or new_folder("edits")
        refuse_full(self.out)
        self.sampling, self.guidance = chosen.sampling(self.model.config), chosen.guidance(self.model.config)
        self.process = self.model.process
        self.pairs = self.model.pairs(self.sampling)
        self.sampler = make_sampler(self.sampling.name, **self.sampling.options)
        self.seed, self.random = seed, self.backend.random(seed)
        self.wish, self.embeddings = chosen.wish(self.model), chosen.embeddings
        self.batch_size, self.fit = batch_size, fit
        self.singles, self.npz = singles, npz

    def denoiser(self, asked: Known) -> Denoiser:
        """Return the guided and thresholded denoiser for a batch of samples, conditioned on the rows of `asked`."""
        return self.thresholded(self.guided(asked))

    def guided(self, asked: Known) -> Denoiser:
        """Return the guided denoiser for a batch of samples, conditioned on the rows of `asked`."""
        with said_before():
            return self.model.guided(self.weights, asked, self.guidance)

    def thresholded(self, denoiser: Denoiser) -> Denoiser:
        """Return a denoiser whose predicted x_0 is kept in the range of images by the sampling's threshold."""
        return self.model.thresholded(denoiser, self.sampling)

    def start(self, numbers: Numbers) -> Array:
        """Return the noise x_T of the samples with these numbers, shape (n, H, W, C)."""
        return self.random.normal(Purpose.SAMPLE_START, 0, numbers, self.model.sample_shape)

    def noise(self, numbers: Numbers) -> Noise:
        """Return a function from a step's time or running number to its noise, (n, H, W, C), for these samples."""
        return lambda step: self.random.normal(Purpose.SAMPLE_STEP, step, numbers, self.model.sample_shape)

    def to_model(self, pictures: Sequence[Picture]) -> Array:
        """Return the images as the model takes them, shape (n, H, W, C), in [−1, 1]."""
        return to_model(self.backend.asarray(np.stack([picture.pixels for picture in pictures])))

    def read(self, text: str) -> Picture:
        """Return the image that `text` names, a file or DATA:NUMBER.

        Raises:
            DataError: there is no such image, it cannot be read, or it has another size or number of channels.
        """
        dataset, row = self._found(text, self.model.sample_shape)
        known = self.model.known(dataset, row)
        if dataset.classes != self.model.classes:
            known.labels = None  # they number other classes than the model's
        return Picture(text, dataset.read(row)[0], known if self._reads(known) else None)

    def read_small(self, texts: Sequence[str], shape: tuple[int, ...]) -> list[Picture]:
        """Return the images to enlarge that `texts` name: files, DATA:NUMBER, or all images of a data set.

        Raises:
            DataError: there is no such image, it cannot be read, or it does not have this shape (H, W, C).
        """
        found = []
        for text in texts:
            dataset, rows = self._found(text, shape, several=True)
            names = [text] if len(rows) == 1 else [f"{text}:{row}" for row in rows]
            found += [Picture(name, pixels) for name, pixels in zip(names, dataset.read(rows), strict=True)]
        return found

    def _found(self, text: str, shape: tuple[int, ...], several: bool = False) -> tuple[Dataset, Numbers]:
        """Return a data set, and the indices of the images in it that `text` names.

        Raises:
            DataError: there is no such image, or it does not have this shape (H, W, C).
        """
        H, W, C = shape
        size = (H, W) if self.fit else None
        item = re.fullmatch(r"(.+):([0-9]{1,12})", text)
        dataset: Dataset
        if Path(text).is_file() and not (several and Path(text).suffix.lower() not in SUFFIXES):
            pixels = decode_image(Path(text), 1 if C == 1 else 3, size)
            dataset, rows = ArrayDataset(pixels[None], name=text), np.arange(1)
        elif item:
            dataset, rows = open_dataset(item[1], image_size=size), np.asarray([int(item[2])])
        elif several:
            dataset = open_dataset(text, image_size=size)
            rows = np.arange(len(dataset))
        else:
            raise DataError(f"there is no image {text}: give the path of a file, or DATA:NUMBER such as digits:12")
        if len(dataset.shape) != 3:
            raise DataError(f"{dataset.description}: edit is for images")
        if rows[-1] >= len(dataset):
            raise DataError(f"{dataset.description}: there is no number {rows[-1]}, the last is {len(dataset) - 1}")
        does = "enlarges" if several else "draws"
        height, width, channels = dataset.shape
        if channels != C:
            raise DataError(f"{text} has {channels} channels, and the model {does} {C}: give another image")
        if (height, width) != (H, W):
            raise DataError(
                f"{text} is {height}x{width}, and the model {does} {H}x{W}: give --fit to crop and resize it"
            )
        return dataset, rows

    def _reads(self, known: Known) -> bool:
        """Return whether the model's condition can read these columns."""
        try:
            with said_before():
                self.model.read(known)
        except ConfigError:
            return False
        return True

    def read_mask(self, path: Path) -> NDArray[np.bool_]:
        """Return the mask in an image file, shape (H, W, 1), True where it is white.

        Raises:
            DataError: the file cannot be read, has another size than the model's images, has other levels than black
                and white, or has no white.
        """
        if not path.is_file():
            raise DataError(f"there is no mask {path}: give the path of an image file, white where to paint")
        pixels = decode_image(path, 1)
        shape, wanted = pixels.shape[:2], self.model.sample_shape[:2]
        if shape != wanted:
            raise DataError(
                f"the mask {path} is {shape[0]}x{shape[1]}, and the model draws {wanted[0]}x{wanted[1]}: "
                "resize the mask to that"
            )
        grey = (pixels != BLACK) & (pixels != WHITE)
        if grey.any():
            y, x, _ = np.argwhere(grey)[0]
            raise DataError(
                f"the mask {path} is not black and white: row {y}, column {x} is {pixels[y, x, 0]} of 255: "
                "save it without smooth edges, and not as JPEG"
            )
        if not (pixels == WHITE).any():
            raise DataError(f"the mask {path} is all black: make the part to be painted white")
        white: NDArray[np.bool_] = pixels == WHITE
        return white

    def asked(self, pictures: Sequence[Picture]) -> Known:
        """Return the condition of each image, a row each: the user's wishes in turn, or else the image's own.

        Raises:
            ConfigError: the model was trained without the wished condition, or an image's class is unknown and not
                wished.
        """
        own = [picture.known for picture in pictures if picture.known is not None]
        if not self.wish.said and len(own) == len(pictures):
            return _joined(own)
        if not self.wish.said and self.model.classes:
            raise ConfigError(
                f"the model draws by class ({', '.join(self.model.classes[:3])}, …): "
                "give the classes of the images with --labels"
            )
        return wished_in_turn(self.model, self.wish, np.arange(len(pictures)))

    def two_wishes(self) -> Known:
        """Return the two conditions that the user wishes, to interpolate between, as two rows.

        Raises:
            ConfigError: there are not two wishes, or the model was trained without such a condition.
        """
        asked = self.model.condition.asked(self.wish) if self.wish.said else Asked(None)
        if count(asked) != 2:
            raise ConfigError(
                f"interpolate without images takes two prompts or classes, not {count(asked)}: "
                "give --prompt A --prompt B, or two --labels such as 3,8"
            )
        return asked

    def said(self, pictures: Sequence[Picture], asked: Known) -> list[dict[str, Any]]:
        """Return the entries of images in a mark: name and condition of each."""
        rows = said_of(self.model, asked, len(pictures))
        return [{"image": picture.name, **row} for picture, row in zip(pictures, rows, strict=True)]

    def both(self, asked: Known, n: int) -> tuple[Denoiser, Denoiser]:
        """Return the guided denoisers of n samples for each of the two rows of `asked`: one twice if the rows agree."""
        first, second = (self.guided(some(asked, np.full(n, end))) for end in (0, 1))
        same = all(np.array_equal(*column) for column in self.model.read(asked).values())
        return first, first if same else second

    def variants(
        self,
        pictures: Sequence[Picture],
        number: int,
        edited: Edit,
        steps: int,
        shown: Sequence[Pixels],
        name: str,
        **told: Any,
    ) -> None:
        """Draw edits of each image, and write them.

        Args:
            pictures: the images to edit.
            number: number of edits of each image.
            edited: function that yields the steps of an edit, called as `sdedit` and `repaint` are.
            steps: number of these steps.
            shown: the image at the beginning of each row of the grid, a row for each of `pictures`.
            name: name of the edit.
            told: options of the edit, for the mark.
        """
        asked = self.asked(pictures)
        self.model.read(asked)  # all rows at once, so that its notes are printed once

        def of_rows(rows: Numbers) -> Iterator[Step]:
            of = rows // number
            arguments = self.process, self.denoiser(some(asked, of)), self.start(rows), self.pairs, self.noise(rows)
            return edited(*arguments, image=self.to_model([pictures[i] for i in of]), sampler=self.sampler)

        results = self.run(len(pictures) * number, of_rows, steps)
        said = self.said(pictures, asked)
        samples = [{"number": row, **said[row // number]} for row in range(len(results))]
        starts = range(0, len(results), number)
        rows = [pixels for first, i in zip(shown, starts, strict=True) for pixels in (first, *results[i : i + number])]
        self.write(results, rows, 1 + number, name, samples, **told)

    def run(self, rows: int, edited: Callable[[Numbers], Iterator[Step]], steps: int) -> Pixels:
        """Return the results of an edit, uint8 (rows, H, W, C), drawn in batches.

        Args:
            rows: number of results.
            edited: function from the numbers of results to the steps that draw them.
            steps: number of these steps.
        """
        progress, done, results = Progress(), itertools.count(1), []
        total = steps * -(-rows // self.batch_size)
        for begin in range(0, rows, self.batch_size):
            with self.backend.scope():
                for step in edited(np.arange(begin, min(begin + self.batch_size, rows))):
                    progress.update(next(done), total, f"drawing {rows} images")
                    last = step.x
                results.append(on_host(self.model, last))
        progress.close()
        return np.concatenate(results)

    def write(
        self,
        results: Pixels,
        shown: Sequence[Pixels],
        columns: int,
        name: str,
        samples: Sequence[Mapping[str, Any]],
        **told: Any,
    ) -> None:
        """Write the results and the grid of an edit into the folder, and print the names of the files.

        Args:
            results: uint8 (n, H, W, C), for the single files.
            shown: images of the grid in its order: results, and the images to compare them with.
            columns: number of columns of the grid.
            name: name of the edit.
            samples: entry of each result in the mark.
            told: options of the edit, for the mark; None for one that was left out.
        """
        options = {**told, "fit": self.fit or None}
        mark = mark_of(
            self.model,
            f"tinyddpm edit {name}",
            self.checkpoint,
            seed=self.seed,
            sampling=self.sampling,
            guidance=self.guidance,
            samples=samples,
            edit={key: value for key, value in options.items() if value is not None},
            embeddings=self.embeddings,
        )
        folder, files = self.out, []
        if self.npz:
            files.append(folder / "edits.npz")
            save_npz(files[-1], results, mark=mark)
        files.append(folder / "grid.png")
        save_png(files[-1], grid(np.stack(list(shown)), columns), mark)
        if self.singles:
            save_images(folder, results, mark=mark)
            files.append(folder / f"{0:06d}.png")
        for file in files:
            say(f"wrote {file}")


def _joined(rows: Sequence[Asked]) -> Asked:
    """Return the conditions of several images as one, a row each, with the columns that all of them have."""
    labels = [row.labels for row in rows if row.labels is not None]
    names = set.intersection(*(set(row.columns) for row in rows))
    return Asked(
        np.concatenate(labels) if len(labels) == len(rows) else None,
        {name: np.concatenate([row.columns[name] for row in rows]) for name in sorted(names)},
    )


def veiled(pixels: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Return an image whose masked pixels are grey, as it is shown beside its edits."""
    return np.where(mask, np.uint8(GREY), pixels)
