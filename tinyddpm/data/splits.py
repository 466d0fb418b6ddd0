"""The splits of a data set, and the names that people and tools give them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

NAMES = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
"""The names of each split in Keras, Hugging Face, torchvision, Roboflow and COCO."""

DECORATION = r"(?:[ _-]?(?:sets?|data|images|imgs|split|[0-9]{4}))?"
"""Endings that may follow a name, as in "train_set" and "val2017"."""

_WORDS = "|".join(f"(?P<{split}>{'|'.join(sorted(names, key=len, reverse=True))})" for split, names in NAMES.items())
WITHIN = re.compile(f"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?i:{_WORDS})(?![a-z])")
"""Matches the name of a split as a word of a longer name, in any spelling of compound words."""


def split_called(name: str) -> str | None:
    """Return the split that `name` denotes, in upper or lower case: "train", "validation", "test", or None."""
    for split, names in NAMES.items():
        if re.fullmatch(f"(?:{'|'.join(names)}){DECORATION}", name.lower()):
            return split
    return None


def splits_among(names: Iterable[str]) -> dict[str, str]:
    """Return the splits that some of `names` denote, by name.

    Names that differ in the split alone, such as "seg_train" and "seg_test" or "trainA" and "testA", denote splits too.
    """
    found = {}
    alike: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        if split := split_called(name):
            found[name] = split
        elif match := WITHIN.search(name):
            alike[f"{name[: match.start()]}|{name[match.end() :]}".lower()][name] = str(match.lastgroup)
    for group in alike.values():
        found |= group if len(set(group.values())) > 1 else {}
    return found
