"""Decoding image files to uint8 of one size and number of channels.

The EXIF orientation is applied. Transparent pixels are blended with the background colour. Of a file with several
frames the first is taken, or all of them. Values beyond 8 bits are scaled as in `levels.py`.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from tinyddpm.data.levels import LEAST_WORD, SHARES, WORDS, Levels, certain, scaled, uncertain
from tinyddpm.data.resize import fit
from tinyddpm.errors import ConfigError, DataError
from tinyddpm.hdf5 import listed
from tinyddpm.progress import Watch, unwatched, watched

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif",),
    "TGA": (".tga",),
}
"""The formats that Pillow may read, and the suffixes of their files. Some of its other readers start programs."""
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L")
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")
"""Pillow's modes of grey images with more than 8 bits."""
ORIENTATION, BITS_PER_SAMPLE, MAX_SAMPLE, PHOTOMETRIC = 274, 258, 281, 262
"""Tags of EXIF and TIFF: the orientation, two from which the value of white follows, and whether 0 is white."""
WHITES = (1, *(2**bits - 1 for bits in range(8, 33)))
"""Values of white that a tag declares: 1 of floating values, and the largest of so many bits."""
WORD_CERTAIN = LEAST_WORD >> 8
"""Smallest maximum of the upper 8 bits of 16-bit colours for which their levels are certain."""


@dataclass(frozen=True)
class Reading:
    """Options of reading image files.

    Attributes:
        image_size: (H, W) to crop and resize each image to; None to leave them as they are.
        background: the colour behind transparent pixels, by name or in a form such as "#ffe0c0"; grey images take its
            brightness.
        frames: which frames of a file to take, "first" or "all".
        levels: the values of black and white, in images of more than 8 bits if there are any, otherwise in all images;
            None for levels that are certain (`levels.py`).
        watch: called with the progress of reading.
        cache: whether decoded images are cached on disk (`cache.py`).

    Raises:
        ConfigError: `frames` or `background` is wrong.
    """

    image_size: tuple[int, int] | None = None
    background: str = "white"
    frames: str = "first"
    levels: Levels | None = None
    watch: Watch = unwatched
    cache: bool = False

    def __post_init__(self) -> None:
        if self.frames not in ("first", "all"):
            raise ConfigError(f"frames are {self.frames!r}: give first or all")
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise ConfigError(f"there is no colour {self.background!r}: give a name or such as #ffe0c0") from error


AS_IT_IS = Reading()


@dataclass(frozen=True)
class Encoded:
    """An image file inside another file: its name for messages, and its bytes."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


class Sources(Protocol):
    """A sequence of image files, each a path or its bytes. Files read on demand need not all fit in memory."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Path | Encoded]: ...
    def __getitem__(self, i: int, /) -> Path | Encoded: ...


class ImageFiles:
    """Image files that are decoded one at a time, after all headers have been read.

    Attributes:
        channels: the number of channels; if not given, 1 if all images are grey, otherwise 3.
        frames: the number of frames taken from each file.
        further: the number of frames that are not taken.
        sizes: the sizes (H, W) of the frames read so far, before resizing.
    """

    def __init__(self, sources: Sources, reading: Reading, channels: int | None = None) -> None:
        self.sources, self._reading = sources, reading
        every = reading.frames == "all"
        told = watched(sources, len(sources), reading.watch, "headers of images read")
        heads = [_head(source, every) for source in told]
        self.channels = channels or (1 if all(modes.issubset(GREY_MODES) for modes, _ in heads) else 3)
        self.frames = [count if every else 1 for _, count in heads]
        self.further = sum(count for _, count in heads) - sum(self.frames)
        self.sizes: set[tuple[int, int]] = set()
        self._any_deep = any(not modes.isdisjoint(DEEP_MODES) for modes, _ in heads)
        self._seen: list[tuple[str, np.dtype[Any], float, float]] = []
        self._halved: list[tuple[str, int]] = []

    def read(self, i: int) -> NDArray[np.uint8]:
        """Return the frames of file `i`, uint8 (frames, H, W, channels). Several threads may read.

        Raises:
            DataError: the file is no image, is damaged, or has too many pixels.
        """
        source, images = self.sources[i], []
        with opened(source) as image:
            for frame in range(self.frames[i]):
                if frame:
                    image.seek(frame)
                images.append(self._decoded(image, str(source)))
        if any(pixels.shape != images[0].shape for pixels in images):
            raise DataError(f"{source} has frames of several sizes: bring them to one with --image-size HxW")
        return np.stack(images) if len(images) > 1 else images[0][None]

    def check_levels(self) -> None:
        """Check the levels of all images read so far.

        Raises:
            DataError: their levels are not certain.
        """
        for dtype in {dtype for _, dtype, _, _ in self._seen}:
            seen = [(name, low, high) for name, kind, low, high in self._seen if kind == dtype]
            name, low, high = seen[0][0], min(low for _, low, _ in seen), max(high for *_, high in seen)
            others = f" and {len(seen) - 1} more" if len(seen) > 1 else ""
            certain(low, high, dtype, f"{name}{others}")
        if self._halved and 0 < max(high for _, high in self._halved) < WORD_CERTAIN:
            raise _halved(self._halved[0][0], "are nearly black")

    def _decoded(self, image: Image.Image, name: str) -> NDArray[np.uint8]:
        is_halved = _is_halved(image)
        is_turned = image.getexif().get(ORIENTATION, 1) != 1
        turned = ImageOps.exif_transpose(image) if is_turned else image
        self.sizes.add((turned.height, turned.width))
        mode = "L" if self.channels == 1 else "RGB"
        if image.mode in DEEP_MODES:
            eight = self._of_deep(image, turned, name).convert(mode)
        else:
            solid = self._on_background(turned)
            plain = solid if solid.mode == mode else solid.convert(mode)
            eight = self._of_upper_bytes(turned, plain, name) if is_halved else self._of_bytes(plain, name)
        size = self._reading.image_size
        pixels = np.asarray(eight if size is None else fit(eight, size))
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def _of_upper_bytes(self, image: Image.Image, plain: Image.Image, name: str) -> Image.Image:
        """Return `plain`, which is the upper 8 of 16 bits of `image` on the background, and note its brightness."""
        if self._reading.levels not in (None, WORDS):
            raise _halved(name, "are too few for --levels")
        self._halved.append((name, int(np.max(image.convert("RGB").getextrema()))))
        return plain

    def _of_bytes(self, image: Image.Image, name: str) -> Image.Image:
        levels = self._reading.levels
        if levels is None:
            extrema = np.asarray(image.getextrema())
            self._seen.append((name, np.dtype(np.uint8), int(extrema.min()), int(extrema.max())))
            return image
        return image if self._any_deep else Image.fromarray(scaled(np.asarray(image), levels, name))

    def _of_deep(self, image: Image.Image, turned: Image.Image, name: str) -> Image.Image:
        """Return the 8-bit grey image of `turned`, which is `image`, of more than 8 bits, after its orientation."""
        values = np.asarray(turned)
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            values = values.astype(np.uint16)
        levels = self._reading.levels or _tagged(image)
        if levels is None:
            low, high = float(values.min()), float(values.max())
            levels = {"u": WORDS, "f": SHARES}.get(values.dtype.kind)
            if levels is None or not (levels.black <= low and high <= levels.white):
                raise uncertain(low, high, values.dtype, name)
            self._seen.append((name, values.dtype, low, high))
        grey = scaled(values, levels, name)
        if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # Pillow heeds it in images of 8 bits
            grey = 255 - grey
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[values == clear] = ImageColor.getcolor(self._reading.background, "L")
        return Image.fromarray(grey)

    def _on_background(self, image: Image.Image) -> Image.Image:
        if not image.has_transparency_data:
            return image
        clear = image.info.get("transparency")
        if isinstance(clear, tuple) and max(clear) > 255:  # in 16 bits, while Pillow keeps the upper 8 of the pixels
            image.info["transparency"] = tuple(value >> 8 for value in clear)
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, self._reading.background), solid)


def decode_image(path: Path, channels: int, image_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Return one image, uint8 (H, W, channels) with 1 or 3 channels.

    Raises:
        DataError: the file is no image, is damaged, has too many pixels, or its levels are not certain.
    """
    files = ImageFiles([path], Reading(image_size), channels)
    pixels: NDArray[np.uint8] = files.read(0)[0]
    files.check_levels()
    return pixels


class BrokenImageError(DataError):
    """A file is no image, is broken, or has too many pixels."""


@contextmanager
def opened(source: Path | Encoded) -> Iterator[Image.Image]:
    """Open an image; errors of Pillow inside the block become a BrokenImageError that names the file.

    Pillow gets an open file, not its path: it would map some files into memory, and take their rows at the width that
    the image has only after a quarter turn.
    """
    # TGA has no signature, so Pillow tries it for files of that suffix only.
    is_tga = isinstance(source, Path) and source.suffix.lower() in FORMATS["TGA"]
    formats = [name for name in FORMATS if (name == "TGA") == is_tga]
    try:
        with (
            source.open("rb") if isinstance(source, Path) else io.BytesIO(source.data) as file,
            Image.open(file, formats=formats) as image,
        ):
            yield image
    except Image.DecompressionBombError as cause:
        raise BrokenImageError(f"{source} is too large an image ({cause}): make it smaller") from cause
    except UnidentifiedImageError as cause:
        raise BrokenImageError(
            f"{source} is no image, or of a kind that is not read: remove it, or save it anew"
        ) from cause
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        struct.error,
        zlib.error,
        Warning,  # which a host program may have made an error
    ) as cause:
        raise BrokenImageError(f"{source} is a broken image ({cause}): remove it, or save it anew") from cause


def refuse_broken(sources: Sources) -> None:
    """Try to read all images, and name those that fail if there are several.

    Raises:
        DataError: two or more images cannot be read.
    """

    def is_broken(i: int) -> bool:
        try:
            with opened(sources[i]) as image:
                image.load()
        except DataError:
            return True
        return False

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        broken = [str(sources[i]) for i, fault in enumerate(pool.map(is_broken, range(len(sources)))) if fault]
    if len(broken) > 1:
        names = listed(broken, most=100)
        raise DataError(
            f"{len(broken)} of {len(sources)} images are none or broken: {names}: remove them, or save them anew"
        )


def _head(source: Path | Encoded, every: bool) -> tuple[set[str], int]:
    """Return the modes of an image and its number of frames.

    Headers tell both, but for the modes of further frames. These are looked at if `every` frame is wanted and the first
    is grey.
    """
    with opened(source) as image:
        several = image.format in ("PNG", "GIF", "WEBP", "TIFF", "AVIF")  # further frames of others are previews
        modes, count = {image.mode}, int(getattr(image, "n_frames", 1)) if several else 1
        for frame in range(1, count if every and image.mode in GREY_MODES else 1):
            image.seek(frame)
            modes.add(image.mode)
        return modes, count


def _is_halved(image: Image.Image) -> bool:
    """Return whether Pillow will read only the upper 8 of 16 bits of an image, whose pixels are not yet read."""
    return image.mode not in DEEP_MODES and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _halved(name: str, what: str) -> DataError:
    return DataError(
        f"{name} has 16 bits a colour, of which the upper 8 are read, and these {what}: save such images with 8 bits,"
        " from 0 to 255"
    )


def _tagged(image: Image.Image) -> Levels | None:
    """Return the levels that an image file declares, or None."""
    if image.format == "PPM":
        return WORDS if image.mode == "I" else None
    tags = getattr(image, "tag_v2", {})
    bits, white = tags.get(BITS_PER_SAMPLE), tags.get(MAX_SAMPLE, 0)
    if bits and bits[0] not in (8, 16, 32):
        return Levels(0, 2 ** bits[0] - 1)
    white = white[0] if isinstance(white, tuple) else white
    return Levels(0, white) if white in WHITES else None  # any other may be the largest value of this image alone
