"""HDF5: read lazily, and nothing but this file."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.data import open_dataset
from tinyddpm.data.fingerprint import fingerprint
from tinyddpm.data.hdf5 import HDF5Dataset
from tinyddpm.errors import DataError

N = 12


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (N, 4, 3, 2)).astype(np.uint8)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("hdf5") / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "images", data=images, chunks=(2, 4, 3, 2), compression="gzip", shuffle=True, fletcher32=True
        )
        file["labels"] = np.arange(N) % 3
        file["classes"] = np.frombuffer(json.dumps(["é", "b", "c"]).encode(), np.uint8)
    return path


@pytest.mark.slow
@given(indices=st.lists(st.integers(0, N - 1), min_size=1, max_size=20))
def test_lazy_reading_is_indexing(packed: Path, images: np.ndarray, indices: list[int]) -> None:
    """Over lists of indices in any order, repeated or not."""
    np.testing.assert_array_equal(open_dataset(str(packed)).read(np.array(indices)), images[indices])


def test_labels_and_classes(packed: Path) -> None:
    dataset = open_dataset(str(packed))
    assert dataset.description == f"{packed}: 12 images 4x3x2, 3 classes"
    assert dataset.classes == ("é", "b", "c")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 2] * 4


def test_images_are_read_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may be held in memory opens, and what is read is right."""
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["images"] = np.arange(100, dtype=np.uint8).repeat(100).reshape(100, 10, 10)
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", 5000)
    dataset = open_dataset(str(tmp_path / "x.hdf5"))
    assert dataset.shape == (10, 10, 1)
    assert dataset.read(np.array([70, 3, 70]))[:, 5, 5, 0].tolist() == [70, 3, 70]


def test_threads_may_read_at_once(packed: Path, images: np.ndarray) -> None:
    dataset = open_dataset(str(packed))
    batches = [np.random.default_rng(k).integers(0, N, 8) for k in range(64)]
    with ThreadPoolExecutor(4) as pool:
        for batch, found in zip(batches, pool.map(dataset.read, batches), strict=True):
            np.testing.assert_array_equal(found, images[batch])


def test_resizing_at_read_time(packed: Path) -> None:
    dataset = open_dataset(str(packed), image_size=(2, 2))
    assert dataset.shape == (2, 2, 2)
    assert dataset.read(np.array([1, 1])).shape == (2, 2, 2, 2)


def test_points(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["points"] = points
    dataset = open_dataset(str(tmp_path / "x.h5"))
    assert dataset.shape == (2,)
    np.testing.assert_array_equal(dataset.read(np.arange(6)), points)


def test_points_are_not_called_images(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = np.zeros((6, 3), np.float32)
    refused(tmp_path / "x.h5", "`images` are points in 3 dimensions: name the dataset `points`")


def test_what_is_read_into_memory_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but images is, and the line says what it is."""
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", 79)
    others = {
        "points": np.zeros((10, 2), np.float32),
        "labels": np.zeros(10, np.int64),
        "tokens": np.zeros((10, 2, 2), np.float16),
    }
    for key, values in others.items():
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["images"] = np.zeros((10, 8, 8), np.uint8)
            if key == "points":
                del file["images"]
            file[key] = values
        refused(tmp_path / "x.h5", f"`{key}`: .* GiB .* only images are read as needed; shrink it")


@pytest.mark.parametrize("key", ["labels", "tokens", "length"])
def test_columns_of_other_lengths_are_refused_unread(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few megabytes may unfold to gigabytes."""
    monkeypatch.setattr("tinyddpm.data.hdf5.check_memory", lambda *_: pytest.fail("it is read"))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = np.zeros((4, 8, 8), np.uint8)
        file[key] = np.zeros(5)
    refused(tmp_path / "x.h5", rf"`{key}` has the shape \(5,\): store a row for each of 4 samples")


def refused(path: Path, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"{path.name}.*{complaint}") as error:
        open_dataset(str(path))
    assert "\n" not in str(error.value)


def test_links_are_not_followed(tmp_path: Path, packed: Path) -> None:
    """External and soft ones, on each dataset; also where there is nothing at their end."""
    for link in (
        h5py.ExternalLink(str(packed), "/images"),
        h5py.ExternalLink("gone.h5", "/x"),
        h5py.SoftLink("/other"),
    ):
        for key in ("images", "labels", "classes"):
            path = tmp_path / "x.h5"
            with h5py.File(path, "w") as file:
                file["other"] = np.zeros((3, 2, 2), np.uint8)
                if key != "images":
                    file["images"] = np.zeros((3, 2, 2), np.uint8)
                file[key] = link
            refused(path, f"'{key}' is a soft or external link")


def test_external_storage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(12))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("images", (3, 2, 2), "uint8", external=[(str(tmp_path / "secret"), 0, 12)])
    refused(tmp_path / "x.h5", "'images' keeps its data in another file")


def test_virtual_datasets_are_refused(tmp_path: Path, packed: Path) -> None:
    layout = h5py.VirtualLayout((N, 4, 3, 2), "uint8")
    layout[...] = h5py.VirtualSource(str(packed), "images", (N, 4, 3, 2))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    refused(tmp_path / "x.h5", "'images' is virtual")


def test_foreign_filters_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("images", (3, 2, 2), "uint8", chunks=(1, 2, 2), scaleoffset=4)
    refused(tmp_path / "x.h5", "has filters number 6: there may be gzip")


@pytest.mark.parametrize("key", ["images", "labels"])
def test_a_declared_size_that_is_not_there_is_refused(tmp_path: Path, key: str) -> None:
    """Datasets of petabytes in a file of kilobytes."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        if key == "labels":
            file["images"] = np.zeros((3, 2, 2), np.uint8)
            file.create_dataset("labels", (2**50,), "int64", chunks=(1024,))
        else:
            file.create_dataset("images", (2**30, 1024, 1024), "uint8", chunks=(1, 1024, 1024), compression="gzip")
    refused(tmp_path / "x.h5", f"'{key}' declares .* bytes but stores 0")


def test_groups_and_scalars_are_no_images(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("images")
    refused(tmp_path / "x.h5", "holds nothing: name the dataset `images`")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = 3
    refused(tmp_path / "x.h5", "is no data set: store uint8 images")


def test_other_names_are_listed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["pictures"] = np.zeros((3, 2, 2), np.uint8)
    refused(tmp_path / "x.h5", "holds pictures: name the dataset `images`")


def test_other_types_are_refused(tmp_path: Path) -> None:
    for value, complaint in {
        "float": (np.zeros((3, 2, 2), np.float32), "images are float32 from 0 to 0, .*--levels 0:1"),
        "complex": (np.zeros((3, 2, 2), np.complex64), "holds complex64 and not numbers"),
        "text": (np.array([b"abc"] * 3), "holds .* and not numbers"),
    }.values():
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["images"] = value
        refused(tmp_path / "x.h5", complaint)


@pytest.mark.parametrize("classes", [b"[]", b"{}", b"[1, 2]", b"not json", b'["only one"]'])
def test_wrong_classes_are_refused(tmp_path: Path, classes: bytes) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = np.zeros((3, 2, 2), np.uint8)
        file["labels"] = np.array([0, 1, 1])
        file["classes"] = np.frombuffer(classes, np.uint8)
    refused(tmp_path / "x.h5", "(`classes` is no JSON list of strings|label 1 is not in 0 to 0)")


def test_truncated_and_foreign_files_are_refused(tmp_path: Path, packed: Path) -> None:
    path = tmp_path / "x.h5"
    for content in (b"", b"I am a text file", packed.read_bytes()[: packed.stat().st_size // 2]):
        path.write_bytes(content)
        refused(path, "(is not an HDF5 file|is damaged)")


def test_a_damaged_chunk_is_named_when_it_is_read(tmp_path: Path) -> None:
    """The checksum of a chunk covers its bytes; the other images stay readable."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=np.full((4, 8, 8), 201, np.uint8), chunks=(1, 8, 8), fletcher32=True)
        damaged = file["images"].id.get_chunk_info(2).byte_offset
    content = bytearray(path.read_bytes())
    assert content[damaged : damaged + 64] == bytes([201] * 64)
    content[damaged + 5] = 7
    path.write_bytes(content)
    dataset = open_dataset(str(path))
    assert (dataset.read(np.array([0, 1, 3])) == 201).all()
    with pytest.raises(DataError, match=r"x\.h5 is damaged: .*; restore it from a copy"):
        dataset.read(np.array([3, 2]))


def test_large_images_are_resized_one_after_the_other(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are asked for, only as many are in memory as `AT_ONCE` has room for, at least one."""
    images = rng.integers(0, 256, (7, 40, 30, 3), np.uint8)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = images
    whole = open_dataset(str(tmp_path / "x.h5"), image_size=(8, 8)).read(np.arange(7))
    read = HDF5Dataset.read
    asked: list[int] = []
    monkeypatch.setattr(HDF5Dataset, "read", lambda self, rows: asked.append(len(rows)) or read(self, rows))
    for at_once, counts in ((1, [1] * 7), (2 * images[0].size + 1, [2, 2, 2, 1])):
        monkeypatch.setattr("tinyddpm.data.resize.AT_ONCE", at_once)
        dataset = open_dataset(str(tmp_path / "x.h5"), image_size=(8, 8))
        asked.clear()
        np.testing.assert_array_equal(dataset.read(np.arange(7)), whole)
        assert asked == counts


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train/images", "train/labels", "test/images", "test/labels"),
    ],
)
def test_splits_by_the_names_that_keras_and_medmnist_give(tmp_path: Path, keys: tuple[str, ...]) -> None:
    """As in an .npz: a class has the same number in each split, also where one split lacks it."""
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5)).astype(np.uint8)
    arrays = [images[:4], np.array([[7], [2], [7], [9]]), images[4:], np.array([[9], [9], [2]])]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for key, array in zip(keys, arrays, strict=True):
            file[key] = array
    for split, part, numbers in (("train", images[:4], [1, 0, 1, 2]), ("test", images[4:], [2, 2, 0])):
        dataset = open_dataset(str(tmp_path / "x.h5"), split=split)
        np.testing.assert_array_equal(dataset.read(np.arange(len(part)))[..., 0], part)
        assert dataset.labels is not None
        assert (dataset.labels.tolist(), dataset.classes) == (numbers, ("2", "7", "9"))
    with pytest.raises(DataError, match=r"has no split 'validation', only '(train|test)' and '"):
        open_dataset(str(tmp_path / "x.h5"), split="validation")


def test_classes_that_have_names_keep_them_in_each_split(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for split, labels in {"train": [0, 2], "test": [2, 0]}.items():
            file[f"x_{split}"], file[f"y_{split}"] = np.full((2, 4, 4), 99, np.uint8), labels
        file["classes"] = np.frombuffer(b'["a", "b", "c"]', np.uint8)
    for split, numbers in {"train": [0, 2], "test": [2, 0]}.items():
        dataset = open_dataset(str(tmp_path / "x.h5"), split=split)
        assert dataset.labels is not None
        assert (dataset.labels.tolist(), dataset.classes) == (numbers, ("a", "b", "c"))


def test_labels_of_other_shapes_in_another_split_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x_train"], file["y_train"], file["y_test"] = np.full((2, 4, 4), 99, np.uint8), np.arange(2), np.eye(2)
    refused(tmp_path / "x.h5", "the labels of (train, test|test, train) have different shapes: store them alike")


@pytest.mark.parametrize(
    ("stored", "levels"),
    [
        (lambda images: (images / 255).astype(np.float32), "0:1"),
        (lambda images: images / 127.5 - 1, "-1:1"),
        (lambda images: images.astype(np.uint16) * 257, "0:65535"),
        (lambda images: images > 127, "0:1"),
    ],
)
def test_images_of_other_types_are_scaled_as_they_are_read(
    tmp_path: Path, images: np.ndarray, stored: Callable[[np.ndarray], np.ndarray], levels: str
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = stored(images)
    dataset = open_dataset(str(tmp_path / "x.h5"))
    expected = 255 * (images > 127) if stored(images).dtype == bool else images
    np.testing.assert_array_equal(dataset.read(np.arange(N)[::-1]), expected[::-1])
    assert dataset.description.endswith(f"12 images 4x3x2, levels {levels}")


def test_levels_that_are_not_certain_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    """12 bits in 16, until the levels are said; what is not finite, and values beyond what was looked at."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["images"] = images.astype(np.uint16) * 16
    refused(path, "the images are uint16 from .*--levels 0:4095")
    said = open_dataset(str(path), options={"levels": "0:4080"})
    np.testing.assert_array_equal(said.read(np.arange(N)), images)
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        file["images"] = images.astype(np.int32)
    found = open_dataset(str(tmp_path / "whole.h5"), options={"levels": "0:255"}).read(np.arange(N))
    np.testing.assert_array_equal(found, images)
    assert found.dtype == np.uint8
    for value, row, complaint in ((np.nan, 0, "hold NaN or infinity"), (3.0, 5, "are float32 from 0 to 3")):
        shares = (images / 255).astype(np.float32)
        shares[row, 0, 0, 0], shares[row, 0, 0, 1] = value, 0
        with h5py.File(tmp_path / f"{row}.h5", "w") as file:
            file["images"] = shares
        refused(tmp_path / f"{row}.h5", complaint)


def test_what_was_not_looked_at_is_checked_as_it_is_read(
    tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = (images / 255).astype(np.float32)
    shares[1] = -1
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["images"] = shares
    monkeypatch.setattr("tinyddpm.data.levels.LOOKED_AT", 2 * images[0].size)
    dataset = open_dataset(str(tmp_path / "x.h5"))
    np.testing.assert_array_equal(dataset.read(np.array([0, 2])), images[[0, 2]])
    with pytest.raises(DataError, match="values from -1 to -1 are not all in --levels 0:1: widen it"):
        dataset.read(np.array([1]))


@pytest.mark.slow
@pytest.mark.parametrize(("stored", "most"), [(np.uint8, 2.2), (np.float32, 6.2)])
def test_large_pictures_take_memory_for_one_of_them(tmp_path: Path, stored: type[np.generic], most: float) -> None:
    """Opened, all resized, and hashed: never two pictures, counted in bytes of one at 8 bits.

    One of floats is four of these, and its bytes are a fifth.
    """
    picture = np.random.default_rng(0).integers(0, 256, (1, 1500, 2000, 3)).astype(np.uint8)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        pictures = file.create_dataset("images", (5, *picture.shape[1:]), stored)
        for i in range(5):
            pictures[i] = picture[0] if stored == np.uint8 else picture[0] / 255
    tracemalloc.start()
    try:
        dataset = open_dataset(str(tmp_path / "x.h5"), image_size=(8, 8))
        dataset.read(np.arange(5))
        fingerprint(dataset)
        assert tracemalloc.get_traced_memory()[1] < most * picture.size
    finally:
        tracemalloc.stop()
