"""The Torch peer computes what we compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from helpers.comparison import assert_close
from helpers.peers import import_peer, make_torchvision_importable
from helpers.torch_unet import load_weights
from tinyddpm.backend import Backend
from tinyddpm.bench.peers import find_peer, load_peer
from tinyddpm.bench.process import Runner
from tinyddpm.bench.task import Task, make_task
from tinyddpm.errors import BackendError, ConfigError
from tinyddpm.model.config import preset
from tinyddpm.model.model import Model
from tinyddpm.ops import load_operations

pytestmark = pytest.mark.slow

VARIANTS = ["eager", "channels_last", "bf16 channels_last"]


def task(name: str = "digits", data: dict[str, Any] | None = None, **network: Any) -> Task:
    tables = {
        "data": data or {},
        "network": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], **network},
        "training": {"batch_size": 3, "threads": 1},
    }
    return make_task(preset(name).config.updated(tables), name)


UNCONDITIONAL = {"labels": False}


@pytest.fixture(scope="module")
def peer() -> Any:
    make_torchvision_importable()  # which diffusers imports where it is installed
    return load_peer(find_peer("torch"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("network", [{}, {"adaptive": True, "heads": 2}])
def test_the_twin_predicts_what_we_predict(
    numpy_backend: Backend, peer: Any, network: dict[str, Any], variant: str
) -> None:
    """With the same weights, in float32 to 1e-4 of the largest number, under bfloat16 autocast to 5e-2."""
    there = task(**network)
    contestant = peer.make(there, variant)
    model = Model(there.config, there.sample_shape, tuple("0123456789"), numpy_backend)
    rng = np.random.default_rng(1)
    buffer = (0.2 * rng.normal(size=model.layout.size)).astype(np.float32)
    w = model.layout.views(buffer, np)
    load_weights(contestant.net, w)
    x, t = rng.normal(size=(3, 8, 8, 1)).astype(np.float32), np.array([0, 100, 249])
    label = np.array([7, 0, 3])
    ours, _ = model.network.forward(load_operations(numpy_backend), w, x, t, {"label": label})
    with torch.inference_mode(), contestant._precision():
        theirs = contestant.predict(
            torch.from_numpy(np.moveaxis(x, 3, 1).copy()), torch.from_numpy(t), torch.from_numpy(label)
        )
    tolerance = 5e-2 if variant.startswith("bf16") else 1e-4
    assert_close(np.moveaxis(theirs.float().numpy(), 1, 3), ours, tolerance, "prediction")


@pytest.mark.parametrize("variance", ["large", "small"])
def test_the_peer_steps_back_as_we_do(numpy_backend: Backend, peer: Any, variance: str) -> None:
    """x_prev from x_t, eps and noise at the first, a middle and the last time, to 1e-5 of the largest number."""
    there = task()
    config = there.config.updated({"sampling": {"variance": variance}})
    contestant = peer.make(Task(config, there.sample_shape, there.classes, there.parameters), "eager")
    process = Model(config, there.sample_shape, tuple("0123456789"), numpy_backend).process
    rng = np.random.default_rng(2)
    x_t, eps, noise = rng.normal(size=(3, 3, 1, 8, 8)).astype(np.float32)
    for t in (249, 100, 0):
        x_0 = np.clip(process.predict_x0(x_t, t, eps), -1, 1)
        mean, sigma2 = process.p_mean_variance(x_t, t, x_0, t - 1, variance)
        expected = mean if t == 0 else mean + np.float32(sigma2**0.5) * noise
        found = contestant.previous(*map(torch.from_numpy, (x_t,)), t, *map(torch.from_numpy, (eps, noise)))
        assert_close(found.numpy(), expected, 1e-5, f"x_prev at {t}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_change_what_they_must(peer: Any, variant: str) -> None:
    """A training step moves the weights by at most Adam's first step, the average less; a denoising step moves x."""
    contestant = peer.make(task(dropout=0.2), variant)
    before = [weight.detach().clone() for weight in contestant.weights]
    contestant.train_step()
    moved = torch.cat([(new - old).flatten() for new, old in zip(contestant.weights, before, strict=True)])
    assert 0 < moved.abs().max() <= 1.001 * contestant.adam.param_groups[0]["lr"]
    averaged = torch.cat([(new - old).flatten() for new, old in zip(contestant.ema, before, strict=True)])
    assert_close(averaged.numpy(), (moved * (1 - contestant.decay)).detach().numpy(), 1e-2, "average")
    x, t = contestant.x, contestant.t
    contestant.denoise_step()
    assert contestant.t == t - 1
    assert not torch.equal(contestant.x, x)
    assert not contestant.net.training
    contestant.train_step()
    assert contestant.net.training


DIFFUSERS_EQUALS = [
    {},
    {"channels": 128, "multipliers": [1, 2, 2, 2], "blocks": 2, "attention": [16], "dropout": 0.1},
    {"channels": 12, "multipliers": [1, 3], "blocks": 1, "attention": []},
    {"channels": 32, "multipliers": [1, 2, 2], "blocks": 2, "attention": [16]},
]


@pytest.mark.parametrize("network", DIFFUSERS_EQUALS)
def test_diffusers_has_as_many_parameters(peer: Any, network: dict[str, Any]) -> None:
    import_peer("diffusers", "0.42")
    size = "32x32" if 16 in network.get("attention", []) else "8x8"
    there = task("small", {"image_size": size}, **network)
    net, what = peer.make_network(there)
    assert "UNet2DModel" in what
    assert ("groups in every norm" in what) == (network.get("channels", 8) < 128)
    assert sum(parameter.numel() for parameter in net.parameters()) == there.parameters


@pytest.mark.parametrize(
    ("data", "network"),
    [
        ({}, {}),
        (UNCONDITIONAL, {"heads": 2}),
        (UNCONDITIONAL, {"adaptive": True}),
        (UNCONDITIONAL, {"multipliers": [2, 1]}),
    ],
)
def test_the_twin_takes_what_diffusers_has_not(peer: Any, data: dict[str, Any], network: dict[str, Any]) -> None:
    """Classes, several heads, adaptive norms, a first level whose width is not the time embedding's."""
    there = task(data=data, **network)
    net, what = peer.make_network(there)
    assert what.startswith("the tests' TorchUNet (")
    assert sum(parameter.numel() for parameter in net.parameters()) == there.parameters


@pytest.mark.parametrize(("installed", "reason"), [(False, "diffusers cannot be imported"), (True, "has no equal")])
def test_who_stood_in_is_said_and_why(peer: Any, monkeypatch: pytest.MonkeyPatch, installed: bool, reason: str) -> None:
    """In what the contestant says of itself, which every report names beside its numbers."""
    monkeypatch.setattr(peer, "unet_of_diffusers", lambda: object if installed else None)
    said = peer.make(task(), "eager").describe()
    assert "the tests' TorchUNet (" in said
    assert reason in said


def test_variants(peer: Any) -> None:
    assert peer.variants(task(), False) == VARIANTS
    assert peer.variants(task(), True) == [*VARIANTS, "compile"]
    with pytest.raises(ConfigError, match="no network 'mlp'"):
        peer.variants(make_task(preset("toy").config, "toy"), False)
    decaying = preset("digits").config.updated({"training": {"weight_decay": 0.1}})
    with pytest.raises(ConfigError, match="by Adam without decay"):
        peer.variants(make_task(decaying, "digits"), False)
    for table in ({"sampling": {"name": "heun"}}, {"guidance": {"name": "cfg"}}):
        with pytest.raises(ConfigError, match="one evaluation a step: give --sampler ancestral --guide none"):
            peer.variants(make_task(preset("digits").config.updated(table), "digits"), False)


@pytest.fixture
def on_gpu() -> Task:
    there = task(dropout=0.2)
    return replace(there, config=replace(there.config, backend="cupy"))


def test_variants_on_a_gpu(peer: Any, on_gpu: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"^the Torch peer cannot use cuda:0: Torch .* finds no GPU$"):
        peer.variants(on_gpu, False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    eager = ["tf32 eager", "tf32 channels_last", "bf16 eager", "bf16 channels_last"]
    assert peer.variants(on_gpu, False) == eager
    assert peer.variants(on_gpu, True) == [*eager, "tf32 compile", "bf16 compile", "bf16 compile reduce-overhead"]


@pytest.mark.parametrize("adaptive", [False, True])
def test_all_of_it_is_on_the_one_device(peer: Any, monkeypatch: pytest.MonkeyPatch, adaptive: bool) -> None:
    """On a device that is not the CPU, here Torch's `meta`, on which an operation that mixes the two fails.

    Without clipping and fused Adam, which Torch does not offer there.
    """
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda weights, lr, fused: adam(weights, lr))
    monkeypatch.setattr(Task, "gpu", "meta")
    there = task(dropout=0.2, adaptive=adaptive)
    config = there.config.updated({"training": {"clip": 0.0}})
    contestant = peer.make(replace(there, config=config), "tf32 channels_last")
    contestant.train_step()
    contestant.denoise_step()
    for tensor in (*contestant.weights, *contestant.ema, contestant.x, contestant.x_0, contestant.label):
        assert tensor.device.type == "meta"


def test_precision_of_a_variant(peer: Any) -> None:
    """What a variant's name says of TF32, of bfloat16 and of the order of memory is what it does."""
    for name, tf32, bf16, last in (
        ("tf32 eager", True, False, False),
        ("tf32 channels_last", True, False, True),
        ("bf16 eager", False, True, False),
        ("bf16 channels_last", False, True, True),
    ):
        contestant = peer.make(task(), name)
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
        assert contestant.bf16 is bf16
        assert contestant.net.conv_out.weight.is_contiguous() is not last


def test_compiling_without_a_compiler_says_what_to_do(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer.shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match="install g"):
        peer.make(task(), "compile")


def test_it_runs_in_a_process_of_its_own() -> None:
    runner = Runner("torch eager", find_peer("torch"), "eager", task(data=UNCONDITIONAL))
    try:
        runner.ready()
        assert "threads: 1" in runner.description
        assert runner.turn("train_step", 0.0) > 0
        assert runner.turn("denoise_step", 0.0) > 0
    finally:
        runner.close()
