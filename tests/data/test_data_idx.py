"""The IDX format: what is written is read, and what is damaged is refused by name."""

from __future__ import annotations

import gzip
import hashlib
import io
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tinyddpm.data import open_dataset
from tinyddpm.data.idx import read_idx
from tinyddpm.errors import DataError, TinyDDPMWarning


def idx_bytes(array: np.ndarray) -> bytes:
    """The format's definition: 0, 0, 8 for bytes, dimensions, big-endian sizes, then the bytes."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write(path: Path, array: np.ndarray) -> Path:
    content = idx_bytes(array)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


IMAGES = 4 * np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([2, 0, 1, 1, 2], np.uint8)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx")


@pytest.mark.slow
@given(
    array=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, max_side=6)),
    zipped=st.booleans(),
)
def test_round_trip(scratch: Path, array: np.ndarray, zipped: bool) -> None:
    """Over all byte arrays of one to four dimensions, plain and gzipped."""
    path = write(scratch / ("a.gz" if zipped else "a"), array)
    digest = hashlib.sha256(idx_bytes(array)).hexdigest()
    np.testing.assert_array_equal(read_idx(path, digest), array)


@given(data=st.data(), zipped=st.booleans())
def test_every_truncation_is_refused(scratch: Path, data: st.DataObject, zipped: bool) -> None:
    """Over all lengths shorter than the file."""
    path = write(scratch / ("b.gz" if zipped else "b"), IMAGES)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(DataError, match=rf"{path.name}.*(undamaged copy|check the path)"):
        read_idx(path)


@pytest.mark.parametrize("given_path", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte", "."])
def test_a_pair_is_found_from_either_file_and_from_its_folder(tmp_path: Path, given_path: str) -> None:
    write(tmp_path / "train-images-idx3-ubyte.gz", IMAGES)
    write(tmp_path / "train-labels-idx1-ubyte", LABELS)
    dataset = open_dataset(str(tmp_path / given_path))
    assert dataset.description.endswith(": 5 images 4x3x1, 3 classes")
    np.testing.assert_array_equal(dataset.read(np.arange(5))[..., 0], IMAGES)
    np.testing.assert_array_equal(dataset.labels, LABELS)


def test_the_folder_knows_its_splits(tmp_path: Path) -> None:
    write(tmp_path / "train-images-idx3-ubyte", IMAGES)
    write(tmp_path / "t10k-images-idx3-ubyte.gz", IMAGES[:2])
    assert len(open_dataset(str(tmp_path))) == 5
    assert len(open_dataset(str(tmp_path), split="test")) == 2
    assert len(open_dataset(str(tmp_path / "t10k-images-idx3-ubyte.gz"), split="test")) == 2
    with pytest.raises(DataError, match=r"t10k-images.* holds the split 'test', not 'train'"):
        open_dataset(str(tmp_path / "t10k-images-idx3-ubyte.gz"))


@pytest.mark.parametrize(("train", "test"), [("qmnist-train", "qmnist-test"), ("letters", "letters-t10k")])
def test_the_split_is_a_word_of_the_name(tmp_path: Path, train: str, test: str) -> None:
    """Wherever it is: a test set is never trained on for want of a name that begins with it."""
    write(tmp_path / f"{test}-images-idx3-ubyte", IMAGES[:2])
    with pytest.raises(DataError, match=rf"no IDX images for the split 'train', only {test}"):
        open_dataset(str(tmp_path))
    write(tmp_path / f"{train}-images-idx3-ubyte", IMAGES)
    assert len(open_dataset(str(tmp_path))) == 5
    assert len(open_dataset(str(tmp_path), split="test")) == 2


def test_labels_in_another_form_of_name_are_named(tmp_path: Path) -> None:
    write(tmp_path / "train-images-idx3-ubyte", IMAGES)
    write(tmp_path / "t10k-labels.idx1-ubyte", LABELS)
    with warnings.catch_warnings(action="error"):
        assert open_dataset(str(tmp_path)).labels is None
    write(tmp_path / "train-labels.idx1-ubyte", LABELS)
    with pytest.warns(TinyDDPMWarning, match=r"train-labels\.idx1-ubyte is not read: call it as train-images-idx3"):
        open_dataset(str(tmp_path))


def test_a_folder_without_the_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t10k-images-idx3-ubyte", IMAGES)
    with pytest.raises(DataError, match=r"no IDX images for the split 'train', only t10k.*use another split"):
        open_dataset(str(tmp_path))


def test_several_sets_in_one_folder_are_refused(tmp_path: Path) -> None:
    for name in ("a-images-idx3", "b-images-idx3"):
        write(tmp_path / name, IMAGES)
    with pytest.raises(DataError, match=r"several IDX sets \(a-images-idx3, b-images-idx3\): give the path"):
        open_dataset(str(tmp_path))


def test_images_without_labels_and_with_channels(tmp_path: Path) -> None:
    dataset = open_dataset(str(write(tmp_path / "my-images.idx", IMAGES[..., None].repeat(3, axis=3))))
    assert dataset.shape == (4, 3, 3)
    assert dataset.labels is None
    assert dataset.classes == ()


def test_labels_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: there is no file of images beside"):
        open_dataset(str(write(tmp_path / "train-labels-idx1-ubyte", LABELS)))


def test_another_number_of_labels_is_refused(tmp_path: Path) -> None:
    images = write(tmp_path / "train-images-idx3-ubyte", IMAGES)
    write(tmp_path / "train-labels-idx1-ubyte", LABELS[:4])
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: .*\(4,\) do not fit the 5 images of .*train-images"):
        open_dataset(str(images))


@pytest.mark.parametrize("start", [b"", b"\0\0", b"\0\0\x0d\x03", b"\0\0\x08\x00", b"\0\0\x08\x05", b"text"])
def test_a_wrong_magic_number_is_refused(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(start + b"\0" * 40 if len(start) == 4 else start)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: not an IDX file of unsigned bytes"):
        open_dataset(str(path))


def test_labels_in_the_place_of_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: 1 dimensions are no images"):
        open_dataset(str(write(tmp_path / "train-images-idx3-ubyte", LABELS)))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bytes_after_the_end_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x-images-idx3{suffix}"
    content = idx_bytes(IMAGES) + b"!"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=r"x-images-idx3.*more bytes than its header's \(5, 4, 3\)"):
        read_idx(path)


def test_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x-images-idx3", IMAGES)
    with pytest.raises(DataError, match=r"x-images-idx3: its content is not the published one"):
        read_idx(path, hashlib.sha256(b"other").hexdigest())


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_huge_declared_size_allocates_nothing(tmp_path: Path, suffix: str) -> None:
    """A header that declares 4 TiB above a few bytes."""
    path = tmp_path / f"x-images-idx3{suffix}"
    content = bytes([0, 0, 8, 3]) + (2**14).to_bytes(4, "big") * 3 + b"few"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=r"x-images-idx3.*truncated"):
        read_idx(path)


@pytest.mark.slow
def test_a_gzip_bomb_is_not_read_beyond_its_declared_size(tmp_path: Path) -> None:
    """256 MiB of zeros follow four declared bytes; the memory taken stays under 16 MiB."""
    path = tmp_path / "bomb-images-idx3.gz"
    packer = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        file.write(packer.compress(idx_bytes(np.zeros((1, 2, 2), np.uint8))))
        for _ in range(256):
            file.write(packer.compress(bytes(2**20)))
        file.write(packer.flush())
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"bomb-images-idx3.gz: more bytes than its header"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


def test_a_gzipped_file_that_holds_too_little_is_refused(tmp_path: Path) -> None:
    """It is whole as a gzipped file, but holds fewer bytes than its header declares."""
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(IMAGES)[:-1]))
    with pytest.raises(DataError, match=r"a\.gz: truncated, fewer bytes than its header's \(5, 4, 3\) declares"):
        read_idx(tmp_path / "a.gz")


def test_a_set_too_large_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", IMAGES.size - 1)
    with pytest.raises(DataError, match=r"x-images-idx3: .*GiB.*HDF5.*pack_folder\.py"):
        read_idx(write(tmp_path / "x-images-idx3", IMAGES))


def test_gzip_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO(gzip.compress(idx_bytes(IMAGES)))
    buffer.seek(-8, io.SEEK_END)
    buffer.write(b"\0\0\0\0")
    path = tmp_path / "x-images-idx3.gz"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"x-images-idx3.gz: cannot be read \(CRC"):
        read_idx(path)
