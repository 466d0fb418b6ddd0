"""The splits of a data set, and what people and tools call them."""

from __future__ import annotations

import re

NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
"""Of each split, as Keras, Hugging Face, torchvision, Roboflow and COCO have them."""

DECORATION = r"(?:[ _-]?(?:sets?|data|images|imgs|split|[0-9]{4}))?"
"""What may follow, as in "train_set" and "val2017"."""


def split_called(name: str) -> str | None:
    """Return the split that `name` is a name of, in any capitals: "train", "validation", "test", or None."""
    for split, names in NAMES.items():
        if re.fullmatch(f"(?:{'|'.join(names)}){DECORATION}", name.lower()):
            return split
    return None
