"""What the commands say of the data that they read."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.command_line import ONE_LEVEL, TWO_STEPS, says


@pytest.mark.parametrize("size", [("--image-size", "4"), ("--image-size", "4x4"), ("--set", "data.image_size=4")])
def test_one_number_is_the_side_of_a_square(here: Path, size: tuple[str, str]) -> None:
    found = says("train", "--dry-run", *TWO_STEPS, *ONE_LEVEL, *size)
    assert "8x8x1, 10 classes, shrunk from 8x8 to 4x4" in found
    assert "learns       eps of images 4x4x1 by class (10: 0, 1, 2, …)" in found
