"""The libraries that others measure by, where they are installed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest
import torch


def make_torchvision_importable() -> None:
    """Let a torchvision that is compiled for a Torch with CUDA be imported beside one without.

    What is wanted of it needs none of its operators: that their names exist is enough.
    """
    try:
        import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError:
        for name in "nms", "qnms":
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def import_peer(module: str, version: str) -> ModuleType:
    """Return a module of a library, at the version that ours are compared with, or skip the test."""
    make_torchvision_importable()
    distribution = module.partition(".")[0]
    reason = f"{distribution} {version} is not installed: pip install -e '.[peers]'"
    found: ModuleType = pytest.importorskip(module, reason=reason)
    return found
