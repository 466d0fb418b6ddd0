"""Whole networks in float64, every parameter path: by random projection, and against an independent Torch twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from helpers.comparison import assert_close
from helpers.networks import SKETCHES, UNETS, Setting, is_key_bias
from helpers.torch_unet import TorchUNet, gradients, load_weights, store_weights
from tinyddpm.backend import Array, Backend
from tinyddpm.nn import DropoutNoise, Told, Widths, make_network
from tinyddpm.ops import load_operations
from tinyddpm.testing import check_projection, random_weights

KEY_BIAS = 1e-11
"""How large the gradient of a key bias may be, relative to that of the query bias beside it: rounding of a zero."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SKETCHES)
def test_gradient_of_every_path(numpy_backend: Backend, name: str) -> None:
    """By random projection at rtol 1e-6, with all weights random and all inputs read-only; key biases are zero."""
    setting = Setting(SKETCHES[name])
    rng = np.random.default_rng(2)
    _, dw, dx = setting.gradients(numpy_backend)
    assert set(dw) == set(setting.weights)

    def value(**changed: Any) -> np.ndarray:
        return np.asarray(setting.forward(numpy_backend, training=False, **changed)[0])

    check_projection(lambda x: value(x=x), setting.x, setting.dout, dx, rng, "x")
    for path, gradient in dw.items():
        if is_key_bias(path):
            assert np.max(np.abs(gradient)) <= KEY_BIAS * np.max(np.abs(dw[path.replace("/k/b", "/q/b")]))
        else:
            check_projection(
                lambda w, path=path: value(weights={path: w}), setting.weights[path], setting.dout, gradient, rng, path
            )


class RecordedNoise(DropoutNoise):
    """Dropout noise that remembers its masks, and which layers asked for them."""

    def __init__(self, noise: DropoutNoise) -> None:
        self.noise = noise
        self.layers: list[int] = []
        self.masks: list[np.ndarray] = []

    def keep(self, shape: tuple[int, ...], rate: float, layer: int) -> Array:
        self.layers.append(layer)
        self.masks.append(self.noise.keep(shape, rate, layer))
        return self.masks[-1]


@pytest.mark.parametrize("name", UNETS)
def test_unet_matches_its_torch_twin(numpy_backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights and dropout masks give the same prediction, dx and gradient of every path, within 1e-10."""
    sketch = SKETCHES[name]
    setting = Setting(sketch, n=3)
    noise = RecordedNoise(setting.noise(numpy_backend))
    monkeypatch.setattr(setting, "noise", lambda backend: noise)
    out, dw, dx = setting.gradients(numpy_backend)

    twin = TorchUNet(sketch.shape, sketch.classes, sketch.out_channels, **sketch.options).double()
    load_weights(twin, setting.weights)
    x = torch.tensor(setting.x).movedim(-1, 1).requires_grad_()
    label = torch.tensor(setting.cond["label"]) if sketch.classes else None
    masks = iter([torch.from_numpy(mask).movedim(-1, 1) for mask in noise.masks])
    out_twin = twin(x, torch.tensor(setting.t), label, masks)
    out_twin.backward(torch.tensor(setting.dout).movedim(-1, 1))

    assert next(masks, None) is None, "a mask was drawn that the twin has no use for"
    assert x.grad is not None
    assert_close(out, out_twin.detach().movedim(1, -1).numpy(), 1e-10, "prediction")
    assert_close(dx, x.grad.movedim(1, -1).numpy(), 1e-10, "dx")
    for path, expected in gradients(twin, setting.weights).items():
        floor = np.max(np.abs(dw[path.replace("/k/b", "/q/b")])) if is_key_bias(path) else 0.0
        assert_close(dw[path], expected, 1e-10, path, floor)


@pytest.mark.parametrize("name", UNETS)
def test_the_torch_twin_gives_back_what_it_was_given(name: str) -> None:
    """Every weight, bit for bit."""
    sketch, setting = SKETCHES[name], Setting(SKETCHES[name])
    twin = TorchUNet(sketch.shape, sketch.classes, sketch.out_channels, **sketch.options).double()
    load_weights(twin, setting.weights)
    back = {path: np.full_like(w, np.nan) for path, w in setting.weights.items()}
    store_weights(twin, list(twin.parameters()), back)
    for path, w in setting.weights.items():
        np.testing.assert_array_equal(back[path], w, err_msg=path)


def test_an_image_told_is_more_channels(numpy_backend: Backend) -> None:
    """Prediction, dx, the image's gradient and those of all paths are the twin's, given both images as one."""
    sketch, rng = SKETCHES["unet-deep"], np.random.default_rng(3)
    options = {**sketch.options, "dropout": 0.0}
    network = make_network("unet", sketch.shape, Widths(image=3), 2, options)
    weights = random_weights(network, 3)
    x, image, dout = (rng.normal(size=(2, *sketch.shape[:2], c)) for c in (sketch.shape[2], 3, 2))
    out, saved = network.forward(
        load_operations(numpy_backend, True), weights, x, np.asarray([3, 900]), Told(image=image)
    )
    dw = {path: np.zeros_like(w) for path, w in weights.items()}
    dx, dtold = network.backward(saved, dw, dout)

    twin = TorchUNet(sketch.shape, 0, 2, image=3, **options).double()
    load_weights(twin, weights)
    both = torch.tensor(np.concatenate([x, image], axis=-1)).movedim(-1, 1).requires_grad_()
    out_twin = twin(both, torch.tensor([3, 900]), None, None)
    out_twin.backward(torch.tensor(dout).movedim(-1, 1))
    assert both.grad is not None
    assert_close(out, out_twin.detach().movedim(1, -1).numpy(), 1e-10, "prediction")
    assert_close(np.concatenate([dx, dtold.image], axis=-1), both.grad.movedim(1, -1).numpy(), 1e-10, "dx and dimage")
    for path, expected in gradients(twin, weights).items():
        assert_close(dw[path], expected, 1e-10, path, floor=1e-3 if is_key_bias(path) else 0.0)


@pytest.mark.parametrize("text", ["cross", "concat"])
def test_tokens_are_attended_to_as_by_the_twin(numpy_backend: Backend, text: str) -> None:
    """Prediction, dx, the tokens' gradient and those of all paths, within 1e-10, with tokens that are not there."""
    sketch, rng = SKETCHES["unet-adaptive"], np.random.default_rng(3)
    options = {**sketch.options, "dropout": 0.0, "text": text}
    network = make_network("unet", sketch.shape, Widths(tokens=5), 2, options)
    weights = random_weights(network, 3)
    x, dout = (rng.normal(size=(3, *sketch.shape[:2], c)) for c in (sketch.shape[2], 2))
    tokens, mask, t = rng.normal(size=(3, 4, 5)), np.arange(4) < np.asarray([[4], [2], [1]]), np.asarray([3, 90, 900])
    out, saved = network.forward(load_operations(numpy_backend, True), weights, x, t, Told(tokens=tokens, mask=mask))
    dw = {path: np.zeros_like(w) for path, w in weights.items()}
    dx, dtold = network.backward(saved, dw, dout)

    twin = TorchUNet(sketch.shape, 0, 2, tokens=5, **options).double()
    load_weights(twin, weights)
    x_twin, tokens_twin = torch.tensor(x).movedim(-1, 1).requires_grad_(), torch.tensor(tokens, requires_grad=True)
    out_twin = twin(x_twin, torch.tensor(t), None, None, (tokens_twin, torch.tensor(mask)))
    out_twin.backward(torch.tensor(dout).movedim(-1, 1))
    assert x_twin.grad is not None
    assert tokens_twin.grad is not None
    assert_close(out, out_twin.detach().movedim(1, -1).numpy(), 1e-10, "prediction")
    assert_close(dx, x_twin.grad.movedim(1, -1).numpy(), 1e-10, "dx")
    assert_close(dtold.tokens, tokens_twin.grad.numpy(), 1e-10, "dtokens")
    for path, expected in gradients(twin, weights).items():
        assert_close(dw[path], expected, 1e-10, path, floor=1e-3 if is_key_bias(path) else 0.0)


def test_untold_networks_have_the_parameters_they_have_always_had() -> None:
    """Where no tokens are told, neither option adds or moves one: checkpoints of before load as they are."""
    for name in UNETS:
        sketch = SKETCHES[name]
        plain, cross, concat = (
            [
                (p.path, p.shape)
                for p in make_network("unet", sketch.shape, told, 2, {**sketch.options, "text": text}).parameters
            ]
            for told, text in ((Widths(), "cross"), (Widths(tokens=3), "cross"), (Widths(tokens=3), "concat"))
        )
        assert plain == [p for p in cross if "/cross" not in p[0]] == [p for p in concat if "/context_" not in p[0]]
        assert len(plain) < min(len(cross), len(concat))
        assert not any("/cross" in path or "/context_" in path for path, _ in plain)


def test_every_residual_block_drops_by_its_own_masks(numpy_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are numbered from 0 in forward order, one per residual block; no two have the same mask."""
    setting = Setting(SKETCHES["unet-adaptive"])
    blocks = sum(path.endswith("/conv_2/w") for path in setting.weights)
    noise = RecordedNoise(setting.noise(numpy_backend))
    monkeypatch.setattr(setting, "noise", lambda backend: noise)
    setting.forward(numpy_backend)
    assert noise.layers == list(range(blocks))
    assert len({mask.tobytes() for mask in noise.masks}) == blocks


def test_without_noise_nothing_drops(numpy_backend: Backend) -> None:
    """Sampling ignores the dropout rate; training does not."""
    dropping, keeping = Setting(SKETCHES["unet-adaptive"]), Setting(SKETCHES["unet-adaptive"], dropout=0.0)
    expected = keeping.forward(numpy_backend)[0]
    np.testing.assert_array_equal(dropping.forward(numpy_backend, noise=False)[0], expected)
    assert np.max(np.abs(dropping.forward(numpy_backend)[0] - expected)) > 0.1 * np.max(np.abs(expected))
