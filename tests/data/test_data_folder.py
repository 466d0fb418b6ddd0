"""Folders of images: what is found, how it is decoded, and what is refused by name."""

from __future__ import annotations

import runpy
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinyddpm.data import open_dataset
from tinyddpm.data.fingerprint import fingerprint
from tinyddpm.data.image_files import decode_image
from tinyddpm.errors import ConfigError, DataError, TinyDDPMWarning

ROOT = Path(__file__).parents[2]


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def colours(rng: np.random.Generator, height: int = 6, width: int = 5) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def everything(path: Path, **options: object) -> np.ndarray:
    dataset = open_dataset(str(path), **options)  # type: ignore[arg-type]
    return dataset.read(np.arange(len(dataset)))


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


def test_the_order_is_that_of_names_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name, value in {"b.png": 200, "a.png": 100, "c.bmp": 250}.items():
        save(tmp_path / name, np.full((4, 4), value, np.uint8))
    save(tmp_path / ".hidden.png", np.zeros((9, 9), np.uint8))
    save(tmp_path / ".hidden" / "x.png", np.zeros((9, 9), np.uint8))
    (tmp_path / "notes.txt").write_text("not an image, and not called one")
    dataset = open_dataset(str(tmp_path))
    assert dataset.description == f"{tmp_path}: 3 images 4x4x1"
    assert dataset.labels is None
    assert dataset.read(np.arange(3))[:, 0, 0, 0].tolist() == [100, 200, 250]


def test_subfolders_are_classes(tmp_path: Path) -> None:
    for k, name in enumerate(["dog/1.png", "cat/1.png", "cat/2.png"], 100):
        save(tmp_path / name, np.full((4, 4), k, np.uint8))
    (tmp_path / "empty").mkdir()
    dataset = open_dataset(str(tmp_path))
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.labels.dtype == np.int64
    assert dataset.read(np.arange(3))[:, 0, 0, 0].tolist() == [101, 102, 100]


def test_split_folders(tmp_path: Path) -> None:
    save(tmp_path / "train" / "cat" / "1.png", np.full((4, 4), 100, np.uint8))
    save(tmp_path / "test" / "cat" / "1.png", np.full((4, 4), 200, np.uint8))
    assert everything(tmp_path).flat[0] == 100
    assert everything(tmp_path, split="test").flat[0] == 200
    assert open_dataset(str(tmp_path)).classes == ("cat",)


@pytest.mark.parametrize(
    ("train", "test", "beside"),
    [
        ("train", "test", []),
        ("Train", "TEST", ["valid"]),
        ("training", "testing", ["dev", "empty/"]),
        ("train_set", "test_set", ["masks/", "__MACOSX"]),
        ("train2017", "eval", ["val2017", ".hidden"]),
    ],
)
def test_splits_have_many_names(tmp_path: Path, train: str, test: str, beside: list[str]) -> None:
    """Whatever they are called, they are no classes; nor are folders beside them that hold no images."""
    for value, name in enumerate([train, test, *beside]):
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            save(tmp_path / name / "1.png", np.full((4, 4), 150 + value, np.uint8))
    dataset = open_dataset(str(tmp_path))
    assert (len(dataset), dataset.classes) == (1, ())
    assert everything(tmp_path).flat[0] == 150
    assert everything(tmp_path, split="test").flat[0] == 151


@pytest.mark.parametrize(
    ("folders", "line"),
    [
        (["train", "plane"], r"holds splits \(train\) beside other folders of images \(plane\): move the others out"),
        (["train", "test", "masks/a"], r"holds splits \(test, train\) beside other folders of images \(masks\)"),
        (["train", "Training"], r"holds the split 'train' as Training, train: keep one"),
        (["val", "test"], r"has no split 'train': use 'test' or 'validation'"),
    ],
)
def test_splits_among_other_folders_are_refused(tmp_path: Path, folders: list[str], line: str) -> None:
    for name in folders:
        save(tmp_path / name / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=line):
        open_dataset(str(tmp_path))


def test_every_split_that_is_named_can_be_read(tmp_path: Path) -> None:
    for name in ("train", "val"):
        save(tmp_path / name / "1.png", np.full((4, 4), 50 * len(name), np.uint8))
    with pytest.raises(DataError, match="has no split 'test': use 'train' or 'validation'"):
        open_dataset(str(tmp_path), split="test")
    assert everything(tmp_path, split="validation").flat[0] == 150


def test_a_class_may_begin_as_a_split_does(tmp_path: Path) -> None:
    names = ("bullet train", "test tube", "train station", "values")
    for name in names:
        save(tmp_path / name / "1.png", np.zeros((4, 4), np.uint8))
    assert open_dataset(str(tmp_path)).classes == names


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="has no split 'test': use 'train'"):
        open_dataset(str(tmp_path), split="test")


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


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("png", {}), ("webp", {"lossless": True}), ("tif", {})])
def test_of_an_animation_the_first_frame_is_taken_or_all(
    tmp_path: Path, suffix: str, options: dict[str, object]
) -> None:
    """Or of a stack of pages. Without --frames all it is said how many are left out; classes go with each frame."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    first, *others = (Image.new("RGB", (4, 4), colour) for colour in colours)
    for name in ("a/x", "b/y"):
        path = tmp_path / f"{name}.{suffix}"
        path.parent.mkdir()
        first.save(path, save_all=True, append_images=others if name == "a/x" else [], **options)
    with pytest.warns(TinyDDPMWarning, match=r": 2 of 4 images are used; 2 are further frames .* --frames all takes"):
        assert everything(tmp_path)[:, 0, 0].tolist() == [[255, 0, 0]] * 2
    dataset = open_dataset(str(tmp_path), options={"frames": "all"})
    assert [tuple(pixel) for pixel in dataset.read(np.arange(4))[:, 0, 0].tolist()] == [*colours, (255, 0, 0)]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 1]


def test_frames_of_several_sizes_are_refused_without_one(tmp_path: Path) -> None:
    large, small = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (4, 4), "red")
    large.save(tmp_path / "x.tif", save_all=True, append_images=[small])
    with pytest.raises(DataError, match=r"x\.tif has frames of several sizes: bring them to one with --image-size HxW"):
        everything(tmp_path, options={"frames": "all"})
    assert everything(tmp_path, options={"frames": "all"}, image_size=(4, 4)).shape == (2, 4, 4, 3)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    """In one line: images in deeper folders and beside splits, and files of other kinds; texts are none."""
    for name in ("train/cat/1.png", "train/cat/old/2.png", "train/dog/3.png", "train/dog/a/b/4.png", "5.png"):
        save(tmp_path / name, np.full((4, 4), 200, np.uint8))
    for name in ("train/cat/6.heic", "train/7.svg", "train/README.md", "train/LICENSE", "train/dog/3.txt.json"):
        (tmp_path / name).write_text("?")
    with pytest.warns(TinyDDPMWarning) as said:
        assert len(open_dataset(str(tmp_path))) == 2
    line = (
        f"{tmp_path}: 2 of 7 images are used; 3 lie in other folders (5.png, train/cat/old/2.png, train/dog/a/b/4.png);"
        " 2 are of kinds that are not read (train/7.svg, train/cat/6.heic)"
    )
    assert [str(warning.message) for warning in said] == [line]


def test_images_that_lie_too_deep_are_named(tmp_path: Path) -> None:
    save(tmp_path / "animals" / "cat" / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(
        DataError, match=r"holds images only deeper, such as .*cat/1\.png: give the folder of their clas"
    ):
        open_dataset(str(tmp_path))


@pytest.mark.filterwarnings("error")
def test_where_nothing_is_left_out_nothing_is_said(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.png"):
        save(tmp_path / name, np.full((4, 4), 200, np.uint8))
    for name in ("notes.txt", "Notes.TXT", "Thumbs.db", ".DS_Store", "LICENSE", "__MACOSX/1.png", "cat/.old/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("?")
    (tmp_path / "cat" / "folder.png").mkdir()
    (tmp_path / "cat" / "more").mkdir()
    (tmp_path / "cat" / "more" / "gone.png").symlink_to("nowhere.png")
    assert len(open_dataset(str(tmp_path))) == 2


def test_each_frame_has_the_caption_of_its_file(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "y.png")
    for name, caption in (("x", "moving"), ("y", "still")):
        (tmp_path / f"{name}.txt").write_text(caption)
    dataset = open_dataset(str(tmp_path), options={"frames": "all"})
    assert dataset.columns["text"].tolist() == ["moving", "moving", "moving", "still"]


@pytest.mark.filterwarnings("error")
def test_the_preview_in_a_photo_is_no_frame(tmp_path: Path, rng: np.random.Generator) -> None:
    photo, preview = (Image.fromarray(colours(rng, *size)) for size in ((16, 16), (8, 8)))
    photo.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[preview])
    for frames in ("first", "all"):
        assert everything(tmp_path, options={"frames": frames}).shape == (1, 16, 16, 3)


def test_frames_are_counted_as_images(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    for name in "abcd":
        (tmp_path / f"{name}.heic").write_text("?")
    with pytest.warns(TinyDDPMWarning, match=r": 3 of 7 images .*; 4 are of .* \(a\.heic, b\.heic, c\.heic, …\)$"):
        open_dataset(str(tmp_path), options={"frames": "all"})


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


def test_images_of_several_sizes_are_refused_without_one(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((4, 5), np.uint8))
    save(tmp_path / "b.png", np.zeros((6, 7), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is 4x5 and .*b\.png is 6x7: .*--image-size HxW"):
        open_dataset(str(tmp_path))


def test_a_text_file_as_image_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "b.png").write_text("hello")
    with pytest.raises(DataError, match=r"b\.png is no image.*: remove it"):
        open_dataset(str(tmp_path))


def test_all_broken_images_are_named_at_once(tmp_path: Path, rng: np.random.Generator) -> None:
    """Those that are none as well as those that end too early, and no others."""
    for name in "abcd":
        save(tmp_path / f"{name}.png", colours(rng, 40, 40))
    (tmp_path / "a.png").write_text("hello")
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:-300])
    with pytest.raises(DataError) as caught:
        open_dataset(str(tmp_path))
    names = "; ".join(str(tmp_path / name) for name in ("a.png", "c.png"))
    assert str(caught.value) == f"2 of 4 images are none or broken: {names}: remove them, or save them anew"


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


def png(colour: int, depth: int, pixel: bytes, clear: bytes) -> bytes:
    """A PNG of one pixel, with the value that is transparent."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + pixel)), (b"IEND", b"")]
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


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"background": "whitish"}, "there is no colour 'whitish': give a name or such as #ffe0c0"),
        ({"frames": "some"}, "frames are 'some': give first or all"),
        ({"frames": 3}, "option frames of .* is 3: give a text"),
        ({"colour": "red"}, "is a path: unknown option 'colour'"),
    ],
)
def test_options_that_are_wrong_are_refused(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    save(tmp_path / "x.png", SHADES)
    with pytest.raises(ConfigError, match=line):
        open_dataset(str(tmp_path), options=options)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "x.png", np.zeros((30, 30), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(DataError, match=r"x\.png is too large an image .*: make it smaller"):
        open_dataset(str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match=rf"{tmp_path} holds no images .*: check the path"):
        open_dataset(str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.tfrecord").write_bytes(b"\0")
    with pytest.raises(DataError, match=r"holds no images .* but such as data/train-00000\.tfrecord, nor do its subf"):
        open_dataset(str(tmp_path))


def test_images_beside_classes_are_refused(tmp_path: Path) -> None:
    for name in ("stray.png", "cat/1.png"):
        save(tmp_path / name, np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"holds images \(stray\.png\) beside folders of images \(cat\)"):
        open_dataset(str(tmp_path))


def test_more_than_fits_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(3):
        save(tmp_path / f"{k}.png", np.zeros((10, 10, 3), np.uint8))
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", 899)
    with pytest.raises(DataError, match=r"GiB.*HDF5.*examples/pack_folder\.py"):
        open_dataset(str(tmp_path))
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", 900)
    assert len(open_dataset(str(tmp_path))) == 3


def test_many_images_stay_in_order(tmp_path: Path) -> None:
    """The threads that decode them put each in its place."""
    for k in range(100):
        save(tmp_path / f"{k:03d}.png", np.full((3, 3), k, np.uint8))
    assert everything(tmp_path)[:, 1, 1, 0].tolist() == list(range(100))


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


@pytest.mark.parametrize("size", [None, "4x4"])
def test_a_packed_folder_is_the_folder(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, size: str | None
) -> None:
    """examples/pack_folder.py, with classes."""
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        save(tmp_path / "images" / name, colours(rng))
    target = tmp_path / "packed.h5"
    monkeypatch.setattr(sys, "argv", ["pack", str(tmp_path / "images"), str(target), *([size] if size else [])])
    runpy.run_path(str(ROOT / "examples" / "pack_folder.py"), run_name="__main__")
    packed = open_dataset(str(target))
    folder = open_dataset(str(tmp_path / "images"), image_size=(4, 4) if size else None)
    assert packed.classes == folder.classes
    np.testing.assert_array_equal(packed.labels, folder.labels)
    np.testing.assert_array_equal(packed.read(np.arange(3)), folder.read(np.arange(3)))
    with pytest.raises(SystemExit, match=r"error: .*exist"):
        runpy.run_path(str(ROOT / "examples" / "pack_folder.py"), run_name="__main__")
