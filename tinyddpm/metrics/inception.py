"""Features of Inception-v3, with which the Fréchet distance is the FID (Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Backend
from tinyddpm.backend.workers import Workers
from tinyddpm.errors import ConfigError, DataError, unknown
from tinyddpm.metrics.base import Seen, require_images
from tinyddpm.metrics.inception_network import NETWORK
from tinyddpm.metrics.inception_weights import LOGITS, SHA256, find_weights, folded, read_weights
from tinyddpm.metrics.resize import resize_bilinear
from tinyddpm.ops import load_operations
from tinyddpm.ops.base import cut

SIZE = (299, 299)

RESIZES = {"tensorflow": (False, 128.0), "pytorch-fid": (True, 127.5)}
"""By resize: `half_pixels` of `resize_bilinear`, and the grey g of the network's input (x − g) / g."""

IMAGES = 16
"""Images in the network at a time, over all threads: they take half a GiB."""

DIGITS = 8
"""Fewest digits of a hash that identify a file of weights."""


class Inception:
    """The 2,048 pooled features of Inception-v3, and its logits without bias, from which the Inception score is made.

    They agree with torch-fidelity 0.4, or with pytorch-fid 0.3, which resizes images differently. The network computes
    in float32, even if the backend's precision is "bf16".

    Args:
        backend: the backend that computes.
        weights: path of the file of weights; by default it is searched in Torch's cache of downloads.
        sha256: first digits of the file's SHA-256, at least 8; by default that of the weights in common use for FID.
        resize: "tensorflow", as in the original graph and torch-fidelity: bilinear as in TensorFlow 1, then
            (x − 128) / 128. Or "pytorch-fid": bilinear with half pixels, then x / 127.5 − 1.

    Raises:
        ConfigError: there is no such resize, or too few digits of a hash are given.
        CheckpointError: the weights are missing, have another hash, or cannot be read.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        weights: str = "",
        sha256: str = SHA256,
        resize: str = "tensorflow",
    ) -> None:
        if resize not in RESIZES:
            raise ConfigError(unknown("resize of features 'inception'", resize, RESIZES))
        if len(sha256) < DIGITS:
            raise ConfigError(f"option sha256 of features 'inception' is {sha256!r}: give {DIGITS} digits or more")
        path = find_weights(weights)
        pairs = folded(read_weights(path, sha256))
        arrays = [array.astype(np.float32) for pair in pairs.values() for array in pair]
        shapes = [array.shape for array in arrays]
        self._ops = load_operations(backend)
        exact = backend.precision != "bf16"
        with backend.scope():
            buffer = backend.asarray(np.concatenate([array.reshape(-1) for array in arrays]))
            views = self._ops.weights(buffer, shapes) if exact else cut(backend.xp, buffer, shapes)
        self._w = dict(zip(pairs, zip(views[::2], views[1::2], strict=True), strict=True))
        self._half_pixels, self._grey = RESIZES[resize]
        self._workers = Workers(backend.threads(0))
        self.description = f"Inception-v3 with the weights {path.name}"
        self.resize = f"bilinear to 299x299 as {resize} does it"

    def __call__(self, samples: NDArray[Any]) -> Seen:
        """Return float32 features (n, 2048) and logits (n, 1008) of uint8 images, grey or in colour, of any size.

        Raises:
            DataError: the samples are not such images.
        """
        require_images(samples, "inception")
        if samples.shape[3] not in (1, 3):
            raise DataError(
                f"features 'inception' need images with 1 or 3 channels, not {samples.shape[3]}: "
                "choose others, such as pixels"
            )
        each = max(1, IMAGES // self._workers.threads)
        batches = [samples[start : start + each] for start in range(0, len(samples), each)]
        features, logits = zip(*self._workers.map(self._look, batches), strict=True)
        return Seen(np.concatenate(features), np.concatenate(logits))

    def _look(self, images: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        ops, xp, backend = self._ops, self._ops.xp, self._ops.backend
        with backend.scope():
            x = resize_bilinear(xp.astype(backend.asarray(images), xp.float32), SIZE, self._half_pixels)
            x = (x - self._grey) / self._grey
            if x.shape[3] == 1:
                x = xp.concat([x, x, x], axis=-1)
            features = xp.mean(NETWORK.forward(ops, self._w, x), axis=(1, 2))
            logits, _ = ops.linear(features, *self._w[LOGITS])
            return backend.to_numpy(features), backend.to_numpy(logits)
