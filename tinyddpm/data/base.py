"""The protocol of data sets, data sets over arrays, and checks of samples, labels and columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Purpose, Random
from tinyddpm.errors import DataError

Samples: TypeAlias = NDArray[Any]
"""uint8 images (n, H, W, C) or float32 points (n, D)."""
Labels: TypeAlias = NDArray[np.int64]
"""The class of each sample, (n,)."""

CAPTIONS, TOKENS, LENGTH = "text", "tokens", "length"
"""Names of columns that conditions read; see `Dataset`."""

MEMORY_LIMIT = 4 * 2**30
"""Largest size of a data set in memory, in bytes. A larger one belongs into an HDF5 file, which is read lazily."""
MOST_CLASSES = 65536
CHANNELS = (1, 2, 3, 4)
"""Numbers of channels that images may have; an axis of another length is no axis of channels."""

LEAST_SIDE, WIDE = 8, 4
"""Of an array (8 or more, 8 or more, N) without channels, N is taken for the number of images from 4 times the rest."""


class Dataset(Protocol):
    """Samples that are read by index.

    An entry of group `tinyddpm.datasets` is a callable `(split, data_dir, **options) -> Dataset`:

    - split: the name of a part of the data, such as "train"; DataError for one that there is not (`require_split`);
    - data_dir: the folder of its files that the user gives; None for none;
    - options: keyword-only, all with defaults.

    Attributes:
        description: a summary in one line, such as "digits: 1797 images 8x8x1, 10 classes".
        shape: the shape of one sample, (H, W, C) of an image or (D,) of a point.
        classes: the names of the classes, () without labels.
        labels: the class of each sample, int64 (n,), or None.
        columns: further data of each sample by name, arrays of n rows each; {} for none. Column "text" holds captions,
            an object array (n,) of `str`; "tokens" holds captions embedded by an external encoder, float16 or float32
            (n, L, D), with "length", integers (n,), if not all L tokens of each sample are used.
    """

    description: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    labels: Labels | None
    columns: Mapping[str, Samples]

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def read(self, indices: NDArray[np.integer[Any]]) -> Samples:
        """Return the samples at `indices`: uint8 (n, H, W, C) for images, float32 (n, D) for points."""
        ...


class ArrayDataset:
    """A `Dataset` over one array, in memory or memory-mapped.

    Args:
        samples: uint8 images (n, H, W) or (n, H, W, C), or floating points (n, D), which are kept as float32.
        labels: the label of each sample in any form that `checked_labels` takes, or None.
        classes: the names of the classes, by number; the values of the labels if not given.
        columns: further data of each sample; see `Dataset`.
        name: the name of the data set in errors and in the description.
        origin: a note on where the samples were read from, such as a cache.

    Raises:
        DataError: the samples, labels or columns have another type or shape, are empty, or are not finite.
    """

    def __init__(
        self,
        samples: Samples,
        labels: Samples | None = None,
        classes: tuple[str, ...] = (),
        *,
        columns: Mapping[str, Samples] = {},
        name: str,
        origin: str = "",
    ) -> None:
        self.shape = sample_shape(samples.shape, samples.dtype, name)
        if len(self.shape) == 1:
            check_memory(samples.size * np.dtype(np.float32).itemsize, name)
            with np.errstate(over="ignore"):
                samples = np.asarray(samples, np.float32)
            if not np.isfinite(samples).all():
                bad = int(np.argmin(np.isfinite(samples).all(axis=1)))
                raise DataError(f"{name}: point {bad} is not finite in float32: remove it or scale the points down")
        self._samples = samples.reshape(len(samples), *self.shape)
        self.labels, self.classes = checked_labels(labels, len(samples), classes, name)
        self.columns = checked_columns(columns, len(samples), name)
        self.description = describe(name, len(samples), self.shape, self.classes, self.columns)
        self.origin = origin

    def __len__(self) -> int:
        return len(self._samples)

    def read(self, indices: NDArray[np.integer[Any]]) -> Samples:
        """Return a copy of the samples at `indices`."""
        return np.asarray(self._samples[indices])


class Subset:
    """The samples of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: Dataset, indices: NDArray[np.integer[Any]]) -> None:
        self._dataset = dataset
        self._indices = indices
        self.shape = dataset.shape
        self.classes = dataset.classes
        self.labels = None if dataset.labels is None else dataset.labels[indices]
        self.columns: Mapping[str, Samples] = {key: column[indices] for key, column in dataset.columns.items()}
        self.description = f"{len(indices)} of {dataset.description}"

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, indices: NDArray[np.integer[Any]]) -> Samples:
        """Return the samples at `indices` of this subset."""
        return self._dataset.read(self._indices[indices])


def spread(dataset: Dataset, count: int) -> NDArray[np.int64]:
    """Return the indices of `count` samples, spread evenly over a data set; of all if there are fewer, or for 0."""
    n = min(count or len(dataset), len(dataset))
    return np.arange(n) * len(dataset) // n


def split_dataset(dataset: Dataset, held_out: int, seed: int) -> tuple[Subset, Subset]:
    """Return two disjoint subsets: all but `held_out` samples, and these. The choice depends on `seed` alone.

    Raises:
        DataError: one of the subsets would be empty.
    """
    n = len(dataset)
    if not 0 < held_out < n:
        advice = f"choose a number from 1 to {n - 1}" if n > 1 else "give data with at least 2"
        raise DataError(f"cannot hold out {held_out} of {n} samples: {advice}")
    order = Random(np, seed).permutation(Purpose.SPLIT, 0, n)
    return Subset(dataset, np.sort(order[held_out:])), Subset(dataset, np.sort(order[:held_out]))


def checked_dataset(found: Any, name: str) -> Dataset:
    """Return the result `found` of the plugin `name`, after a check that it is a `Dataset`. One sample is read.

    Raises:
        DataError: an attribute or method is missing or has another type.
    """
    what = f"data set {name!r}"
    parts = ("description", "shape", "classes", "labels", "columns", "read", "__len__")
    missing = [part for part in parts if not hasattr(found, part)]
    if missing:
        raise DataError(
            f"{what} is a {type(found).__name__} without {', '.join(missing)}: return a data set,"
            " such as tinyddpm.data.base.ArrayDataset(samples, labels, classes, name=…)"
        )
    dataset: Dataset = found
    shape, n = tuple(dataset.shape), len(dataset)
    if n < 1 or len(shape) not in (1, 3):
        raise DataError(f"{what} has {n} samples of shape {shape}: give images (H, W, C) or points (D,), at least one")
    first = dataset.read(np.arange(1))
    kind = np.dtype(np.uint8 if len(shape) == 3 else np.float32)
    if not isinstance(first, np.ndarray) or first.shape != (1, *shape) or first.dtype != kind:
        given = (
            f"{first.dtype} of shape {first.shape}" if isinstance(first, np.ndarray) else f"a {type(first).__name__}"
        )
        raise DataError(f"{what}: reading one sample gives {given}: it must be {kind} of shape {(1, *shape)}")
    labels = dataset.labels
    if labels is not None and not isinstance(labels, np.ndarray):
        raise DataError(f"{what}: labels are a {type(labels).__name__}: give an int64 array ({n},), or None")
    if (labels is None) != (not dataset.classes):
        raise DataError(
            f"{what} has {len(dataset.classes)} classes and {'no' if labels is None else n} labels: give both"
        )
    checked_labels(labels, n, tuple(dataset.classes), what)
    checked_columns(dataset.columns, n, what)
    return dataset


def sample_shape(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> tuple[int, ...]:
    """Return the shape of one sample, (H, W, C) or (D,), in an array of this shape and type.

    Raises:
        DataError: the array is neither uint8 images nor floating points, or is empty.
    """
    if 0 in shape:
        raise DataError(f"{name}: the array of shape {shape} is empty: give at least one sample")
    if dtype.kind == "f" and len(shape) == 2:
        return shape[1:]
    if len(shape) not in (3, 4):
        raise DataError(
            f"{name}: an array of shape {shape} and type {dtype} is no data set:"
            " store uint8 images (n, H, W) or (n, H, W, C), or floating points (n, D)"
        )
    if dtype != np.uint8:
        raise DataError(f"{name}: the images are {dtype}: store them as uint8, 0 to 255")
    if len(shape) == 4 and shape[1] in CHANNELS and shape[3] > 4:
        raise DataError(f"{name}: images of shape {shape} have their channels first: store them as (n, H, W, C)")
    if len(shape) == 4 and shape[2] in CHANNELS and (shape[3] > 4 or shape[0] == shape[1] > 4):
        raise DataError(f"{name}: images of shape {shape} have their number last: store them as (n, H, W, C)")
    if len(shape) == 4 and shape[0] in CHANNELS and shape[3] > 4 and shape[1] == shape[2] > 4:
        raise DataError(f"{name}: images of shape {shape} have their channels first: store them as (n, H, W, C)")
    if len(shape) == 3 and min(shape) >= LEAST_SIDE and shape[2] > WIDE * max(shape[:2]):
        raise DataError(
            f"{name}: images of shape {shape} have their number last, it seems: store them as (n, H, W), or as"
            " (n, H, W, 1) if they are that wide"
        )
    return (*shape[1:], 1) if len(shape) == 3 else shape[1:]


def checked_labels(
    labels: Samples | None, n: int, classes: tuple[str, ...], name: str
) -> tuple[Labels | None, tuple[str, ...]]:
    """Return the number of each sample's class, int64 (n,), and the names of the classes.

    Labels are whole numbers of any type, (n,) or (n, 1), booleans, texts, or one-hot rows (n, number of classes). If
    `classes` is empty, the classes are the distinct labels in ascending order, and their names are the values.

    Raises:
        DataError: the labels have another form, are negative, or are no numbers of classes in `classes`.
    """
    if labels is None:
        return None, ()
    values = _one_each(labels, n, name)
    if values.dtype.kind == "i" and values.min() < 0:
        raise DataError(
            f"{name}: label {values.min()} is below 0: number the classes from 0, or leave those samples out"
        )
    if classes:
        if values.dtype.kind not in "iu" or values.max() >= len(classes):
            raise DataError(
                f"{name}: label {values.max()} is not in 0 to {len(classes) - 1}, the classes that have names"
            )
        return values.astype(np.int64), classes
    found, numbers = np.unique(values, return_inverse=True)
    if found.dtype.kind in "OU":
        check_names(found.tolist(), name)
    if len(found) > MOST_CLASSES:
        raise DataError(
            f"{name}: {len(found)} different labels, and there may be {MOST_CLASSES} classes: leave them out"
        )
    return numbers.reshape(n).astype(np.int64), tuple(str(value) for value in found.tolist())


def _one_each(labels: Samples, n: int, name: str) -> Samples:
    """Return labels as integers, booleans or texts, (n,)."""
    values = labels[:, 0] if labels.shape == (n, 1) else labels
    if values.ndim == 2 and values.dtype.kind in "biuf" and _is_one_hot(values):
        values = values.argmax(axis=1)
    if values.dtype.kind == "f" and (np.abs(values) < np.float64(2**53)).all() and (values == np.rint(values)).all():
        values = values.astype(np.int64)
    texts = values.dtype.kind in "OU" and all(isinstance(value, str) for value in values.flat)
    if values.shape != (n,) or not (values.dtype.kind in "biu" or texts):
        raise DataError(
            f"{name}: labels of shape {labels.shape} and type {labels.dtype}: store {n} integers or texts, one a sample"
        )
    if texts and any("\ud800" <= character <= "\udfff" for value in set(values) for character in value):
        raise DataError(f"{name}: a label holds half a character (a lone surrogate): write it anew")
    return values


def check_names(classes: Iterable[str], name: str) -> None:
    """Raise a DataError if the name of a class is empty, or two are one name in two spellings that look alike."""
    spelt: dict[str, str] = {}
    for spelling in classes:
        plain = unicodedata.normalize("NFC", spelling).strip()
        if not plain:
            raise DataError(f"{name}: the class of a sample is {spelling!r}: give it a name, or leave the sample out")
        other = spelt.setdefault(plain, spelling)
        if other != spelling:
            raise DataError(
                f"{name}: the classes {other!a} and {spelling!a} are one name, written in two ways: rename one"
            )


def _is_one_hot(rows: Samples) -> bool:
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(axis=1) == 1).all())


def checked_columns(columns: Mapping[str, Samples], n: int, name: str) -> Mapping[str, Samples]:
    """Return `columns`, after a check that each has n rows and that captions and tokens are as `Dataset` says.

    Raises:
        DataError: a column has another type or shape.
    """
    if not isinstance(columns, Mapping):
        raise DataError(
            f"{name}: columns are a {type(columns).__name__}: give a mapping of names to arrays, {{}} for none"
        )
    for key, column in columns.items():
        if not isinstance(column, np.ndarray) or column.ndim == 0 or len(column) != n:
            given = f"of shape {column.shape}" if isinstance(column, np.ndarray) else f"a {type(column).__name__}"
            raise DataError(f"{name}: column {key!r} is {given}: give an array of {n} rows, one for each sample")
    if CAPTIONS in columns:
        _check_captions(columns[CAPTIONS], name)
    if TOKENS in columns:
        _check_tokens(columns[TOKENS], columns.get(LENGTH), name)
    return columns


def _check_captions(captions: Samples, name: str) -> None:
    if captions.ndim != 1 or captions.dtype != object:
        raise DataError(
            f"{name}: captions of shape {captions.shape} and type {captions.dtype}: give strings (n,) as objects, such"
            " as numpy.asarray(captions, object)"
        )
    for i, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise DataError(f"{name}: caption {i} is a {type(caption).__name__}: give a str")
        if not caption.isascii() and any("\ud800" <= character <= "\udfff" for character in caption):
            raise DataError(f"{name}: caption {i} holds half a character (a lone surrogate): write it anew")


def _check_tokens(tokens: Samples, length: Samples | None, name: str) -> None:
    if tokens.ndim != 3 or 0 in tokens.shape or tokens.dtype not in (np.float16, np.float32):
        raise DataError(
            f"{name}: tokens of shape {tokens.shape} and type {tokens.dtype}: give float16 or float32 (n, L, D)"
        )
    wrong = next((i for i, row in enumerate(tokens) if not np.isfinite(row).all()), None)
    if wrong is not None:
        raise DataError(f"{name}: the tokens of sample {wrong} are not finite: make them anew")
    most = tokens.shape[1]
    if length is None:
        return
    if length.ndim != 1 or length.dtype.kind not in "iu" or length.min() < 0 or length.max() > most:
        raise DataError(f"{name}: a length is no integer from 0 to {most}, the tokens of a sample: store n of them")


PACK = "pack it into an HDF5 file, which is read as needed (examples/pack_folder.py), or shrink it"


def check_memory(size: int, name: str, advice: str = PACK) -> None:
    """Raise a DataError that ends with `advice` if a data set of `size` bytes exceeds `MEMORY_LIMIT`."""
    if size > MEMORY_LIMIT:
        raise DataError(
            f"{name}: {size / 2**30:.1f} GiB once decoded, more than the {MEMORY_LIMIT / 2**30:g} GiB that are held"
            f" in memory: {advice}"
        )


def require_split(split: str, splits: tuple[str, ...], name: str) -> None:
    """Raise a DataError if `split` is not among the splits of the data set called `name`."""
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}, only {' and '.join(map(repr, splits))}")


def describe(
    name: str, n: int, shape: tuple[int, ...], classes: tuple[str, ...], columns: Mapping[str, Samples] = {}
) -> str:
    """Return the summary of a data set in one line, `Dataset.description`."""
    if len(shape) == 1:
        D = shape[0]
        what = "points" if D == 2 else f"points in {D} dimension{'s' if D > 1 else ''}"
    else:
        what = f"images {'x'.join(map(str, shape))}"
    parts = [f"{name}: {n} {what}"]
    if classes:
        parts.append(f"{len(classes)} class{'es' if len(classes) > 1 else ''}")
    if CAPTIONS in columns:
        parts.append("captions")
    if TOKENS in columns:
        parts.append(f"tokens {'x'.join(map(str, columns[TOKENS].shape[1:]))}")
    return ", ".join(parts)
