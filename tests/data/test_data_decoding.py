"""Files of images: every format, depth, palette and transparency becomes grey or colour in 8 bits, or is refused."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from helpers.image_files import colours, everything, save
from tinyddpm.data import open_dataset
from tinyddpm.data.fingerprint import fingerprint
from tinyddpm.data.image_files import decode_image
from tinyddpm.errors import DataError


@pytest.mark.parametrize("suffix", ["png", "apng", "bmp", "tif", "TIFF", "webp", "ppm", "tga"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    pixels = colours(rng)
    save(tmp_path / f"x.{suffix}", pixels, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(everything(tmp_path), pixels[None])


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "jpe", "jfif", "gif", "jp2", "avif"])
def test_lossy_formats_keep_a_plain_colour(tmp_path: Path, suffix: str) -> None:
    pixels = np.full((8, 8, 3), [200, 100, 50], np.uint8)
    save(tmp_path / f"x.{suffix}", pixels)
    np.testing.assert_allclose(everything(tmp_path)[0].astype(int), pixels.astype(int), atol=3)


def test_one_colour_image_makes_all_of_them_rgb(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((4, 4), 7, np.uint8))
    save(tmp_path / "b.png", np.full((4, 4, 3), [1, 2, 99], np.uint8))
    images = everything(tmp_path)
    assert images.shape == (2, 4, 4, 3)
    assert images[:, 0, 0].tolist() == [[7, 7, 7], [1, 2, 99]]


def test_grey_of_one_and_of_sixteen_bits(tmp_path: Path) -> None:
    """16 bits are divided by 257 and rounded: 0, 128, 129, 65406, 65535 are 0, 0, 1, 254, 255."""
    Image.fromarray(np.eye(5, dtype=bool)).save(tmp_path / "a.png")
    Image.fromarray(np.tile(np.array([0, 128, 129, 65406, 65535], np.uint16), (5, 1))).save(tmp_path / "b.png")
    images = everything(tmp_path)
    assert images.shape == (2, 5, 5, 1)
    np.testing.assert_array_equal(images[0, :, :, 0], 255 * np.eye(5))
    assert images[1, 3, :, 0].tolist() == [0, 0, 1, 254, 255]


TURNS: list[Callable[[NDArray[Any]], NDArray[Any]]] = [
    lambda image: image,
    lambda image: image[:, ::-1],
    lambda image: image[::-1, ::-1],
    lambda image: image[::-1],
    lambda image: image.transpose(1, 0, 2),
    lambda image: np.rot90(image, -1),
    lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    lambda image: np.rot90(image),
]
"""What the orientations 1 to 8 ask of a stored image."""


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("kind", ["grey", "grey of 16 bits", "colours", "RGBA"])
def test_every_orientation_of_every_depth(tmp_path: Path, rng: np.random.Generator, kind: str, suffix: str) -> None:
    """Given a path, Pillow would map uncompressed TIFF into memory, and scramble what is turned by a quarter."""
    grey = np.concatenate([np.arange(29), [255]]).astype(np.uint8).reshape(6, 5, 1)
    stored = {
        "grey": grey,
        "grey of 16 bits": grey * np.uint16(257),
        "colours": rng.integers(0, 256, (6, 5, 3), np.uint8),
        "RGBA": np.concatenate([rng.integers(0, 256, (6, 5, 3), np.uint8), np.full((6, 5, 1), 255, np.uint8)], axis=2),
    }[kind]
    wanted = grey if stored.shape[2] == 1 else stored[:, :, :3]
    for orientation, turned in enumerate(TURNS, 1):
        exif = Image.Exif()
        exif[274] = orientation
        folder = tmp_path / str(orientation)
        folder.mkdir()
        save(folder / f"x.{suffix}", stored.squeeze(), exif=exif)
        np.testing.assert_array_equal(everything(folder)[0], turned(wanted), f"orientation {orientation}")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_put_on_white(tmp_path: Path, mode: str) -> None:
    colour = (10, 20, 30) if mode == "RGBA" else (10,)
    image = Image.new(mode, (2, 1), (*colour, 255))
    image.putpixel((1, 0), (*colour, 0))
    image.save(tmp_path / "x.png")
    assert everything(tmp_path)[0, 0].tolist() == [list(colour), [255] * len(colour)]


def test_a_palette_is_colour(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = np.repeat(rng.integers(0, 256, (2, 1, 3)).astype(np.uint8), 4, axis=1)
    Image.fromarray(pixels).quantize(2).save(tmp_path / "x.png")
    np.testing.assert_array_equal(everything(tmp_path)[0], pixels)


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    """Orientation 6: the stored image is to be turned clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, :8] = 255
    save(tmp_path / "x.jpg", pixels, exif=exif, quality=100)
    image = everything(tmp_path)[0, ..., 0]
    assert image.shape == (16, 8)
    assert image[:8].min() > 250
    assert image[8:].max() < 5


def test_a_size_crops_the_middle_and_resizes(tmp_path: Path) -> None:
    """Of a wide image the left and right ends go; what is uniform, as far as the filter reaches, stays so."""
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 9:31] = [9, 99, 199]
    save(tmp_path / "wide.png", wide)
    save(tmp_path / "small.png", np.full((3, 2, 3), [9, 99, 199], np.uint8))
    images = everything(tmp_path, image_size=(5, 5))
    np.testing.assert_array_equal(images, np.full((2, 5, 5, 3), [9, 99, 199]))


def test_resizing_while_decoding_is_resizing_afterwards(tmp_path: Path, rng: np.random.Generator) -> None:
    """The folder's own way, on whole images, against the wrapper's, on each channel of an array."""
    pixels = rng.integers(0, 256, (3, 17, 23, 3)).astype(np.uint8)
    for i, image in enumerate(pixels):
        save(tmp_path / "images" / f"{i}.png", image)
    np.save(tmp_path / "images.npy", pixels)
    np.testing.assert_array_equal(
        everything(tmp_path / "images", image_size=(8, 6)), everything(tmp_path / "images.npy", image_size=(8, 6))
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_a_truncated_image_is_refused(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    path = save(tmp_path / f"x.{suffix}", colours(rng, 40, 40))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=rf"x\.{suffix} is (a broken|no) image.*: remove it"):
        open_dataset(str(tmp_path))


SHADES = np.tile(np.array([0, 51, 204, 255], np.uint8), (4, 1))


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        (SHADES.astype(np.float32) / 255, {}),
        (np.rint(SHADES * (4095 / 255)).astype(np.uint16), {281: 4095}),
        (SHADES.astype(np.uint16) * 257, {}),
    ],
)
def test_deep_images_are_scaled_where_their_levels_are_certain(
    tmp_path: Path, values: np.ndarray, tags: dict[int, int]
) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo=tags)
    assert everything(tmp_path)[0, ..., 0].tolist() == SHADES.tolist()


def test_twelve_bits_are_told_by_their_tag(tmp_path: Path) -> None:
    """Two values in three bytes; Pillow does not write such, so a 16-bit file is changed into one."""
    Image.fromarray(np.zeros((1, 4), np.uint16)).save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    bits = content.index((258).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    content[bits + 8 : bits + 10] = (12).to_bytes(2, "little")
    content[-8:-2] = bytes.fromhex("000fff800333")
    (tmp_path / "x.tif").write_bytes(content)
    assert everything(tmp_path).ravel().tolist() == [0, 255, 128, 51]


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("x.png", SHADES.astype(np.uint16) * 16, r"x\.png: the images are uint16 from 0 to 4080, .*--levels 0:4095"),
        ("x.tif", SHADES.astype(np.uint16) * 16, r"x\.tif: the images are uint16 from 0 to 4080, .*--levels 0:4095"),
        ("x.tif", SHADES.astype(np.int32), r"x\.tif: the images are int32 from 0 to 255, .*--levels 0:255"),
        ("x.tif", SHADES.astype(np.float32), r"x\.tif: the images are float32 from 0 to 255, .*--levels 0:255"),
        ("x.png", SHADES // 255, r"x\.png.*: the images are uint8 from 0 to 1, .*--levels 0:1"),
    ],
)
def test_levels_that_are_not_certain_are_refused(tmp_path: Path, name: str, values: np.ndarray, line: str) -> None:
    """A range is named, and the option that settles it; with it they are read, and 8-bit images beside are as ever."""
    Image.fromarray(values).save(tmp_path / name)
    with pytest.raises(DataError, match=line) as caught:
        open_dataset(str(tmp_path))
    levels = str(caught.value).split()[-1]
    white = int(levels.split(":")[1])
    expected = np.floor(values * 255.0 / white + 0.5)
    np.testing.assert_array_equal(everything(tmp_path, options={"levels": levels})[0, ..., 0], expected)
    if values.dtype != np.uint8:
        save(tmp_path / "y.png", SHADES)
        both = everything(tmp_path, options={"levels": levels})[..., 0]
        np.testing.assert_array_equal(both, np.stack([expected.astype(np.uint8), SHADES]))


def deep_png(path: Path, values: np.ndarray) -> None:
    """Write 16-bit pixels (H, W, C) of two channels, grey and alpha, or of three or four, as Pillow cannot."""
    colour = {2: 4, 3: 2, 4: 6}[values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(png(colour, 16, rows[1:], size=values.shape[:2]))


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_sixteen_bits_that_are_nearly_black_are_refused(tmp_path: Path, channels: int) -> None:
    """Pillow drops their lower 8 bits, so no levels can settle it; bright images of 8 bits beside make nothing sure."""
    values = np.repeat(SHADES[:, :, None].astype(np.uint16) * 16, channels, axis=2)
    save(tmp_path / "a.png", SHADES)
    deep_png(tmp_path / "b.png", values)
    with pytest.raises(DataError, match=r"b\.png has 16 bits a colour, .* the upper 8 are read, and these are nearly"):
        open_dataset(str(tmp_path))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"b\.png has 16 bits .* and these are too few for --levels: save such images"):
        open_dataset(str(tmp_path), options={"levels": "0:4095"})
    deep_png(tmp_path / "b.png", values * 4 + 255)
    assert everything(tmp_path).max() == (255 if channels % 2 == 0 else 64)


def test_colours_of_sixteen_bits_may_be_dark_beside_bright_ones(tmp_path: Path) -> None:
    for name, factor in {"a.png": 257, "b.png": 1}.items():
        deep_png(tmp_path / name, np.repeat(SHADES[:, :, None].astype(np.uint16) * factor, 3, axis=2))
    assert everything(tmp_path).max(axis=(1, 2, 3)).tolist() == [255, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, bool])
def test_a_tiff_may_say_that_zero_is_white(tmp_path: Path, dtype: type) -> None:
    """As scanners and X-ray machines do; Pillow writes no such file, so the tag is changed."""
    values = np.array([[0, 1], [1, 1]], dtype) * {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    Image.fromarray(values.astype(dtype)).save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    content[content.index(struct.pack("<HHI", 262, 3, 1)) + 8] = 0
    (tmp_path / "x.tif").write_bytes(content)
    assert everything(tmp_path).ravel().tolist() == [255, 0, 0, 0]


@pytest.mark.parametrize("white", [0, 7, 300])
def test_a_tag_of_the_largest_value_is_no_white_by_itself(tmp_path: Path, white: int) -> None:
    """By TIFF 6.0 it is the largest value in use, so that each image of a set would be made as bright as all others."""
    Image.fromarray(np.full((4, 4), min(white, 7), np.uint16)).save(tmp_path / "x.tif", tiffinfo={281: white})
    if white:
        with pytest.raises(DataError, match=r"x\.tif: the images are uint16 from 7 to 7, which may be nearly black"):
            open_dataset(str(tmp_path))
    else:
        assert everything(tmp_path).max() == 0


def test_a_portable_float_map_is_floating_whatever_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "x.ppm").write_bytes(b"Pf\n2 1\n-1.0\n" + np.array([0.2, 1.0], "<f4").tobytes())
    assert everything(tmp_path).ravel().tolist() == [51, 255]


@pytest.mark.parametrize("options", [{}, {"levels": "0:1"}])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_told_as_such(tmp_path: Path, options: dict[str, str], value: float) -> None:
    Image.fromarray(np.array([[0.5, value]], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif: the images hold NaN or infinity: replace these values, or leave"):
        open_dataset(str(tmp_path), options=options)


def test_levels_that_bytes_cannot_reach_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.png", SHADES)
    with pytest.raises(DataError, match=r"x\.png: the images are uint8, of at most 255, and would be nearly"):
        open_dataset(str(tmp_path), options={"levels": "0:4095"})


def test_a_frame_of_colour_after_one_of_grey_keeps_its_colour(tmp_path: Path) -> None:
    grey, colour = Image.fromarray(SHADES), Image.new("RGB", (4, 4), (200, 100, 50))
    grey.save(tmp_path / "x.tif", save_all=True, append_images=[colour])
    assert everything(tmp_path, options={"frames": "all"})[1, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.filterwarnings("error")
def test_warnings_that_are_errors_end_in_one_line_too(tmp_path: Path) -> None:
    save(tmp_path / "x.png", SHADES)
    content = (tmp_path / "x.png").read_bytes()
    exif = b"eXIfII*\0\xff\xff\xff\xff"
    (tmp_path / "x.png").write_bytes(
        content[:33] + struct.pack(">I", 8) + exif + struct.pack(">I", zlib.crc32(exif)) + content[33:]
    )
    with pytest.raises(DataError, match=r"x\.png is a broken image \(Corrupt EXIF data.*\): remove it"):
        open_dataset(str(tmp_path))


def test_a_pgm_says_which_value_is_white(tmp_path: Path) -> None:
    values = np.array([0, 100, 50, 321], ">u2")
    (tmp_path / "x.pgm").write_bytes(b"P5 4 1 4095\n" + values.tobytes())
    assert everything(tmp_path).ravel().tolist() == np.floor(values * (255 / 4095) + 0.5).tolist()


def test_a_bright_image_of_another_depth_makes_nothing_certain(tmp_path: Path) -> None:
    save(tmp_path / "mask.png", SHADES // 255)
    save(tmp_path / "x.png", SHADES.astype(np.uint16) * 257)
    with pytest.raises(DataError, match=r"mask\.png: the images are uint8 from 0 to 1, "):
        open_dataset(str(tmp_path))


def test_a_dark_image_among_others_is_dark(tmp_path: Path) -> None:
    for factor in (1, 257):
        Image.fromarray(SHADES.astype(np.uint16) * factor).save(tmp_path / f"{factor}.png")
    assert everything(tmp_path)[..., 3, 0].tolist() == [[1] * 4, [255] * 4]


def png(colour: int, depth: int, pixels: bytes, clear: bytes = b"", size: tuple[int, ...] = (1, 1)) -> bytes:
    """A PNG of (H, W) pixels, with the value that is transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size[::-1], depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *([(b"tRNS", clear)] if clear else [])]
    parts += [(b"IDAT", zlib.compress(b"\0" + pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize(("background", "brightness"), [(None, 255), ("#808080", 128), ("black", 0)])
@pytest.mark.parametrize(("colour", "depth"), [(0, 8), (0, 16), (2, 8), (2, 16)])
def test_transparency_has_one_rule(
    tmp_path: Path, colour: int, depth: int, background: str | None, brightness: int
) -> None:
    """Grey or colour, of 8 bits or of 16: what is transparent is background, and what is not stays."""
    words = 1 if colour == 0 else 3
    clear, solid = (bytes([value]) * (words * depth // 8) for value in (70, 200))
    options = {"background": background} if background else {}
    (tmp_path / "x.png").write_bytes(
        png(colour, depth, clear, struct.pack(">H", 70 if depth == 8 else 70 * 257) * words)
    )
    (tmp_path / "y.png").write_bytes(
        png(colour, depth, solid, struct.pack(">H", 70 if depth == 8 else 70 * 257) * words)
    )
    images = everything(tmp_path, options=options)
    assert images[0].ravel().tolist() == [brightness] * words
    assert images[1].ravel().tolist() == [200] * words


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "x.png", np.zeros((30, 30), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(DataError, match=r"x\.png is too large an image .*: make it smaller"):
        open_dataset(str(tmp_path))


def test_each_image_is_decoded_once(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turned, transparent, resized or not: from opening to the last sample read, and the fingerprint."""
    exif = Image.Exif()
    exif[274] = 6
    for i in range(30):
        save(tmp_path / f"{i}.jpg", rng.integers(0, 256, (12, 9, 3), np.uint8), **({"exif": exif} if i % 2 else {}))
        save(tmp_path / f"{i}.png", rng.integers(0, 256, (12, 12, 4), np.uint8))
    decoded, decoder = [], Image._getdecoder
    monkeypatch.setattr(Image, "_getdecoder", lambda *arguments: decoded.append(1) or decoder(*arguments))
    dataset = open_dataset(str(tmp_path), image_size=(6, 6))
    for _ in range(2):
        dataset.read(np.arange(60))
    fingerprint(dataset)
    assert len(decoded) == 60


def test_decode_image_is_rgb_or_grey(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", np.full((2, 3), 50, np.uint8))
    assert decode_image(path, 1).shape == (2, 3, 1)
    np.testing.assert_array_equal(decode_image(path, 3), np.full((2, 3, 3), 50))
