"""Test images with different features, and the comparison of two sets of features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def pictures(count: int, height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """Return images of noisy coarse squares, each with a colour and a contrast of its own."""
    rng = np.random.default_rng(count)
    squares = rng.integers(0, 256, (count, 4, 4, channels)).repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)
    noise = rng.normal(size=(count, height, width, channels)) * rng.uniform(0, 60, (count, 1, 1, channels))
    return np.clip(squares[:, :height, :width] + noise, 0, 255).astype(np.uint8)


def as_torch(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return NHWC images as an NCHW tensor."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).contiguous()


def assert_same_features(ours: Any, theirs: Any) -> None:
    """Check errors relative to the spread of features: beside their large common mean, any error is small."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    spread = np.abs(theirs - theirs.mean(0)).max()
    assert np.abs(theirs).max() < 1000 * spread
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * spread)
