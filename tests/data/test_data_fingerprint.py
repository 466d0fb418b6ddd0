"""Fingerprints: every part counts, and large data sets are read in part."""

from __future__ import annotations

import numpy as np
import pytest

from tinyddpm.data import fingerprint as module
from tinyddpm.data.base import ArrayDataset
from tinyddpm.data.fingerprint import differences, fingerprint
from tinyddpm.data.resize import resized

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1)).astype(np.uint8)


def test_the_same_data_are_the_same_at_any_size() -> None:
    dataset = ArrayDataset(IMAGES, name="x")
    assert differences(fingerprint(dataset), fingerprint(resized(ArrayDataset(IMAGES.copy(), name="y"), (2, 2)))) == []


def test_every_sample_and_their_order_count() -> None:
    before = fingerprint(ArrayDataset(IMAGES, name="x"))
    for i in range(9):
        other = IMAGES.copy()
        other[i, 3, 3] ^= 1
        assert differences(before, fingerprint(ArrayDataset(other, name="x"))) == ["the samples"]
    assert differences(before, fingerprint(ArrayDataset(IMAGES[::-1], name="x"))) == ["the samples"]


def test_captions_count() -> None:
    words = np.asarray([f"word {i}" for i in range(9)], object)
    before = fingerprint(ArrayDataset(IMAGES, columns={"text": words}, name="x"))
    for others in (words[::-1], np.asarray([*words[:8], "wordy"], object)):
        now = fingerprint(ArrayDataset(IMAGES, columns={"text": others}, name="x"))
        assert differences(before, now) == ["the captions and columns"]


@pytest.mark.parametrize("at_once", [16, 40])
def test_of_large_data_the_first_and_the_last_and_some_between_are_read(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ", 16 * 4)
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    dataset, seen = ArrayDataset(IMAGES, name="x"), []
    read = dataset.read
    monkeypatch.setattr(dataset, "read", lambda indices: (seen.extend(indices.tolist()), read(indices))[1])
    fingerprint(dataset)
    assert seen == [0, 2, 5, 8]
