"""The libraries that others measure by, where they are installed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest
import torch


def import_peer(module: str, version: str) -> ModuleType:
    """Return a module of a library, at the version that ours are compared with, or skip the test."""
    distribution = module.partition(".")[0]
    reason = f"{distribution} {version} is not installed: pip install -e '.[peers]'"
    pytest.importorskip("scipy", reason=reason)
    try:
        import_module("torchvision")
    except ModuleNotFoundError:
        pytest.skip(reason)
    except RuntimeError:
        # Its operators are compiled for a Torch with CUDA, and this one is without. What is wanted of it needs none of
        # them: that the names exist is enough.
        for name in "nms", "qnms":
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    found: ModuleType = pytest.importorskip(module, reason=reason)
    return found
