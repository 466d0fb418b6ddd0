"""Transforms: what each does, against implementations of its equations, and how often; recorded, cut, and in a row."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cuda.conftest import make_shim
from helpers.cuda_tape import TapeBackend
from tinyddpm.backend import Backend, load_backend
from tinyddpm.errors import ConfigError, RegistryError
from tinyddpm.transforms import Transforms

NUMPY = load_backend("numpy")
HostArray = np.ndarray[Any, Any]


def images(n: int, height: int, width: int, channels: int) -> HostArray:
    return np.random.default_rng(3).uniform(-1, 1, (n, height, width, channels)).astype(np.float32)


def done(
    name: str, x_0: HostArray, numbers: Any = None, step: int = 4, backend: Backend = NUMPY, **options: Any
) -> tuple[HostArray, HostArray]:
    """Return what a transform makes of images, and what it says, on the host."""
    transforms = Transforms({name: options}, x_0.shape[1:])
    numbers = np.arange(len(x_0)) if numbers is None else numbers
    y, told = transforms(backend.random(7), step, numbers, backend.asarray(x_0))
    return backend.to_numpy(y), backend.to_numpy(told)


def binomial_limits(n: int, p: float, failures: float = 1e-6) -> tuple[float, float]:
    """Return between which counts n trials of probability p end but with about this probability."""
    spread = -NormalDist().inv_cdf(failures / 2) * math.sqrt(n * p * (1 - p))
    return n * p - spread, n * p + spread


@pytest.mark.parametrize(
    ("name", "options", "p"),
    [("flip", {}, 0.5), ("flip", {"p": 0.2}, 0.2), ("crop", {}, 0.12), ("crop", {"p": 0.7}, 0.7),
     ("shift", {"p": 0.5, "most": 1}, 0.5 * 8 / 9), ("colour", {"p": 0.3}, 1 - 0.7**4)],
)  # fmt: skip
def test_it_is_done_as_often_as_is_said(name: str, options: dict[str, Any], p: float) -> None:
    """Of 4,000 images, within what chance exceeds once in a million times; a shift may be by nothing."""
    _, told = done(name, np.zeros((4000, 4, 4, 3), np.float32), **options)
    low, high = binomial_limits(len(told), p)
    assert low < told.any(axis=1).sum() < high


def test_a_flip_mirrors_left_to_right() -> None:
    x_0 = images(40, 3, 5, 2)
    y, told = done("flip", x_0)
    for image, found, (said,) in zip(x_0, y, told, strict=True):
        np.testing.assert_array_equal(found, image[:, ::-1] if said else image)
    assert set(told.ravel()) == {0, 1}


def test_a_shift_moves_whole_pixels_and_reflects() -> None:
    """Against NumPy's padding by reflection; each of the 49 shifts is as likely as any other."""
    x_0, most = images(2000, 4, 6, 1), 3
    y, told = done("shift", x_0, most=most, p=1.0)
    by = np.rint(told * most).astype(int)
    np.testing.assert_allclose(by / most, told, rtol=1e-6)
    for image, found, (down, right) in zip(x_0, y, by, strict=True):
        padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(found, padded[most - down :, most - right :][:4, :6])
    counts = np.unique(by, axis=0, return_counts=True)[1]
    low, high = binomial_limits(len(by), 1 / 49)
    assert len(counts) == 49
    assert low < counts.min() <= counts.max() < high


def test_a_crop_is_a_window_enlarged() -> None:
    """Against Pillow's bilinear interpolation in a box that what is said gives: its sides, and where its centre is.

    The share of the area is uniform from `least` to 1: its mean is within what chance exceeds once in a million times.
    """
    (height, width), least = (9, 12), 0.4
    x_0 = images(300, height, width, 1)
    y, told = done("crop", x_0, least=least, p=1.0)
    smallest = math.sqrt(least)
    side, down, right = (
        1 - told[:, 0] * (1 - smallest),
        told[:, 1] * (1 - smallest) / 2,
        told[:, 2] * (1 - smallest) / 2,
    )
    for i in range(len(x_0)):
        top, left = height * (0.5 + down[i] - side[i] / 2), width * (0.5 + right[i] - side[i] / 2)
        box = (max(left, 0), max(top, 0), min(left + side[i] * width, width), min(top + side[i] * height, height))
        pillow = Image.fromarray(x_0[i, ..., 0])
        inside = _interpolated(pillow, box, height, width)
        np.testing.assert_allclose(y[i, ..., 0], inside, atol=2e-5)
    area = side**2
    spread = (1 - least) / math.sqrt(12 * len(area))
    assert abs(area.mean() - (1 + least) / 2) < -NormalDist().inv_cdf(5e-7) * spread
    assert least <= area.min() < area.max() <= 1


def _interpolated(picture: Image.Image, box: tuple[float, ...], height: int, width: int) -> HostArray:
    """Return the box of a picture, enlarged by Pillow's affine transform, whose edges repeat the outermost pixels."""
    pad = 2
    large = Image.fromarray(np.pad(np.asarray(picture), pad, mode="edge"))
    left, top, right, bottom = box
    x_scale, y_scale = (right - left) / width, (bottom - top) / height
    affine = (x_scale, 0, left + pad, 0, y_scale, top + pad)
    return np.asarray(large.transform((width, height), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR))


def edms_colours(image: HostArray, said: HostArray, brightness: float, contrast: float, saturation: float) -> HostArray:
    """Return an image (H, W, 3) by EDM's matrices of 4×4 for these numbers, multiplied as its code does."""
    w_b, w_c, cos_less, sin, w_s = said.astype(float)
    v = np.asarray([1.0, 1.0, 1.0]) / math.sqrt(3)
    moved, scaled, turned, faded = (np.eye(4) for _ in range(4))
    moved[:3, 3] = w_b * brightness
    scaled[:3, :3] *= 2 ** (w_c * contrast)
    cross = np.asarray([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    turned[:3, :3] = np.eye(3) + sin * cross - cos_less * cross @ cross  # Rodrigues' formula
    faded[:3, :3] = np.outer(v, v) + (np.eye(3) - np.outer(v, v)) * 2 ** (w_s * saturation)
    matrix = faded @ turned @ scaled @ moved
    result: HostArray = np.clip(image.astype(float) @ matrix[:3, :3].T + matrix[:3, 3], -1, 1)
    return result


def test_colours_change_as_edms_matrices_change_them() -> None:
    """Whatever of the four is done to an image; what is left as it was keeps its bits."""
    x_0 = images(200, 3, 4, 3)
    y, told = done("colour", x_0, brightness=0.3, contrast=0.4, saturation=0.7, p=0.5)
    for image, found, said in zip(x_0, y, told, strict=True):
        np.testing.assert_allclose(found, edms_colours(image, said, 0.3, 0.4, 0.7), atol=2e-6)
    np.testing.assert_allclose((told[:, 2] + 1) ** 2 + told[:, 3] ** 2, 1, atol=1e-6)
    assert len(np.unique(told.astype(bool)[:, [0, 1, 3, 4]], axis=0)) == 16


def test_the_hue_turns_no_further_than_is_said() -> None:
    _, told = done("colour", np.zeros((2000, 1, 1, 3), np.float32), hue=0.25, p=1.0)
    angle = np.arctan2(told[:, 3], told[:, 2] + 1) / math.pi
    assert 0.24 < angle.max() <= 0.25
    assert -0.25 <= angle.min() < -0.24


def test_grey_images_get_brighter_and_harder() -> None:
    x_0 = images(50, 3, 4, 1)
    y, told = done("colour", x_0, p=1.0)
    assert told.shape == (50, 2)
    w_b, w_c = told.astype(float).T[:, :, None, None, None]
    np.testing.assert_allclose(y, np.clip(2 ** (0.5 * w_c) * (x_0 + 0.2 * w_b), -1, 1), atol=2e-6)


ALL: dict[str, dict[str, Any]] = {"colour": {"p": 0.5}, "shift": {"p": 0.5}, "flip": {}, "crop": {"p": 0.5}}


def test_a_sample_has_its_own_whatever_the_batch() -> None:
    """All of a batch at once, one by one, and backwards: the same bits; another step, seed or sample: others."""
    x_0 = np.repeat(images(1, 6, 6, 3), 20, axis=0)
    transforms = Transforms(ALL, (6, 6, 3))
    whole, said = transforms(NUMPY.random(7), 4, np.arange(20), x_0)
    for i in reversed(range(20)):
        y, told = transforms(NUMPY.random(7), 4, np.asarray([i]), x_0[:1])
        np.testing.assert_array_equal(y[0], whole[i])
        np.testing.assert_array_equal(told[0], said[i])
    assert len(np.unique(said, axis=0)) > 15
    for seed, step in ((8, 4), (7, 5)):
        assert not np.array_equal(transforms(NUMPY.random(seed), step, np.arange(20), x_0)[1], said)


def test_they_are_done_in_their_order_by_numbers_of_their_own() -> None:
    """Two of them are the second of what the first gave; by the place that each has, so that they do not agree."""
    x_0 = images(30, 6, 6, 1)
    both = Transforms({"shift": {"p": 1.0}, "crop": {"p": 1.0}}, (6, 6, 1))
    y, told = both(NUMPY.random(7), 4, np.arange(30), x_0)
    shifted, by = done("shift", x_0, p=1.0)
    np.testing.assert_array_equal(told[:, :2], by)
    alone, window = done("crop", shifted, p=1.0)
    assert not np.array_equal(told[:, 2:], window), "the first draw of the second is not the first's"
    assert not np.array_equal(y, alone)
    turned = Transforms({"crop": {"p": 1.0}, "shift": {"p": 1.0}}, (6, 6, 1))
    assert not np.array_equal(turned(NUMPY.random(7), 4, np.arange(30), x_0)[0], y)


@pytest.mark.parametrize("name", ["numba", "torch"])
def test_other_backends_do_the_same(name: str) -> None:
    pytest.importorskip(name)
    x_0 = images(30, 6, 8, 3)
    transforms, backend = Transforms(ALL, (6, 8, 3)), load_backend(name)
    found = transforms(backend.random(7), 4, np.arange(30), backend.asarray(x_0))
    for ours, theirs in zip(found, transforms(NUMPY.random(7), 4, np.arange(30), x_0), strict=True):
        np.testing.assert_allclose(backend.to_numpy(ours), theirs, atol=2e-6)


def test_they_are_recorded() -> None:
    """On the device alone, without a word from the host: what is replayed is what NumPy does, for each new step."""
    make_shim("CPU, little shared memory")
    tape, x_0 = TapeBackend(), images(10, 4, 6, 3)
    transforms, random = Transforms(ALL, (4, 6, 3)), tape.random(7)
    captured = tape.captured(lambda step, numbers, x: transforms(random, step, numbers, x))
    for step in range(4):
        found = captured(tape.asarray(np.asarray([step])), tape.asarray(np.arange(10)), tape.asarray(x_0))
        for ours, theirs in zip(found, transforms(NUMPY.random(7), step, np.arange(10), x_0), strict=True):
            np.testing.assert_allclose(tape.to_numpy(ours), theirs, atol=2e-6)
    assert len(tape.recorded) == 1


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("flip", {"p": 1.5}, r"^transforms.flip.p is 1.5: it must lie in \[0, 1\]$"),
        ("shift", {"most": 0}, "^transforms.shift.most is 0: give from 1 to 3 pixels$"),
        ("shift", {"most": 4}, "most is 4: give from 1 to 3 pixels"),
        ("crop", {"least": 1.0}, "transforms.crop.least is 1.0: give a share of the area between 0 and 1"),
        ("colour", {"hue": 2.0}, "transforms.colour.hue is 2.0: it must lie in"),
        ("colour", {"contrast": -0.1}, "transforms.colour.contrast is -0.1: it must lie in"),
        ("shift", {"moost": 1}, "unknown option of transform 'shift' 'moost': did you mean 'most'"),
    ],
)
def test_what_is_wrong_is_one_line(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Transforms({name: options}, (4, 6, 3))


def test_a_shift_of_images_of_one_row_is_refused_without_a_range() -> None:
    with pytest.raises(ConfigError, match=r"^transforms\.shift\.most is 2: leave it out, images have one row or col"):
        Transforms({"shift": {}}, (1, 6, 3))


def test_points_and_unknown_names_are_refused() -> None:
    for name in ALL:
        with pytest.raises(
            ConfigError, match=f"^transform '{name}' is for images, and the samples are points: leave it"
        ):
            Transforms({name: {}}, (2,))
    with pytest.raises(RegistryError, match="unknown transform 'flipp': did you mean 'flip'"):
        Transforms({"flipp": {}}, (4, 6, 3))
