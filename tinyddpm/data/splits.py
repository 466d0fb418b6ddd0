"""The splits of a data set, and the names that people and tools give them."""

from __future__ import annotations

import re

NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
"""The names of each split in Keras, Hugging Face, torchvision, Roboflow and COCO."""

DECORATION = r"(?:[ _-]?(?:sets?|data|images|imgs|split|[0-9]{4}))?"
"""Endings that may follow a name, as in "train_set" and "val2017"."""


def split_called(name: str) -> str | None:
    """Return the split that `name` denotes, in upper or lower case: "train", "validation", "test", or None."""
    for split, names in NAMES.items():
        if re.fullmatch(f"(?:{'|'.join(names)}){DECORATION}", name.lower()):
            return split
    return None
