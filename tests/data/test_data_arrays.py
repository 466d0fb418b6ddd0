"""`.npy` and `.npz` files."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from tinyddpm.data import open_dataset
from tinyddpm.errors import ConfigError, DataError, TinyDDPMWarning

IMAGES = 10 * np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)


class Trap:
    """Pickles to a call that a loader must never make."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("an array was unpickled",))


def save_member(path: Path, member: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", member)
    return path


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 5])
def test_images(tmp_path: Path, rng: np.random.Generator, suffix: str, channels: int | None) -> None:
    images = rng.integers(0, 256, (4, 5, 6, *([channels] if channels else []))).astype(np.uint8)
    path = tmp_path / f"x{suffix}"
    np.save(path, images) if suffix == ".npy" else np.savez(path, images=images)
    dataset = open_dataset(str(path))
    assert dataset.shape == (5, 6, channels or 1)
    assert dataset.description == f"{path}: 4 images 5x6x{channels or 1}"
    chosen = np.array([2, 0, 2])
    np.testing.assert_array_equal(dataset.read(chosen), images.reshape(4, 5, 6, -1)[chosen])


def test_npy_is_memory_mapped(tmp_path: Path) -> None:
    """What changes on the disk changes in the data set."""
    np.save(tmp_path / "x.npy", IMAGES)
    dataset = open_dataset(str(tmp_path / "x.npy"))
    np.load(tmp_path / "x.npy", mmap_mode="r+")[1] = 77
    assert (dataset.read(np.array([1])) == 77).all()


@pytest.mark.parametrize(("key", "labels"), [("images", "labels"), ("x", "y"), ("arr_0", "arr_1")])
def test_npz_keys(tmp_path: Path, key: str, labels: str) -> None:
    np.savez(tmp_path / "x.npz", **{key: IMAGES, labels: np.array([0, 2, 1, 2], np.uint16)})
    dataset = open_dataset(str(tmp_path / "x.npz"))
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 2, 1, 2]
    assert dataset.classes == ("0", "1", "2")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 28])
def test_points(tmp_path: Path, rng: np.random.Generator, dimension: int, dtype: type) -> None:
    """Of any dimension, three and four too, which are no channels."""
    points = rng.normal(size=(5, dimension)).astype(dtype)
    np.save(tmp_path / "x.npy", points)
    dataset = open_dataset(str(tmp_path / "x.npy"))
    assert dataset.shape == (dimension,)
    said = {1: "5 points in 1 dimension", 2: "5 points"}.get(dimension, f"5 points in {dimension} dimensions")
    assert dataset.description == f"{tmp_path / 'x.npy'}: {said}"
    assert dataset.read(np.arange(5)).dtype == np.float32
    np.testing.assert_array_equal(dataset.read(np.arange(5)), points.astype(np.float32))


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((4, 3, 2), np.float32), "images are float32 from 0 to 0, .*--levels 0:1"),
        (np.full((4, 3, 2), 255), "images are int64 from 255 to 255, .*--levels 0:255"),
        (np.eye(4, dtype=np.uint8)[None], r"images are uint8 from 0 to 1, .*--levels 0:1"),
        (np.full((4, 3, 2), 16, np.uint8), r"images are uint8 from 16 to 16, .*--levels 0:31"),
        (np.full((4, 3, 2), 4095, np.uint16), r"images are uint16 from 4095 to 4095, .*--levels 0:4095"),
        (np.full((4, 3, 2), -2.5), r"images are float64 from -2.5 to -2.5, .*--levels -3:3"),
        (np.array([[[0.5, np.nan]]]), "images hold NaN or infinity"),
        (np.zeros((4, 2), np.uint8), "is no data set: store uint8 images"),
        (np.zeros(4, np.float32), r"is no data set: .* floating points \(n, D\)"),
        (np.zeros((4, 3), np.int64), "is no data set"),
        (np.zeros((), np.uint8), "is no data set"),
        (np.zeros((0, 3, 2), np.uint8), "is empty: give at least one sample"),
        (np.zeros((4, 3, 0), np.uint8), "is empty"),
        (np.zeros((4, 3, 32, 32), np.uint8), r"channels first: store them as \(n, H, W, C\)"),
        (np.zeros((2, 4, 32, 32), np.uint8), r"channels first: store them as \(n, H, W, C\)"),
        (np.zeros((32, 30, 3, 16), np.uint8), r"have their number last: store them as \(n, H, W, C\)"),
        (np.zeros((32, 32, 3, 4), np.uint8), r"have their number last: store them as \(n, H, W, C\)"),
        (np.zeros((3, 32, 32, 50), np.uint8), r"channels first: store them as \(n, H, W, C\)"),
        (np.zeros((8, 9, 37), np.uint8), r"number last, it seems: store them as \(n, H, W\), or as \(n, H, W, 1\) if"),
        (np.array([[0.0, 1.0], [0.0, np.nan]]), "point 1 is not finite"),
        (np.array([[0.0, 1e300], [0.0, 0.0]]), "point 0 is not finite in float32"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, complaint: str) -> None:
    for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
        np.save(path, array) if path.suffix == ".npy" else np.savez(path, x=array)
        with pytest.raises(DataError, match=f"{path.name}: .*{complaint}"):
            open_dataset(str(path))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0.0, 0.5, 1.0], np.float32), [0, 128, 255]),
        (np.array([-1.0, 0.0, 1.0]), [0, 128, 255]),
        (np.array([-1.0, 0.0, 1.0], np.float16), [0, 128, 255]),
        (np.array([False, True, True]), [0, 255, 255]),
        (np.array([0, 32896, 65535], ">u2"), [0, 128, 255]),
    ],
)
def test_images_of_other_types_are_read_where_their_levels_are_certain(
    tmp_path: Path, array: np.ndarray, expected: list[int]
) -> None:
    for name in ("x.npy", "x.npz"):
        images = array.reshape(3, 1, 1)
        np.save(tmp_path / name, images) if name == "x.npy" else np.savez(tmp_path / name, images=images)
        dataset = open_dataset(str(tmp_path / name))
        assert dataset.read(np.arange(3)).ravel().tolist() == expected
        assert dataset.read(np.arange(3)).dtype == np.uint8


@pytest.mark.parametrize(
    ("array", "levels", "expected"),
    [
        (np.array([0, 1, 1], np.uint8), "0:1", [0, 255, 255]),
        (np.array([0, 1, 2], np.uint8), "0:255", [0, 1, 2]),
        (np.array([0, 2048, 4095], np.uint16), "0:4095", [0, 128, 255]),
        (np.array([-50, 0, 100]), "-100:100", [64, 128, 255]),
        (np.array([0.0, 0.2, 0.25]), "0:0.25", [0, 204, 255]),
    ],
)
def test_levels_may_be_said(tmp_path: Path, array: np.ndarray, levels: str, expected: list[int]) -> None:
    np.savez(tmp_path / "x.npz", images=array.reshape(3, 1, 1))
    dataset = open_dataset(str(tmp_path / "x.npz"), options={"levels": levels})
    assert dataset.read(np.arange(3)).ravel().tolist() == expected


@pytest.mark.parametrize("levels", ["1", "1:0", "0:1:2", "a:b", "0:1e9", ":"])
def test_levels_of_another_form_are_refused(tmp_path: Path, levels: str) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES)
    with pytest.raises(ConfigError, match="are not BLACK:WHITE: give two rising numbers, such as 0:4095"):
        open_dataset(str(tmp_path / "x.npz"), options={"levels": levels})


def test_values_outside_the_levels_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES)
    dataset = open_dataset(str(tmp_path / "x.npz"), options={"levels": "0:15"})
    with pytest.raises(DataError, match=r"values from 0 to 230 are not all in --levels 0:15: widen it"):
        dataset.read(np.arange(4))


@pytest.mark.parametrize(
    ("samples", "labels"),
    [("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("X_{}", "y_{}")],
)
def test_splits_by_name(tmp_path: Path, samples: str, labels: str) -> None:
    """As Keras and MedMNIST have them. Classes have the same numbers in each split."""
    parts = {"train": [3, 7, 5, 7], "val": [5, 3, 3, 3], "test": [7, 7, 5, 5]}
    arrays = {samples.format(part): IMAGES + k for k, part in enumerate(parts)}
    known = {labels.format(part): np.asarray(numbers)[:, None] for part, numbers in parts.items()}
    np.savez(tmp_path / "x.npz", **arrays, **known)
    for k, (part, split) in enumerate(zip(parts, ("train", "validation", "test"), strict=True)):
        dataset = open_dataset(str(tmp_path / "x.npz"), split=split)
        assert dataset.read(np.arange(1)).flat[0] == k
        assert dataset.labels is not None
        assert [dataset.classes[i] for i in dataset.labels] == [str(number) for number in parts[part]]
        assert dataset.classes == ("3", "5", "7")
    with pytest.raises(DataError, match="has no split 'dev'"):
        open_dataset(str(tmp_path / "x.npz"), split="dev")


@pytest.mark.parametrize("hidden", [[-1, -1], [[-1], [-1]]], ids=["(n,)", "(n, 1)"])
def test_a_test_set_may_hide_its_classes(tmp_path: Path, hidden: list[object]) -> None:
    """As -1, which is no class of the others, and is refused where it is asked for."""
    images, labels = np.full((4, 5, 5), 99, np.uint8), np.asarray([0, 2, 0, 1]).reshape(-1, *np.shape(hidden)[1:])
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=images[:2], y_test=np.asarray(hidden))
    dataset = open_dataset(str(tmp_path / "x.npz"))
    assert dataset.classes == ("0", "1", "2")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 2, 0, 1]
    with pytest.raises(DataError, match="label -1 is below 0"):
        open_dataset(str(tmp_path / "x.npz"), split="test")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("labels", "numbers", "classes"),
    [
        (np.array([1, 4, 2, 4]), [0, 2, 1, 2], ("1", "2", "4")),
        (np.array([1000, 7, 7, 1000], np.uint16), [1, 0, 0, 1], ("7", "1000")),
        (np.array([0, 2**64 - 1, 0, 0], np.uint64), [0, 1, 0, 0], ("0", "18446744073709551615")),
        (np.array([[3], [1], [3], [1]]), [1, 0, 1, 0], ("1", "3")),
        (np.array([[0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0]], np.float32), [0, 1, 0, 0], ("1", "2")),
        (np.array([2.0, 0.0, 2.0, 2.0]), [1, 0, 1, 1], ("0", "2")),
        (np.array([2.0, 0.0, 2.0, 2.0], np.float16), [1, 0, 1, 1], ("0", "2")),
        (np.array([True, False, False, True]), [1, 0, 0, 1], ("False", "True")),
        (np.array(["dog", "cat", "ünïcödé", "cat"]), [1, 0, 2, 0], ("cat", "dog", "ünïcödé")),
    ],
)
def test_classes_are_the_labels_that_there_are(
    tmp_path: Path, labels: np.ndarray, numbers: list[int], classes: tuple[str, ...]
) -> None:
    """Of every kind that people store: no class is empty, and each goes by the name it has in the file."""
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=labels)
    dataset = open_dataset(str(tmp_path / "x.npz"))
    assert dataset.labels is not None
    assert (dataset.labels.tolist(), dataset.classes) == (numbers, classes)
    assert dataset.labels.dtype == np.int64


@pytest.mark.parametrize("shape", [(8, 9, 36), (7, 8, 99), (8, 7, 99), (8, 9, 37, 1), (4, 6, 5, 9), (9, 6, 6, 9)])
def test_wide_images_and_those_of_many_channels_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Up to what an array of few images can be told by."""
    np.save(tmp_path / "x.npy", np.full(shape, 99, np.uint8))
    assert len(open_dataset(str(tmp_path / "x.npy"))) == shape[0]


@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_arrays_of_all_samples_that_are_not_read_are_named(tmp_path: Path, suffix: str) -> None:
    """Labels by another name would be lost; what has another number of rows is no part of the samples."""

    def write(**others: np.ndarray) -> None:
        arrays = {"images": IMAGES, "mean": np.zeros(3), "scale": np.float32(2), **others}
        if suffix == "npz":
            np.savez(tmp_path / "x.npz", **arrays)
        else:
            with h5py.File(tmp_path / "x.h5", "w") as file:
                for key, value in arrays.items():
                    file[key] = value

    with warnings.catch_warnings(action="error"):
        write(labels=np.arange(4))
        open_dataset(str(tmp_path / f"x.{suffix}"))
    write(targets=np.arange(4), masks=np.zeros((4, 2)))
    with pytest.warns(TinyDDPMWarning) as said:
        open_dataset(str(tmp_path / f"x.{suffix}"))
    (line,) = [str(warning.message) for warning in said]
    for part in ("not read: ", "targets (4,)", "masks (4, 2)", "call labels `labels` or `y`, and captions `captions`"):
        assert part in line


@pytest.mark.parametrize("how", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_archives_that_numpy_does_not_write_are_refused(tmp_path: Path, how: int) -> None:
    """Damage there ends in errors of other libraries; of an array that is not read it does not matter."""
    np.save(tmp_path / "a.npy", IMAGES)
    for read in ("images", "others"):
        with zipfile.ZipFile(tmp_path / f"{read}.npz", "w") as archive:
            archive.write(tmp_path / "a.npy", f"{read}.npy", how)
            if read != "images":
                archive.write(tmp_path / "a.npy", "images.npy")
        content = bytearray((tmp_path / f"{read}.npz").read_bytes())
        content[50:60] = b"\xff" * 10
        (tmp_path / f"{read}.npz").write_bytes(content)
    with pytest.raises(DataError, match="images is compressed in a way that NumPy does not use"):
        open_dataset(str(tmp_path / "images.npz"))
    assert len(open_dataset(str(tmp_path / "others.npz"))) == 4


def test_members_of_an_archive_that_are_no_arrays_are_passed_over(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("labels", b"?")
    assert open_dataset(str(tmp_path / "x.npz")).classes == ()


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (np.array([0, 1, 2]), r"labels of shape \(3,\) and type int64: store 4 integers or texts"),
        (np.array([0.5, 1, 1, 0]), "type float64: store 4 integers"),
        (np.array([0, 1, np.nan, 0]), "type float64: store 4 integers"),
        (np.array([[0, 1], [1, 1], [1, 0], [1, 0]]), r"labels of shape \(4, 2\)"),
        (np.array([b"a", b"b", b"a", b"b"]), r"type \|S1: store 4 integers or texts"),
        (np.array(["a", "b", "\ud83d", "b"]), "a label holds half a character"),
        (np.array(["", "a", "b", "a"]), "the class of a sample is '': give it a name"),
        (np.array(["b", "a", "b ", "a"]), "the classes 'b' and 'b ' are one name, written in two ways"),
        (np.array(["b", "cafe\u0301", "b", "caf\u00e9"]), "are one name, written in two ways"),
        (np.array([0, 1, -1, 2]), "label -1 is below 0: number the classes from 0, or leave those samples out"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, labels: np.ndarray, complaint: str) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=labels)
    with pytest.raises(DataError, match=rf"x\.npz: .*{complaint}"):
        open_dataset(str(tmp_path / "x.npz"))


def test_npz_without_samples_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", weights=IMAGES)
    with pytest.raises(DataError, match=r"x\.npz holds weights: save the array as `images`"):
        open_dataset(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_are_refused_unopened(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    array = np.array([Trap()], object)
    np.save(path, array) if suffix == ".npy" else np.savez(path, x=array)
    with pytest.raises(DataError, match=rf"x\{suffix}: cannot be read"):
        open_dataset(str(path))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_text_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_text("hello, I am a text file")
    with pytest.raises(DataError, match=rf"x\{suffix}: cannot be read"):
        open_dataset(str(path))


def test_an_archive_called_npy_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=IMAGES)
    path = (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(DataError, match=r"x\.npy is no \.npy file"):
        open_dataset(str(path))


def test_a_lying_header_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    """A header of 16 TiB above a few bytes, in both formats."""
    honest = npy_bytes(np.zeros((1, 4, 4), np.uint8))
    lying = honest.replace(b"(1, 4, 4), }" + b" " * 13, b"(16777216, 1024, 1024), }")
    assert lying != honest
    assert len(lying) == len(honest)
    (tmp_path / "x.npy").write_bytes(lying)
    save_member(tmp_path / "x.npz", lying)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read"):
            open_dataset(str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_the_second_version_of_the_format_is_read(tmp_path: Path, suffix: str) -> None:
    """Its header has a length of four bytes."""
    content = io.BytesIO()
    np.lib.format.write_array(content, IMAGES, version=(2, 0))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content.getvalue()) if suffix == ".npy" else save_member(path, content.getvalue())
    np.testing.assert_array_equal(open_dataset(str(path)).read(np.arange(4))[..., 0], IMAGES)


def test_a_later_version_of_the_format_is_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, IMAGES, version=(3, 0))
    with pytest.raises(DataError, match=r"x\.npz: cannot be read \(version \(3, 0\) of the \.npy format\)"):
        open_dataset(str(save_member(tmp_path / "x.npz", content.getvalue())))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_long_header_is_refused_unread(tmp_path: Path, suffix: str) -> None:
    """Before it is missed that the file has less."""
    header = b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b"{'descr': "
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        path.write_bytes(header)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", header)
    with pytest.raises(DataError, match="it has a header of 2147483648 bytes"):
        open_dataset(str(path))


def test_an_archive_too_large_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_member(tmp_path / "x.npz", npy_bytes(np.zeros((64, 64, 64), np.uint8)))
    monkeypatch.setattr("tinyddpm.data.base.MEMORY_LIMIT", 2**18)
    with pytest.raises(DataError, match=r"x\.npz: .* GiB"):
        open_dataset(str(tmp_path / "x.npz"))
