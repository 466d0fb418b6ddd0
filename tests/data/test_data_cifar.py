"""CIFAR-10's binary layout, on files made to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinyddpm.data import open_dataset
from tinyddpm.errors import DataError

PER_FILE = 4


def make(folder: Path, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Write all six files; return their images (24, 32, 32, 3) and labels, the test set last."""
    folder.mkdir(parents=True, exist_ok=True)
    images = rng.integers(0, 256, (6 * PER_FILE, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, 6 * PER_FILE).astype(np.uint8)
    for f, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        with (folder / name).open("wb") as file:
            for image, label in list(zip(images, labels, strict=True))[f * PER_FILE : (f + 1) * PER_FILE]:
                file.write(bytes([label]))
                for channel in range(3):
                    for row in image[:, :, channel]:
                        file.write(row.tobytes())
    return images, labels


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin"])
def test_both_splits_are_read(tmp_path: Path, rng: np.random.Generator, inside: str) -> None:
    images, labels = make(tmp_path / inside, rng)
    for split, part in {"train": slice(0, 5 * PER_FILE), "test": slice(5 * PER_FILE, None)}.items():
        dataset = open_dataset(str(tmp_path), split=split)
        assert dataset.shape == (32, 32, 3)
        assert dataset.classes[0] == "airplane"
        np.testing.assert_array_equal(dataset.read(np.arange(len(dataset))), images[part])
        np.testing.assert_array_equal(dataset.labels, labels[part])


def test_class_names_come_from_the_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    make(tmp_path, rng)
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"thing{k}" for k in range(10)) + "\n\n")
    assert open_dataset(str(tmp_path)).classes == tuple(f"thing{k}" for k in range(10))
    (tmp_path / "batches.meta.txt").write_text("thing")
    with pytest.raises(DataError, match=r"batches\.meta\.txt: 1 class names, not 10"):
        open_dataset(str(tmp_path))


def test_the_pickled_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x03}q\x00")
    with pytest.raises(DataError, match=r"Python pickles.*: take the binary version"):
        open_dataset(str(tmp_path))


def test_a_missing_file_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    make(tmp_path, rng)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing: put all"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("size", [0, 3073 * 2 - 1, 3074 * 3, 3073 * 10_001])
def test_a_file_of_another_size_is_named(tmp_path: Path, rng: np.random.Generator, size: int) -> None:
    """Empty, truncated, of CIFAR-100's records, and longer than any CIFAR-10 file."""
    make(tmp_path, rng)
    with (tmp_path / "data_batch_2.bin").open("wb") as file:
        file.truncate(size)
    with pytest.raises(DataError, match=rf"data_batch_2\.bin: {size} bytes are not .* records of 3073 bytes"):
        open_dataset(str(tmp_path))


def test_a_wrong_label_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    make(tmp_path, rng)
    (tmp_path / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match=r"test_batch\.bin: label 10 is not in 0 to 9"):
        open_dataset(str(tmp_path), split="test")


def test_a_single_file_is_answered_with_its_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    make(tmp_path, rng)
    with pytest.raises(DataError, match=r"data_batch_1\.bin: .*give the folder"):
        open_dataset(str(tmp_path / "data_batch_1.bin"))
