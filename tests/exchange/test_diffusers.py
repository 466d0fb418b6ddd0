"""Models out to diffusers: the same outputs, the same images, the same chain."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import command_line
from helpers.command_line import says
from helpers.diffusers_runs import ALL, CASES, Case, Noise, assert_equal_outputs, compare, drawn
from tinyddpm.backend import load_backend
from tinyddpm.errors import ConfigError
from tinyddpm.exchange.diffusers_unet import unet_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("diffusers")]

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="needs the extra exchange")
diffusers: Any = None  # the fixture sets it

NUMPY = load_backend("numpy")

export_fails = partial(command_line.fails, "export")


@ALL
def test_an_export_computes_the_same(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    run, folder = case.run(tmp_path / "run"), tmp_path / "out"
    says("export", run, folder)
    unet = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    assert_equal_outputs(run, unet, case.shape, len(case.classes), case.model().process.T)


def test_an_export_leaves_out_what_transforms_were_told_by(tmp_path: Path) -> None:
    """Samples are drawn without it."""
    case = Case({"transforms": {"shift": {}}, "data": {"tell_transforms": True}})
    says("export", case.run(tmp_path / "run"), tmp_path / "out")
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")
    assert_equal_outputs(tmp_path / "run", unet, case.shape, 0, case.model().process.T)


@ALL
def test_an_export_has_the_same_chain(tmp_path: Path, name: str) -> None:
    model = CASES[name].model()
    says("export", CASES[name].run(tmp_path / "run"), tmp_path / "out")
    scheduler = diffusers.DDPMScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler")
    np.testing.assert_allclose(scheduler.betas.numpy(), model.process.betas, rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), model.process.alpha_bar, rtol=2e-5, atol=1e-6)


SAMPLED = {
    "auto": {"name": "ancestral"},
    "small": {"name": "ancestral", "variance": "small"},
    "large": {"name": "ancestral", "variance": "large"},
    "unclipped": {"name": "ancestral", "variance": "small", "threshold": "none"},
}


@pytest.mark.parametrize(
    ("name", "chosen"),
    [*(("plain", chosen) for chosen in SAMPLED), ("v", "small"), ("x_0", "large"), ("learned", "auto")],
)
def test_a_pipeline_draws_our_images(tmp_path: Path, name: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From our noise, by ancestral sampling with every variance and with and without a threshold."""
    case = CASES[name]
    run = Case({**case.tables, "sampling": SAMPLED[chosen]}, case.network, shape=case.shape).run(tmp_path / "run")
    model, x = drawn(run)
    says("export", run, tmp_path / "out")
    noise = Noise(model, list(range(model.process.T - 1, 0, -1)))
    monkeypatch.setattr("diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", noise)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", noise)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    compare(pipeline, model, x, num_inference_steps=model.process.T)
    assert next(noise.left, None) is None


@pytest.mark.parametrize("steps", [10, 40])
def test_ddim_draws_our_images(tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CASES["plain"].run(tmp_path / "run")
    model, x = drawn(run, name="ddim", steps=steps)
    says("export", run, tmp_path / "out")
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", Noise(model, []))
    pipeline = diffusers.DDIMPipeline.from_pretrained(tmp_path / "out")
    compare(pipeline, model, x, num_inference_steps=steps, eta=0.0, use_clipped_model_output=True)


def test_what_has_no_equal_is_said_at_once(tmp_path: Path) -> None:
    network = {"groups": 0, "heads": 2, "channels": 16, "time_scale": 0.5, "time_channels": 4}
    case = Case({"training": {"predict": "flow"}}, network)
    error = export_fails(case.run(tmp_path / "run"), tmp_path / "out")
    assert "predict 'flow'" in error
    assert "time_scale 0.5" in error
    assert "time_channels 4" in error
    assert "norms of 4 and 8" in error
    assert "network.groups=4" in error
    assert not (tmp_path / "out").exists()
    points = tmp_path / "points"
    says(
        "train",
        "--data",
        "moons",
        "--steps",
        "1",
        "--timesteps",
        "4",
        "--batch-size",
        "4",
        "--sample-count",
        "2",
        "--out",
        points,
    )
    assert "export a U-Net" in export_fails(points, tmp_path / "out")


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case({"condition": {"name": "text", "words": ["a"]}}), "the condition 'text'"),
        (
            Case(network={"heads": 2, "attention": [4, 8]}),
            r"heads of 4 and 8 channels \(train with .*head_channels=4\)",
        ),
    ],
    ids=["condition", "heads"],
)
def test_conditions_and_heads_of_several_sizes_have_no_equal(case: Case, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"no UNet2DModel of diffusers is equal to this model: it has {reason}"):
        unet_config(case.model())


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    run = CASES["plain"].run(tmp_path / "run")
    assert "is not empty" in export_fails(run, run)
    assert json.loads(says("info", run, "--json"))["imported"] == {"from": "the test"}
