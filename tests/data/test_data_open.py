"""`open_dataset`: names and paths, sizes, the shipped sets, and any damage to any file."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_shipped import make_fashion_mini
from PIL import Image

from tinyddpm import registry
from tinyddpm.data import images, open_dataset, parse_size
from tinyddpm.data.base import ArrayDataset
from tinyddpm.data.resize import resized
from tinyddpm.errors import ConfigError, DataError


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(
        DataError, match=r"data set 'digit': did you mean 'digits'\? .*fashion-mini.*path of a file or folder"
    ):
        open_dataset("digit")
    with pytest.raises(DataError, match="path of a file or folder would do"):
        open_dataset("")


def test_a_name_wins_over_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    Image.new("L", (3, 3)).save("digits/x.png")
    assert len(open_dataset("digits")) == 1797
    assert len(open_dataset("./digits")) == 1


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    for name, complaint in {
        "x.zip": "is not understood: give a folder",
        "x.png": "single image: give the folder",
    }.items():
        (tmp_path / name).write_bytes(b"?")
        with pytest.raises(DataError, match=f"{name}.*{complaint}"):
            open_dataset(str(tmp_path / name))


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 2, 2), np.uint8))
    for split in ("test", "dev"):
        with pytest.raises(DataError, match=rf"x\.npy has no split '{split}', only 'train'"):
            open_dataset(str(tmp_path / "x.npy"), split=split)


def test_a_size_resizes_named_sets_too() -> None:
    plain, small = open_dataset("digits"), open_dataset("digits", image_size=(4, 4))
    assert small.shape == (4, 4, 1)
    assert small.description == "digits: 1797 images 8x8x1, 10 classes, shrunk from 8x8 to 4x4"
    assert small.labels is plain.labels or np.array_equal(small.labels, plain.labels)
    assert isinstance(open_dataset("digits", image_size=(8, 8)), ArrayDataset)


def test_shrinking_averages() -> None:
    """A chequerboard of single pixels becomes grey, within 4 of 127.5 even at the edges."""
    board = (255 * (np.indices((16, 16)).sum(axis=0) % 2)).astype(np.uint8)
    small = resized(ArrayDataset(board[None], name="board"), (8, 8)).read(np.array([0]))
    assert np.abs(small - 127.5).max() < 4.0


@pytest.mark.parametrize("kept", [0, 4 * 8 * 8])
def test_what_is_resized_does_not_depend_on_whether_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, kept: int
) -> None:
    """Kept, an image is read of the data set beneath once; what a caller does to what he was given changes nothing."""
    images = ArrayDataset(rng.integers(0, 256, (4, 16, 16, 1)).astype(np.uint8), name="x")
    expected = [resized(images, (8, 8)).read(np.array([i]))[0] for i in range(4)]
    read, seen = images.read, []
    monkeypatch.setattr(images, "read", lambda indices: (seen.extend(indices), read(indices))[1])
    monkeypatch.setattr("tinyddpm.data.resize.KEPT", kept)
    small = resized(images, (8, 8))
    for order in ([2, 0, 2], [0, 3], [3, 2, 1, 0], [1]):
        found = small.read(np.array(order))
        np.testing.assert_array_equal(found, np.stack([expected[i] for i in order]))
        found[...] = 0
    assert sorted(seen) == ([0, 1, 2, 3] if kept else sorted([2, 0, 2, 0, 3, 3, 2, 1, 0, 1]))


def test_points_have_no_size() -> None:
    with pytest.raises(DataError, match="mixture: 20000 points, 8 classes: points have no image size: leave out"):
        open_dataset("mixture", image_size=(4, 4))


@pytest.mark.parametrize(
    ("sizes", "wanted", "line"),
    [
        ([(32, 32)], (32, 32), ""),
        ([(128, 136)], (32, 32), "cropped and shrunk from 128x136 to 32x32"),
        ([(128, 136)], (128, 128), "cropped from 128x136 to 128x128"),
        ([(8, 8)], (32, 32), "enlarged from 8x8 to 32x32"),
        ([(20, 10)], (10, 20), "cropped and enlarged from 20x10 to 10x20"),  # its upper half, twice as large
        ([(64, 64), (16, 16), (32, 32)], (32, 32), "shrunk and enlarged from 3 sizes, 16x16 to 64x64, to 32x32"),
    ],
)
def test_what_becomes_of_images_is_said(
    tmp_path: Path, sizes: list[tuple[int, int]], wanted: tuple[int, int], line: str
) -> None:
    """Of a folder, whose images are brought to one size as they are decoded, and of an array alike."""
    for number, (height, width) in enumerate(sizes):
        Image.new("L", (width, height), 200).save(tmp_path / f"{number}.png")
    size = "x".join(map(str, wanted))
    found = open_dataset(str(tmp_path), image_size=wanted).description
    assert found == f"{tmp_path}: {len(sizes)} images {size}x1" + (line and f", {line}")
    if len(sizes) == 1:
        array = ArrayDataset(np.full((1, *sizes[0]), 200, np.uint8), name="array")
        assert resized(array, wanted).description.endswith(line or f"{size}x1")


def test_parse_size() -> None:
    assert parse_size("32x48") == (32, 48)
    assert parse_size("32") == parse_size(32) == (32, 32)
    for text in ("", "032", "x32", "32x", "0x4", "-1x4", "4x4x4", "32 x 32", "٣x٣", "999999x1"):
        with pytest.raises(ConfigError, match="is not HxW: write"):
            parse_size(text)


def test_opening_nothing_imports_no_reader() -> None:
    code = "import sys, tinyddpm.data; print([m for m in ('h5py', 'PIL', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_data_set_is_loaded_without_the_other_readers() -> None:
    code = "import sys; from tinyddpm.data import open_dataset; open_dataset('digits'); print('h5py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_digits() -> None:
    """Counts per class as UCI publishes them for this set, and only the 17 levels that 0 to 16 can become."""
    dataset = open_dataset("digits")
    assert dataset.description == "digits: 1797 images 8x8x1, 10 classes"
    assert dataset.classes == tuple("0123456789")
    assert dataset.labels is not None
    assert np.bincount(dataset.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    levels = np.unique(dataset.read(np.arange(1797)))
    assert levels.tolist() == [round(v * 255 / 16) for v in range(17)]


def test_fashion_mini() -> None:
    dataset = open_dataset("fashion-mini")
    assert dataset.description == "fashion-mini: 4000 images 28x28x1, 10 classes"
    assert dataset.labels is not None
    assert np.bincount(dataset.labels).tolist() == [400] * 10


@pytest.mark.parametrize("name", ["digits", "fashion-mini"])
def test_shipped_sets_have_no_test_split(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} has no split 'test', only 'train'"):
        open_dataset(name, split="test")


@pytest.mark.fashion
class TestFashionMNIST:
    @pytest.fixture(autouse=True)
    def _on_disk(self) -> None:
        if not images.DEBIAN_FOLDER.is_dir():
            pytest.skip("the full Fashion-MNIST is not on disk: apt install dataset-fashion-mnist")

    def test_both_splits(self) -> None:
        for split, n in {"train": 60_000, "test": 10_000}.items():
            dataset = open_dataset("fashion-mnist", split=split)
            assert dataset.description == f"fashion-mnist in {images.DEBIAN_FOLDER}: {n} images 28x28x1, 10 classes"
            assert dataset.labels is not None
            assert np.bincount(dataset.labels).tolist() == [n // 10] * 10

    def test_the_shipped_part_is_made_from_it(self) -> None:
        made, dataset = make_fashion_mini(images.DEBIAN_FOLDER), open_dataset("fashion-mini")
        np.testing.assert_array_equal(dataset.read(np.arange(4000))[..., 0], made["images"])
        np.testing.assert_array_equal(dataset.labels, made["labels"])


@pytest.fixture
def own_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for Fashion-MNIST, the only one whose hashes are right."""
    folder = tmp_path / "share" / "tinyddpm" / "fashion-mnist"
    folder.mkdir(parents=True)
    contents = {
        "train-images-idx3-ubyte.gz": b"\0\0\x08\x03"
        + b"".join(n.to_bytes(4, "big") for n in (2, 28, 28))
        + bytes(1568),
        "train-labels-idx1-ubyte.gz": b"\0\0\x08\x01" + (2).to_bytes(4, "big") + bytes([3, 9]),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content))
    hashes = tuple(hashlib.sha256(content).hexdigest() for content in contents.values())
    monkeypatch.setattr(images, "FASHION_SHA256", {"train": hashes, "test": hashes})
    monkeypatch.setattr(images, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nowhere"))
    return folder


def test_fashion_mnist_is_looked_for(own_fashion: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the given folder, in Debian's, in the user's; and if it is in none of them, the error says so."""
    places = rf"{tmp_path}/given, {tmp_path}/debian, {tmp_path}/nowhere/tinyddpm/fashion-mnist"
    with pytest.raises(DataError, match=rf"not in any of {places}: apt install dataset-fashion-mnist, or .*--data-dir"):
        open_dataset("fashion-mnist", data_dir=str(tmp_path / "given"))
    dataset = open_dataset("fashion-mnist", data_dir=str(own_fashion))
    assert dataset.labels is not None
    assert [dataset.classes[k] for k in dataset.labels] == ["Dress", "Ankle boot"]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert len(open_dataset("fashion-mnist")) == 2
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(images, "DEBIAN_FOLDER", own_fashion)
    assert len(open_dataset("fashion-mnist")) == 2


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
def test_another_fashion_mnist_is_refused(own_fashion: Path, name: str) -> None:
    content = bytearray(gzip.decompress((own_fashion / name).read_bytes()))
    content[-1] ^= 1
    (own_fashion / name).write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=rf"{name}: its content is not the published one"):
        open_dataset("fashion-mnist", data_dir=str(own_fashion))


PIXELS = np.random.default_rng(0).integers(0, 256, (2, 12, 10, 3)).astype(np.uint8)


def encoded(kind: str) -> bytes:
    """A small data set as a file of this kind."""
    buffer = io.BytesIO()
    if kind == "x.npy":
        np.save(buffer, PIXELS)
    elif kind == "x.npz":
        np.savez_compressed(buffer, images=PIXELS, labels=np.array([0, 1]))
    elif kind == "x.h5":
        with h5py.File(buffer, "w") as file:
            file.create_dataset("images", data=PIXELS, compression="gzip")
            file["labels"] = np.array([0, 1])
    elif kind == "x-images-idx4.gz":
        header = bytes([0, 0, 8, 4]) + b"".join(n.to_bytes(4, "big") for n in PIXELS.shape)
        buffer.write(gzip.compress(header + PIXELS.tobytes()))
    else:
        Image.fromarray(PIXELS[0]).save(buffer, Image.registered_extensions()[Path(kind).suffix])
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind", ["x.npy", "x.npz", "x.h5", "x-images-idx4.gz", "x.png", "x.jpg", "x.webp", "x.bmp", "x.gif", "x.tif"]
)
@pytest.mark.filterwarnings("ignore:::PIL", "ignore:invalid")
@settings(max_examples=20)
@given(data=st.data())
def test_damage_ends_in_one_line_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    """Over up to four changed bytes and truncations of a file of each kind: it is read all the same, or refused so."""
    content = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damage")
    (folder / kind).write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    is_image = kind.startswith("x.") and kind not in ("x.npy", "x.npz", "x.h5")
    try:
        dataset = open_dataset(str(folder if is_image else folder / kind))
        dtype, complaint = dataset.read(np.arange(len(dataset))[:2]).dtype, None
    except DataError as error:
        dtype, complaint = None, str(error)
    if complaint is None:
        assert dtype in (np.uint8, np.float32)
    else:
        assert kind in complaint or complaint.startswith(f"{folder}: ")
        assert "\n" not in complaint


class Odd:
    """A data set of two images, with parts that are not what they must be."""

    def __init__(self, read: object = None, **parts: object) -> None:
        self.description, self.shape, self.classes, self.labels = "odd", (2, 2, 1), (), None
        self.columns: object = {}
        self.__dict__.update(parts)
        self.first = np.zeros((1, 2, 2, 1), np.uint8) if read is None else read

    def __len__(self) -> int:
        return 2

    def read(self, indices: np.ndarray) -> object:
        return self.first


def test_a_data_set_of_a_plugin_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Odd(classes=("a", "b"), labels=np.asarray([0, 1]))
    monkeypatch.setattr(registry, "load", lambda group, name: lambda split, data_dir: made)
    assert open_dataset("ring") is made


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (np.zeros((4, 2, 2, 1)), "is a ndarray without description, classes, labels, columns, read: return a data set"),
        (None, "is a NoneType without description, shape, classes, labels, columns, read, __len__"),
        (
            Odd(np.zeros((1, 2, 2, 1))),
            r"gives float64 of shape .*: it must be uint8 of shape \(1, 2, 2, 1\)",
        ),
        (
            Odd(np.zeros((1, 2, 2), np.uint8)),
            r"gives uint8 of shape \(1, 2, 2\): it must be uint8 of shape",
        ),
        (Odd([[0]]), "gives a list: it must be uint8"),
        (Odd(np.zeros((1, 2)), shape=(2,)), r"gives float64 of shape \(1, 2\): it must be float32"),
        (Odd(shape=(2, 2)), r"has 2 samples of shape \(2, 2\): give images"),
        (Odd(labels=[0, 1], classes=("a", "b")), "labels are a list"),
        (Odd(labels=np.asarray([0, 1])), "has 0 classes and 2 labels: give both"),
        (Odd(classes=("a",)), "has 1 classes and no labels: give both"),
        (Odd(labels=np.asarray([0, 2]), classes=("a", "b")), "label 2 is not in 0 to 1"),
        (Odd(columns=None), "columns are a NoneType: give a mapping of names to arrays"),
        (Odd(columns={"age": [1, 2]}), "column 'age' is a list: give an array of 2 rows"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(found: object, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda group, name: lambda split, data_dir: found)
    with pytest.raises(DataError, match=f"data set 'ring'.*{line}") as caught:
        open_dataset("ring")
    assert "\n" not in str(caught.value)


def test_options_of_images_are_no_options_of_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 2)))
    with pytest.raises(ConfigError, match=r"x\.npy is a path: unknown option 'noise': .*background, frames, levels"):
        open_dataset(str(tmp_path / "x.npy"), options={"noise": 1})
    with pytest.raises(ConfigError, match=r"x\.npy is no folder of image files: leave out frames"):
        open_dataset(str(tmp_path / "x.npy"), options={"frames": "all"})
    with pytest.raises(DataError, match=r"points have no levels: leave out --levels"):
        open_dataset(str(tmp_path / "x.npy"), options={"levels": "0:1"})


@pytest.mark.parametrize("name", ["images", "images.npy"])
def test_an_image_size_beyond_the_memory_is_refused_before_anything_is_resized(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (4, 4), 99).save(tmp_path / "images" / "1.png")
    np.save(tmp_path / "images.npy", np.full((1, 4, 4), 99, np.uint8))
    with pytest.raises(DataError, match=r"9\.3 GiB once decoded, .*: choose a smaller --image-size, or take fewer"):
        open_dataset(str(tmp_path / name), image_size=(99999, 99999))
