"""Inception against Torch's layers, and against the libraries that measure by it where they are installed."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from helpers.pictures import as_torch, assert_same_features, pictures
from helpers.torch_inception import TorchInception, random_inception
from tinyddpm.backend import Backend, load_backend
from tinyddpm.errors import CheckpointError, ConfigError, DataError
from tinyddpm.metrics.base import make_features
from tinyddpm.metrics.inception_network import NETWORK, pool
from tinyddpm.metrics.inception_weights import SHA256, find_weights, folded, read_weights, save_weights
from tinyddpm.metrics.resize import resize_bilinear
from tinyddpm.ops import Operations
from tinyddpm.testing import check_feature

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("height", "width"), [(107, 120), (120, 107)])
def test_the_network_is_torchs(numpy_backend: Backend, inception: TorchInception, height: int, width: int) -> None:
    """In float64, of sides that pools and strides meet odd and even, and that end as 2×2; batch norms folded in."""
    double = random_inception().double()
    x = np.random.default_rng(height).normal(size=(1, height, width, 3))
    w = folded({name: array.numpy() for name, array in double.state_dict().items()})
    ours = NETWORK.forward(Operations(numpy_backend), w, x).mean((1, 2))
    theirs, logits = double(torch.as_tensor(x).permute(0, 3, 1, 2))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-9, atol=1e-10 * theirs.abs().max().item())
    np.testing.assert_allclose(ours @ w["fc"][0], logits.numpy(), rtol=0, atol=1e-10 * logits.abs().max().item())


def test_it_has_the_published_size() -> None:
    """As many numbers as the file that everyone uses has in its 566 arrays, of which 94 count batches."""
    units = list(NETWORK.units())
    assert len(units) == 94
    numbers = sum(np.prod(unit.shape) + 4 * unit.c_out for unit in units) + 1008 * 2049
    assert 4 * numbers + 8 * 94 == 95_542_320


@pytest.mark.parametrize("kind", ["max", "mean"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(3, 4), (6, 5)])
def test_pools_are_torchs(kind: Any, stride: int, height: int, width: int, other_backend: Backend) -> None:
    x = np.random.default_rng(1).uniform(size=(2, height, width, 3)).astype(np.float32)
    ours = pool(other_backend.xp, other_backend.asarray(x), kind, stride)
    channels_first, padding = torch.as_tensor(x).permute(0, 3, 1, 2), 2 - stride
    if kind == "max":
        theirs = functional.max_pool2d(channels_first, 3, stride, padding)
    else:
        theirs = functional.avg_pool2d(channels_first, 3, stride, padding, count_include_pad=False)
    np.testing.assert_allclose(other_backend.to_numpy(ours), theirs.permute(0, 2, 3, 1), rtol=1e-6)


@pytest.mark.parametrize("size", [(7, 11), (23, 5), (4, 6), (1, 1)])
def test_resizing_by_half_pixels_is_torchs(size: tuple[int, int], other_backend: Backend) -> None:
    x = np.random.default_rng(1).uniform(size=(2, 4, 6, 3)).astype(np.float32)
    ours = other_backend.to_numpy(resize_bilinear(other_backend.asarray(x), size, half_pixels=True))
    theirs = functional.interpolate(torch.as_tensor(x).permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-6)


@pytest.mark.parametrize("size", [(7, 11), (23, 5), (4, 6), (1, 1)])
def test_resizing_by_points_is_tensorflows(size: tuple[int, int], other_backend: Backend) -> None:
    """Pixel i of n is at i · old / n; between the last old pixel and nothing the last is repeated."""
    x = np.random.default_rng(1).uniform(size=(4, 6)).astype(np.float32)
    ours = resize_bilinear(other_backend.asarray(x[None, :, :, None]), size, half_pixels=False)
    rows, columns = (np.arange(new) * old / new for new, old in zip(size, x.shape, strict=True))
    along_rows = np.array([np.interp(columns, np.arange(6), row) for row in x])
    expected = np.array([np.interp(rows, np.arange(4), column) for column in along_rows.T]).T
    np.testing.assert_allclose(other_backend.to_numpy(ours)[0, :, :, 0], expected, atol=1e-6)


def resized_by_torch(images: NDArray[np.uint8]) -> torch.Tensor:
    resized = functional.interpolate(as_torch(images) / 255, (299, 299), mode="bilinear", align_corners=False)
    return 2 * resized - 1


def test_features_are_the_twins(
    other_backend: Backend,
    inception: TorchInception,
    inception_options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From uint8 on; three images, two at a time."""
    monkeypatch.setattr("tinyddpm.metrics.inception.IMAGES", 2)
    images = pictures(3, 20, 33)
    seen = make_features("inception", other_backend, **inception_options, resize="pytorch-fid")(images)
    features, logits = inception(resized_by_torch(images))
    assert seen.features.dtype == np.float32
    assert seen.logits is not None
    assert_same_features(seen.features, features)
    assert_same_features(seen.logits, logits)


def test_grey_images_are_seen_as_three_channels(
    numpy_backend: Backend, inception: TorchInception, inception_options: dict[str, str]
) -> None:
    """Two images, by threads that take one each; half the precision of a backend changes nothing."""
    images = pictures(2, 28, 28, channels=1)
    features, _ = inception(resized_by_torch(images.repeat(3, axis=3)))
    for backend in numpy_backend, load_backend("torch", precision="bf16"):
        with backend.scope():
            seen = make_features("inception", backend, **inception_options, resize="pytorch-fid")(images)
        assert_same_features(seen.features, features)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 8, 8, 4), np.uint8), "need images with 1 or 3 channels, not 4"),
        (np.zeros((2, 8, 8, 3), np.float32), "need uint8 images, not float32"),
    ],
    ids=["channels", "type"],
)
def test_what_is_no_image_is_refused(
    numpy_backend: Backend, inception_options: dict[str, str], samples: NDArray[Any], message: str
) -> None:
    features = make_features("inception", numpy_backend, **inception_options)
    with pytest.raises(DataError, match=message):
        features(samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "nearest"}, "unknown resize of features 'inception' 'nearest': there are: pytorch-fid, tensorflow"),
        ({"sha256": "6726"}, "option sha256 of features 'inception' is '6726': give 8 digits or more"),
    ],
    ids=["resize", "sha256"],
)
def test_wrong_options_are_refused(numpy_backend: Backend, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_features("inception", numpy_backend, **options)


def test_it_keeps_the_contract_of_features(inception_options: dict[str, str]) -> None:
    check_feature("inception", **inception_options)


class TestWeights:
    """The file: which it must be, where it is looked for, and what it may hold."""

    def test_another_file_than_everyones_is_refused_unless_it_is_meant(self, inception_file: Path) -> None:
        digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()
        with pytest.raises(
            CheckpointError, match=f"is {digest}, and that of the published weights {SHA256}"
        ) as refusal:
            read_weights(inception_file)
        assert "or the option sha256 with the hash of this file if it is meant" in str(refusal.value)
        assert len(read_weights(inception_file, digest[:8])) == 566

    @pytest.mark.slow
    def test_an_npz_is_the_file_it_was_made_of(self, inception_file: Path, tmp_path: Path) -> None:
        """Its arrays, and its hash, which alone says whether it is everyone's."""
        digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()
        state = read_weights(inception_file, "")
        save_weights(tmp_path / "random.npz", state, digest)
        with pytest.raises(CheckpointError, match=f"is {digest}, and that of the published weights"):
            read_weights(tmp_path / "random.npz")
        again = read_weights(tmp_path / "random.npz", digest)
        assert again.keys() == state.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(again[name], array)

    def test_without_torch_an_npz_is_asked_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "weights.pth").touch()
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(CheckpointError, match=r"weights\.pth is read by Torch, .* or give the \.npz"):
            read_weights(tmp_path / "weights.pth", "")

    def test_no_code_in_a_file_is_run(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return Path.touch, (tmp_path / "ran",)

        torch.save({"fc.weight": Trap()}, tmp_path / "trap.pth")
        with pytest.raises(CheckpointError, match=r"trap\.pth cannot be read as weights"):
            read_weights(tmp_path / "trap.pth", "")
        np.savez(tmp_path / "trap.npz", **{"fc.weight": np.array([Trap()])})
        with pytest.raises(CheckpointError, match=r"trap\.npz cannot be read as weights"):
            read_weights(tmp_path / "trap.npz", "")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", ["weights.pth", "weights.npz"])
    @pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut off"], ids=["empty", "text", "zip"])
    def test_a_damaged_file_is_refused_in_one_line(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as weights") as refusal:
            read_weights(tmp_path / name, "")
        assert "\n" not in str(refusal.value)

    def test_arrays_that_hold_something_else_are_refused(self, tmp_path: Path) -> None:
        torch.save([1, 2], tmp_path / "list.pth")
        np.save(tmp_path / "array", np.zeros(3))
        (tmp_path / "array.npy").rename(tmp_path / "array.npz")
        for name in "list.pth", "array.npz":
            with pytest.raises(CheckpointError, match="cannot be read as weights"):
                read_weights(tmp_path / name, "")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: None, "is not there"),
            (lambda a: a[1:], r"is of shape \(191,\)"),
            (lambda a: np.full_like(a, np.nan), "is not finite"),
        ],
        ids=["missing", "shape", "nan"],
    )
    def test_weights_of_another_network_are_refused(self, inception: TorchInception, change: Any, message: str) -> None:
        name = "Mixed_7c.branch_pool.bn.running_mean"
        state = {key: array.numpy() for key, array in inception.state_dict().items()}
        changed = change(state.pop(name))
        with pytest.raises(CheckpointError, match=rf"{name}, \(192,\), {message}"):
            folded(state if changed is None else {**state, name: changed})

    def test_it_is_found_where_others_have_put_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In Torch's cache of downloads, under either name; else one line says where it is to be had."""
        for variable in "TORCH_HOME", "XDG_CACHE_HOME", "HOME":
            monkeypatch.delenv(variable, raising=False)
        for variable, folder in (("HOME", ".cache/torch"), ("XDG_CACHE_HOME", "torch"), ("TORCH_HOME", ".")):
            monkeypatch.setenv(variable, str(tmp_path / variable))
            with pytest.raises(CheckpointError, match="available at https://github"):
                find_weights("")
            checkpoints = tmp_path / variable / folder / "hub" / "checkpoints"
            checkpoints.mkdir(parents=True)
            for name in "weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth":
                (checkpoints / name).touch()
                assert find_weights("").samefile(checkpoints / name)
        with pytest.raises(CheckpointError, match=r"no weights of Inception at elsewhere\.pth"):
            find_weights("elsewhere.pth")
