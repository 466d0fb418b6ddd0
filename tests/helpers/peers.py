"""Importing the libraries of others that metrics are compared with."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest


def make_torchvision_importable() -> None:
    """Make a torchvision that was compiled for a Torch with CUDA importable beside a Torch without.

    Tests do not need its operators, only their names. Torch is imported only then: folders whose tests share this are
    collected without it too.
    """
    try:
        import_module("torchvision")
    except ModuleNotFoundError:
        return
    except RuntimeError:
        import torch

        for name in "nms", "qnms":
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def import_peer(module: str, version: str) -> ModuleType:
    """Return a module of a library at the pinned version, or skip the test."""
    make_torchvision_importable()
    distribution = module.partition(".")[0]
    reason = f"{distribution} {version} is not installed: pip install -e '.[peers]'"
    found: ModuleType = pytest.importorskip(module, reason=reason)
    return found
