"""Folders of images: what is found, how it is decoded, and what is refused by name."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyddpm.data import open_dataset
from tinyddpm.data.folder import decode_image
from tinyddpm.errors import DataError

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


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "TIFF", "webp"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    pixels = colours(rng)
    save(tmp_path / f"x.{suffix}", pixels, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(everything(tmp_path), pixels[None])


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "gif"])
def test_lossy_formats_keep_a_plain_colour(tmp_path: Path, suffix: str) -> None:
    pixels = np.full((8, 8, 3), [200, 100, 50], np.uint8)
    save(tmp_path / f"x.{suffix}", pixels)
    np.testing.assert_allclose(everything(tmp_path)[0].astype(int), pixels.astype(int), atol=3)


def test_the_order_is_that_of_names_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name, value in {"b.png": 2, "a.png": 1, "c.bmp": 3}.items():
        save(tmp_path / name, np.full((4, 4), value, np.uint8))
    save(tmp_path / ".hidden.png", np.zeros((9, 9), np.uint8))
    save(tmp_path / ".hidden" / "x.png", np.zeros((9, 9), np.uint8))
    (tmp_path / "notes.txt").write_text("not an image, and not called one")
    dataset = open_dataset(str(tmp_path))
    assert dataset.description == f"{tmp_path}: 3 images 4x4x1"
    assert dataset.labels is None
    assert dataset.read(np.arange(3))[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_subfolders_are_classes(tmp_path: Path) -> None:
    for k, name in enumerate(["dog/1.png", "cat/1.png", "cat/2.png"]):
        save(tmp_path / name, np.full((4, 4), k, np.uint8))
    (tmp_path / "empty").mkdir()
    dataset = open_dataset(str(tmp_path))
    assert dataset.classes == ("cat", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.labels.dtype == np.int64
    assert dataset.read(np.arange(3))[:, 0, 0, 0].tolist() == [1, 2, 0]


def test_split_folders(tmp_path: Path) -> None:
    save(tmp_path / "train" / "cat" / "1.png", np.full((4, 4), 1, np.uint8))
    save(tmp_path / "test" / "cat" / "1.png", np.full((4, 4), 2, np.uint8))
    assert everything(tmp_path).flat[0] == 1
    assert everything(tmp_path, split="test").flat[0] == 2
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
        save(tmp_path / name / "1.png", np.full((4, 4), len(name), np.uint8))
    with pytest.raises(DataError, match="has no split 'test': use 'train' or 'validation'"):
        open_dataset(str(tmp_path), split="test")
    assert everything(tmp_path, split="validation").flat[0] == 3


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
    save(tmp_path / "b.png", np.full((4, 4, 3), [1, 2, 3], np.uint8))
    images = everything(tmp_path)
    assert images.shape == (2, 4, 4, 3)
    assert images[:, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3]]


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


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second])
    assert everything(tmp_path)[0, 0, 0].tolist() == [255, 0, 0]


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


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_a_truncated_image_is_refused(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    path = save(tmp_path / f"x.{suffix}", colours(rng, 40, 40))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=rf"x\.{suffix} is (a broken|no) image.*: remove it"):
        open_dataset(str(tmp_path))


def test_floating_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif has floating-point pixels: save it with 8 or 16 bits"):
        open_dataset(str(tmp_path))


def test_grey_beyond_sixteen_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif has pixels outside 0 to 65535"):
        open_dataset(str(tmp_path))


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "x.png", np.zeros((30, 30), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(DataError, match=r"x\.png is too large an image .*: make it smaller"):
        open_dataset(str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match=rf"{tmp_path} holds no images .*: check the path"):
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


def test_decode_image_is_rgb_or_grey(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", np.full((2, 3), 5, np.uint8))
    assert decode_image(path, 1).shape == (2, 3, 1)
    np.testing.assert_array_equal(decode_image(path, 3), np.full((2, 3, 3), 5))


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
