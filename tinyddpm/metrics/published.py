"""Published weights of other projects: verify the file's hash, read it, and fold batch norms into convolutions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.resources.abc import Traversable
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import CheckpointError

State = Mapping[str, NDArray[Any]]
"""Arrays under Torch's names and in Torch's layout: the kernel of a convolution is (C_out, C_in, kh, kw)."""

NORM = "weight", "bias", "running_mean", "running_var"
"""Torch's names of γ, β, μ and σ² of a batch norm."""

EPSILON = 1e-3
"""ε that a batch norm adds to the variance, in networks trained with TensorFlow."""

Floating = TypeVar("Floating", bound=np.floating[Any])


def read_torch(file: Traversable, sha256: str, advice: str) -> State:
    """Return the arrays in a Torch file. It is read as data: no code in it is run.

    Args:
        file: the file.
        sha256: first digits of the expected SHA-256.
        advice: end of the error's line: what to do about another file.

    Raises:
        CheckpointError: the hash differs.
        ImportError: Torch is not installed.
    """
    content = file.read_bytes()
    require_hash(file, hashlib.sha256(content).hexdigest(), sha256, advice)
    import torch

    state = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in state.items()}


def require_hash(file: Traversable, found: str, wanted: str, advice: str) -> None:
    """Raise CheckpointError, with the advice, unless the hash `found` of a file begins with the hash `wanted`."""
    if not found.startswith(wanted.lower()):
        raise CheckpointError(f"the SHA-256 of {file} is {found}, and that of the published weights {wanted}: {advice}")


def fold(kernel: NDArray[Floating], norm: Iterable[NDArray[Floating]]) -> tuple[NDArray[Floating], NDArray[Floating]]:
    """Return the weights (kh, kw, C_in, C_out) and the bias (C_out,) of a convolution with the batch norm after it.

    A batch norm is γ (y − μ) / √(σ² + ε) + β of a convolution y = P(x) W. That is P(x) W s + (β − μ s) with
    s = γ / √(σ² + ε), one number per channel: a convolution with a bias.

    Args:
        kernel: (C_out, C_in, kh, kw).
        norm: γ, β, μ and σ² in the order of `NORM`, (C_out,) each.
    """
    gamma, beta, mean, variance = norm
    scale = gamma / np.sqrt(variance + EPSILON)
    return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0) * scale), beta - mean * scale
