"""Names of arrays in a file of several arrays: samples and labels, of the whole data set or of each split.

Samples are called `images`, `points`, `x` or `arr_0`, and labels `labels`, `y` or `arr_1`. A file with splits combines
these names with theirs: "x_train" and "y_test" as in Keras, "train_images" and "val_labels" as in MedMNIST, or
"train/images" as in groups of HDF5.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from tinyddpm.data.base import Samples, checked_labels
from tinyddpm.data.splits import split_called
from tinyddpm.errors import DataError, TinyDDPMWarning

SAMPLE_KEYS = ("images", "points", "x", "arr_0")
LABEL_KEYS = ("labels", "y", "arr_1")


def by_split(keys: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Return the key of each split in `keys` whose name is one of `wanted`; a name without a split means "train"."""
    whole = next((key for key in wanted if key in keys), None)
    if whole:
        return {"train": whole}
    words = [(key, re.split("[_/]", key.lower())) for key in keys]
    pairs = [(key, pair) for key, word in words if len(word) == 2 for pair in (word, word[::-1])]
    return {split: key for key, (name, part) in pairs if name in wanted and (split := split_called(part))}


def labels_of(
    split: str, labels: Mapping[str, Samples], classes: tuple[str, ...], name: str
) -> tuple[Samples | None, tuple[str, ...]]:
    """Return the labels of a split and the names of the classes, which are numbered alike in all splits.

    Args:
        split: the split.
        labels: the stored labels of each split.
        classes: the names of the classes, if the file has them; see `checked_labels`.
        name: the name of the file, for messages.

    Raises:
        DataError: the labels have a wrong form, or their shapes differ between splits.
    """
    here, others = labels.get(split), [known(part) for key, part in labels.items() if key != split]
    if here is None or not others or classes:
        return here, classes
    if any(part.ndim == 0 or part.shape[1:] != here.shape[1:] for part in [here, *others]):
        raise DataError(f"{name}: the labels of {', '.join(labels)} have different shapes: store them alike")
    n = len(here) + sum(map(len, others))
    numbers, classes = checked_labels(np.concatenate([here, *others]), n, (), name)
    return None if numbers is None else numbers[: len(here)], classes


def known(labels: Samples) -> Samples:
    """Return the labels of another split without those of -1, by which test sets hide the class."""
    if labels.dtype.kind != "i" or labels.ndim == 0:
        return labels
    return labels[(labels >= 0).reshape(len(labels), -1).all(axis=1)]


def say_unread(shapes: Mapping[str, tuple[int, ...]], read: Collection[str], n: int, name: str) -> None:
    """Warn of arrays that are not read though they have a row for each of n samples, as labels by another name have.

    Args:
        shapes: the shape of each array in the file.
        read: the names of the arrays that are read, or belong to another split.
        n: the number of samples.
        name: the name of the file.
    """
    unread = [f"{key} {shape}" for key, shape in shapes.items() if key not in read and shape[:1] == (n,)]
    if unread:
        warnings.warn(
            f"{name}: not read: {', '.join(unread[:5])}: call labels `labels` or `y`, and captions `captions`",
            TinyDDPMWarning,
            stacklevel=2,
        )
