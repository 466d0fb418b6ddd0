"""Grids, film strips and files of images: where every pixel goes, and what is read back with Pillow and NumPy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinyddpm.errors import ConfigError, DataError, TinyDDPMError
from tinyddpm.figures.images import captioned, film_strip, grid, save_gif, save_images, save_npz, save_png
from tinyddpm.files import replacing
from tinyddpm.samplers.spacings import moments


def some_images(n: int, H: int, W: int, C: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (n, H, W, C), dtype=np.uint8)  # never white


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.name.endswith(".tmp"))


@pytest.mark.slow
@given(
    n=st.integers(1, 12), H=st.integers(1, 9), W=st.integers(1, 9), C=st.sampled_from([1, 3]),
    columns=st.integers(1, 14), scale=st.integers(1, 4), gap=st.integers(0, 3),
)  # fmt: skip
def test_every_pixel_of_a_grid_comes_from_its_image_or_is_white(
    n: int, H: int, W: int, C: int, columns: int, scale: int, gap: int
) -> None:
    """Over counts, sizes, channels, columns, scales and gaps: each pixel is traced back by its own coordinates."""
    images = some_images(n, H, W, C)
    picture = grid(images, columns, scale, gap)
    rows = -(-n // columns)
    assert picture.shape == (rows * (H * scale + gap) + gap, columns * (W * scale + gap) + gap, C)
    for y in range(picture.shape[0]):
        row, down = divmod(y - gap, H * scale + gap)
        for x in range(picture.shape[1]):
            column, right = divmod(x - gap, W * scale + gap)
            i = row * columns + column
            inside = y >= gap and x >= gap and down < H * scale and right < W * scale and i < n
            expected = images[i, down // scale, right // scale] if inside else 255
            assert (picture[y, x] == expected).all(), (y, x)


@pytest.mark.parametrize(
    ("shape", "picture"),
    [
        ((10, 8, 8, 1), (3 * 50 + 2, 4 * 50 + 2, 1)),  # 8 pixels become 48, 10 images stand 4 by 3
        ((9, 28, 28, 1), (3 * 58 + 2, 3 * 58 + 2, 1)),  # 28 become 56
        ((4, 64, 64, 3), (2 * 66 + 2, 2 * 66 + 2, 3)),  # 64 stay
        ((4, 16, 64, 3), (4 * 18 + 2, 66 + 2, 3)),  # four flat ones make one column
        ((1, 2, 100, 1), (2 + 4, 100 + 4, 1)),
    ],
)
def test_small_images_are_enlarged_and_grids_are_near_square(shape: tuple[int, ...], picture: tuple[int, ...]) -> None:
    assert grid(some_images(*shape)).shape == picture


@given(total=st.integers(1, 2000), count=st.integers(1, 300))
def test_moments_are_evenly_spread_and_end_at_the_last(total: int, count: int) -> None:
    """Over lengths and counts: rising, from the first to the last, gaps that differ by at most one."""
    chosen = moments(total, count)
    assert len(chosen) == min(total, count)
    assert chosen[-1] == total - 1
    assert chosen[0] == 0 or count == 1
    gaps = np.diff(chosen)
    assert not len(gaps) or (gaps.min() >= 1 and gaps.max() - gaps.min() <= 1)


def test_film_strip_has_a_row_for_a_sample_and_time_runs_to_the_right() -> None:
    """Frames filled with 10·moment + sample show where each tile came from."""
    frames = [np.stack([np.full((5, 4, 1), 10 * k + i, np.uint8) for i in range(3)]) for k in range(9)]
    strip = film_strip(frames, rows=2, columns=3, scale=1, gap=1)
    assert strip.shape == (2 * 6 + 1, 3 * 5 + 1, 1)
    shown = [[int(strip[1 + 6 * row, 1 + 5 * column, 0]) for column in range(3)] for row in range(2)]
    assert shown == [[0, 40, 80], [1, 41, 81]]
    assert film_strip(frames, rows=9, columns=20, scale=1, gap=0).shape == (3 * 5, 9 * 4, 1)


@pytest.mark.parametrize("C", [1, 3])
def test_png_keeps_every_value(tmp_path: Path, C: int) -> None:
    image = some_images(1, 7, 5, C)[0]
    save_png(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(read(tmp_path / "new" / "a.png").reshape(image.shape), image)


def test_single_images_are_numbered_from_start(tmp_path: Path) -> None:
    images = some_images(3, 6, 4, 3)
    save_images(tmp_path, images, start=9)
    assert sorted(os.listdir(tmp_path)) == ["000009.png", "000010.png", "000011.png"]
    for i, image in enumerate(images):
        np.testing.assert_array_equal(read(tmp_path / f"{9 + i:06d}.png"), image)


@pytest.mark.parametrize("C", [1, 2, 5])
def test_npz_keeps_any_channels_and_labels(tmp_path: Path, C: int) -> None:
    images = some_images(4, 3, 3, C)
    save_npz(tmp_path / "samples.npz", images, labels=[3, 1, 0, 2])
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as file:
        assert sorted(file) == ["images", "labels"]
        np.testing.assert_array_equal(file["images"], images)
        assert file["images"].dtype == np.uint8
        assert file["labels"].dtype == np.int64
        assert file["labels"].tolist() == [3, 1, 0, 2]


def test_npz_keeps_points(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    save_npz(tmp_path / "samples.npz", points)
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as file:
        assert list(file) == ["points"]
        np.testing.assert_array_equal(file["points"], points)


def test_gif_has_its_frames_times_and_grey_values(tmp_path: Path) -> None:
    frames = list(some_images(5, 12, 9, 1))
    save_gif(tmp_path / "a.gif", frames, milliseconds=77, hold_last=1500)
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 5
        assert animation.info["loop"] == 0
        times = []
        for i, frame in enumerate(frames):
            animation.seek(i)
            times.append(animation.info["duration"])
            np.testing.assert_array_equal(np.asarray(animation.convert("L")), frame[..., 0])
    assert times == [80, 80, 80, 80, 1500]


def test_gif_keeps_few_colours_exactly(tmp_path: Path) -> None:
    """Up to 256 colours a frame need no reduction, and a frame has a palette of its own."""
    colours = some_images(3, 1, 40, 3)[:, 0]  # 40 colours a frame
    frames = [np.tile(c, (10, 1)).reshape(10, 40, 3) for c in colours]
    save_gif(tmp_path / "a.gif", frames)
    with Image.open(tmp_path / "a.gif") as animation:
        for i, frame in enumerate(frames):
            animation.seek(i)
            np.testing.assert_array_equal(np.asarray(animation.convert("RGB")), frame)


def test_gif_of_equal_frames_lasts_as_long(tmp_path: Path) -> None:
    frame = some_images(1, 8, 8, 1)[0]
    save_gif(tmp_path / "a.gif", [frame, frame, frame, 254 - frame], milliseconds=50, hold_last=200)
    with Image.open(tmp_path / "a.gif") as animation:
        total = 0
        for i in range(animation.n_frames):
            animation.seek(i)
            total += animation.info["duration"]
    assert total == 3 * 50 + 200


def test_gif_of_one_frame(tmp_path: Path) -> None:
    frame = some_images(1, 8, 8, 1)[0]
    save_gif(tmp_path / "a.gif", [frame])
    with Image.open(tmp_path / "a.gif") as picture:
        np.testing.assert_array_equal(np.asarray(picture.convert("L")), frame[..., 0])


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with replacing(target) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_write_shows_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replacing(target) as file:
        file.write(b"new")
        assert not target.exists()
        assert len(leftovers(tmp_path)) == 1  # staged in the same folder
    assert target.read_bytes() == b"new"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("name", ["taken", "file.txt/a.png", "file.txt/deep/a.png"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    """A folder in the place of the file, and a file in the place of a folder."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "file.txt").write_text("kept")
    with pytest.raises(DataError, match=f"cannot write .*{name}: ") as refusal:
        save_png(tmp_path / name, some_images(1, 4, 4, 1)[0])
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "file.txt").read_text() == "kept"
    assert leftovers(tmp_path) == []


IMAGES = some_images(2, 4, 4, 1)


@pytest.mark.parametrize(
    ("call", "error", "line"),
    [
        (lambda p: grid(some_images(2, 4, 4, 2)), DataError, "2 channels: .* save these as .npz"),
        (lambda p: save_png(p, some_images(1, 4, 4, 4)[0]), DataError, "4 channels: "),
        (lambda p: save_images(p, some_images(2, 4, 4, 5)), DataError, "5 channels: "),
        (lambda p: grid(IMAGES.astype(np.float32)), DataError, r"float32 .* uint8 \(n, H, W, C\)"),
        (lambda p: grid(IMAGES[:0]), DataError, "none may be empty"),
        (lambda p: save_png(p, IMAGES), DataError, r"\(2, 4, 4, 1\): images are uint8 \(H, W, C\)"),
        (lambda p: grid(IMAGES, columns=0), ConfigError, "columns is 0: "),
        (lambda p: grid(IMAGES, scale=0), ConfigError, "scale is 0: "),
        (lambda p: grid(IMAGES, gap=-1), ConfigError, "gap is -1: "),
        (lambda p: film_strip([IMAGES], rows=0), ConfigError, "rows is 0: "),
        (lambda p: film_strip([IMAGES], columns=0), ConfigError, "cannot choose 0 of 1 moments"),
        (lambda p: film_strip([]), DataError, r"have the shapes \[\]: give at least one"),
        (lambda p: save_gif(p, []), DataError, "at least one"),
        (lambda p: save_gif(p, [IMAGES[0], IMAGES[0, :2]]), DataError, "all of the same shape"),
        (lambda p: save_gif(p, [IMAGES[0]], milliseconds=10), ConfigError, "milliseconds is 10: .* 20 to 60000"),
        (lambda p: save_gif(p, [IMAGES[0]], hold_last=70_000), ConfigError, "hold_last is 70000: "),
        (lambda p: save_npz(p, IMAGES, labels=[1]), DataError, "2 samples and labels of shape"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    tmp_path: Path, call: Callable[[Path], Any], error: type[TinyDDPMError], line: str
) -> None:
    with pytest.raises(error, match=line) as refusal:
        call(tmp_path / "a")
    assert "\n" not in str(refusal.value)
    assert os.listdir(tmp_path) == []


def test_words_stand_beside_the_images_of_their_row() -> None:
    """A row a text, in the order of their coming; as right of the margin as without words, and ink in each margin."""
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    picture = captioned(images, ["one", "two", "one", "two", "one"], scale=6)
    rows = np.concatenate([images[[0, 2, 4]], images[[1, 3]], np.full((1, 8, 8, 3), 255, np.uint8)])
    expected = grid(rows, columns=3, scale=6)
    np.testing.assert_array_equal(picture[:, -expected.shape[1] :], expected)
    margin = picture[:, : -expected.shape[1]]
    for row in (margin[:50], margin[50:100]):
        assert (row < 128).any()
    assert not np.array_equal(margin[:50], margin[50:100])
    grey = captioned(images[..., :1], ["a caption that goes on and on, for lines and lines" for _ in images])
    assert grey.shape[2] == 1


def test_a_row_of_words_goes_on_in_the_next() -> None:
    images = np.zeros((20, 8, 8, 1), np.uint8)
    assert captioned(images, ["one"] * 20, scale=2).shape[0] == 2 * 18 + 2
