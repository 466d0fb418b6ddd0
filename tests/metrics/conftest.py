"""A random Inception, and its weights in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers.torch_inception import TorchInception


@pytest.fixture(scope="session")
def inception() -> TorchInception:
    from helpers.torch_inception import random_inception

    return random_inception()


@pytest.fixture(scope="session")
def inception_file(inception: TorchInception, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch

    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(inception.state_dict(), path)
    yield path
    path.unlink()  # 96 MB


@pytest.fixture(scope="session")
def inception_options(inception_file: Path) -> dict[str, str]:
    """What features are told, to be that Inception's."""
    return {"weights": str(inception_file), "sha256": hashlib.sha256(inception_file.read_bytes()).hexdigest()[:8]}
