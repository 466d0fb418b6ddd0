"""Models in from diffusers: the same outputs, the same images, the same bits."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import command_line
from helpers.command_line import says
from helpers.diffusers_runs import ALL, CASES, Noise, assert_equal_outputs, compare, drawn, ours
from helpers.runs import loaded
from tinyddpm.backend import load_backend
from tinyddpm.exchange.arrays import write_arrays
from tinyddpm.exchange.diffusers import CLASSES, LONGEST_JSON, _classes
from tinyddpm.exchange.diffusers_unet import read_unet
from tinyddpm.model.config import Config
from tinyddpm.model.load import load_model
from tinyddpm.model.model import Model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("diffusers")]

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="needs the extra exchange")

diffusers: Any = None  # the fixture sets it

NUMPY = load_backend("numpy")

import_fails = partial(command_line.fails, "import")


@ALL
def test_an_import_of_an_export_has_the_same_bits(tmp_path: Path, name: str) -> None:
    """And the chain, prediction, variance and classes, with the row for none of them."""
    case = CASES[name]
    says("export", case.run(tmp_path / "run"), tmp_path / "out")
    says("import", tmp_path / "out", "--out", tmp_path / "back")
    (one, weights, _), (other, read, _) = (load_model(tmp_path / run, NUMPY) for run in ("run", "back"))
    assert read.tobytes() == weights.tobytes()
    assert other.layout.paths == one.layout.paths
    assert other.classes == one.classes
    np.testing.assert_allclose(other.process.betas, one.process.betas, rtol=1e-12)
    assert other.config.schedule == one.config.schedule
    assert other.config.training.predict == one.config.training.predict
    assert other.objective.learned_variance == one.objective.learned_variance
    x = np.float32(np.random.default_rng(0).normal(size=(2, *case.shape)))
    labels = np.asarray([2, 0]) if case.classes else None
    assert ours(one, weights, x, 3, labels).tobytes() == ours(other, read, x, 3, labels).tobytes()


CIFAR10 = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [128, 256, 256, 256],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 0,
    "act_fn": "silu",
    "attention_head_dim": None,
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
}
"""The configuration of google/ddpm-cifar10-32."""

NARROW = {"block_out_channels": [32, 64, 64, 64]}

UNETS: dict[str, dict[str, Any]] = {
    "cifar10, a quarter as wide": {**CIFAR10, **NARROW},
    "all as diffusers has it": {
        "sample_size": 16, "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    },
    "levels joined by residual blocks": {
        "sample_size": 16, "block_out_channels": [8, 16, 16], "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "downsample_type": "resnet", "upsample_type": "resnet",
    },
    "scale and shift, learned variance, classes": {
        "sample_size": [8, 16], "block_out_channels": [16, 16], "norm_num_groups": 8, "layers_per_block": 1,
        "in_channels": 1, "out_channels": 2, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8,
        "num_class_embeds": 5, "attention_head_dim": 4, "dropout": 0.1, "num_train_timesteps": 1000,
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
    },
}  # fmt: skip


def made(folder: Path, config: dict[str, Any], **scheduler: Any) -> Any:
    """A UNet2DModel with random weights, saved by diffusers as a pipeline."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**config)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            parameter += 0.1 * torch.randn_like(parameter) if "norm" in name or "bias" in name else 0
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(**scheduler)).save_pretrained(folder)
    return unet.eval()


def test_the_layout_of_cifar10_is_computed_by_numba_too(tmp_path: Path) -> None:
    unet = made(tmp_path / "in", {**CIFAR10, **NARROW})
    says("import", tmp_path / "in", "--out", tmp_path / "run")
    assert_equal_outputs(tmp_path / "run", unet, (32, 32, 3), 0, 1000, load_backend("numba"))


@pytest.mark.parametrize("name", UNETS)
def test_an_import_computes_the_same(tmp_path: Path, name: str) -> None:
    config = UNETS[name]
    learned = config.get("out_channels") == 2
    unet = made(tmp_path / "in", config, **({"variance_type": "learned_range"} if learned else {}))
    says("import", tmp_path / "in", "--out", tmp_path / "run")
    model, *_ = load_model(tmp_path / "run", NUMPY)
    assert model.objective.learned_variance == learned
    assert_equal_outputs(tmp_path / "run", unet, model.sample_shape, len(model.classes), 1000)
    says("export", tmp_path / "run", tmp_path / "out")
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")
    assert_equal_outputs(tmp_path / "run", again, model.sample_shape, len(model.classes), 1000)


def test_the_layout_of_cifar10_is_ours(tmp_path: Path) -> None:
    """35,746,307 parameters, and the settings of DDPM's network."""
    unet, wrong = read_unet({"_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", **CIFAR10})
    assert wrong == []
    assert unet is not None
    model = Model(Config.from_dict({"network": {"name": "unet", **unet.options}}), unet.sample_shape, (), NUMPY)
    plain = Model(Config(), (32, 32, 3), (), NUMPY)
    assert model.layout.size == 35_746_307
    assert (model.layout.paths, model.layout.shapes) == (plain.layout.paths, plain.layout.shapes)


def test_a_folder_as_it_was_when_cifar10_was_published(tmp_path: Path) -> None:
    """All files side by side, and attention's layers by the names they had."""
    unet = made(tmp_path / "new", {**CIFAR10, **NARROW}, variance_type="fixed_large")
    old = tmp_path / "old"
    old.mkdir()
    arrays = safetensors_numpy.load_file(tmp_path / "new" / "unet" / "diffusion_pytorch_model.safetensors")
    before = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for now, then in before.items():
        arrays = {name.replace(now, then): array for name, array in arrays.items()}
    assert any(".proj_attn." in name for name in arrays)
    safetensors_numpy.save_file(arrays, old / "diffusion_pytorch_model.safetensors")
    (old / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", **CIFAR10, **NARROW}))
    (tmp_path / "new" / "scheduler" / "scheduler_config.json").rename(old / "scheduler_config.json")
    said = command_line.run("import", old, "--out", tmp_path / "run")
    assert said.exit_code == 0, said.output
    assert "spacing 'leading' has no equivalent" in said.stderr
    assert_equal_outputs(tmp_path / "run", unet, (32, 32, 3), 0, 1000)
    sampling = load_model(tmp_path / "run", NUMPY)[0].config.sampling
    assert (sampling.name, sampling.options, sampling.threshold) == ("ancestral", {"variance": "large"}, "static")
    told = json.loads(says("info", tmp_path / "run", "--json"))["imported"]
    assert (told["from"], told["format"]) == (str(old), "diffusers")


def test_an_imported_run_draws_what_the_pipeline_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `sample`'s own settings."""
    made(
        tmp_path / "in", UNETS["all as diffusers has it"], num_train_timesteps=20, beta_end=0.3,
        timestep_spacing="linspace", prediction_type="v_prediction",
    )  # fmt: skip
    says("import", tmp_path / "in", "--out", tmp_path / "run")
    model, x = drawn(tmp_path / "run")
    noise = Noise(model, list(range(19, 0, -1)))
    monkeypatch.setattr("diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", noise)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", noise)
    compare(diffusers.DDPMPipeline.from_pretrained(tmp_path / "in"), model, x, num_inference_steps=20)
    says("sample", tmp_path / "run", "--count", "2", "--out", tmp_path / "samples")


def test_an_average_as_training_scripts_of_diffusers_save_it(tmp_path: Path) -> None:
    """Its folder lies beside that of the weights as trained, with settings of the average among the network's."""
    unet = made(tmp_path / "in", UNETS["all as diffusers has it"])
    average = diffusers.training_utils.EMAModel(unet.parameters(), model_cls=type(unet), model_config=unet.config)
    average.shadow_params = [parameter / 2 for parameter in average.shadow_params]
    average.save_pretrained(tmp_path / "in" / "unet_ema")
    assert "inv_gamma" in json.loads((tmp_path / "in" / "unet_ema" / "config.json").read_text())
    says("import", tmp_path / "in" / "unet_ema", "--trained", tmp_path / "in" / "unet", "--out", tmp_path / "run")
    found = loaded(tmp_path / "run")
    np.testing.assert_array_equal(found.ema, found.weights / 2)


def test_an_average_of_another_model_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "in", UNETS["all as diffusers has it"])
    made(tmp_path / "other", {**UNETS["all as diffusers has it"], "norm_eps": 1e-4})
    error = import_fails(tmp_path / "in", "--trained", tmp_path / "other", "--out", tmp_path / "run")
    assert "of another model" in error
    says("import", tmp_path / "in", "--trained", tmp_path / "in", "--out", tmp_path / "run")


def changed(folder: Path, **settings: Any) -> Path:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def test_all_without_an_equal_is_said_at_once(tmp_path: Path) -> None:
    made(tmp_path / "in", UNETS["all as diffusers has it"], beta_schedule="sigmoid", clip_sample_range=2.0)
    changed(tmp_path / "in", time_embedding_type="fourier", downsample_type="fir", act_fn="gelu", extra=1)
    error = import_fails(tmp_path / "in", "--out", tmp_path / "run")
    for said in ("time_embedding_type is 'fourier'", "downsample_type is 'fir'", "act_fn is 'gelu'", "extra",
                 "beta_schedule is sigmoid", "clip_sample_range is 2.0"):  # fmt: skip
        assert said in error
    assert not (tmp_path / "run").exists()


WITHOUT_EQUAL: dict[str, dict[str, Any]] = {
    "up_block_types": {"up_block_types": ["UpBlock2D", "UpBlock2D"]},
    "down_block_types": {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]},
    "block_out_channels": {"block_out_channels": [8, 12]},
    "out_channels": {"out_channels": 4},
    "downsample_padding": {"downsample_padding": 2},
    "downsample_type": {"downsample_type": ["conv"]},
    "upsample_type": {"upsample_type": "resnet"},
    "attn_norm_num_groups": {"resnet_time_scale_shift": "scale_shift"},
    "resnet_time_scale_shift": {"resnet_time_scale_shift": "spatial"},
    "time_embedding_dim": {"time_embedding_dim": 7},
    "num_class_embeds": {"num_class_embeds": 2**40},
    "sample_size": {"sample_size": None},
    "norm_eps": {"norm_eps": "small"},
    "layers_per_block": {"layers_per_block": [2]},
    "frequency_shift": {"freq_shift": float("nan")},
}


def test_configurations_that_nobody_meant(tmp_path: Path) -> None:
    """Each is refused by its name in one line, whatever is in it."""
    made(tmp_path / "in", UNETS["all as diffusers has it"])
    path = tmp_path / "in" / "unet" / "config.json"
    whole = path.read_text()
    for name, settings in WITHOUT_EQUAL.items():
        path.write_text(whole)
        assert name in import_fails(changed(tmp_path / "in", **settings), "--out", tmp_path / "run")
    for text in ("", "[]", "{", "[" * 100_000, '{"sample_size": ' + "9" * 5000 + "}"):
        path.write_text(text)
        assert str(path) in import_fails(tmp_path / "in", "--out", tmp_path / "run")
    path.write_text(whole.ljust(LONGEST_JSON + 1))
    assert f"{path} is longer than any" in import_fails(tmp_path / "in", "--out", tmp_path / "run")
    path.write_text(whole)
    (tmp_path / "in" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "has no diffusion_pytorch_model.safetensors" in import_fails(tmp_path / "in", "--out", tmp_path / "run")
    assert "--like" in import_fails(tmp_path / "in", "--like", "toy", "--out", tmp_path / "run")
    assert "config.json" in import_fails(tmp_path / "nothing", "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("stored", "rows", "found"),
    [
        ('["a", "b"]', 2, ("a", "b")), ('["a", "b"]', 3, ("a", "b")), ('["a", "b"]', 4, ("0", "1", "2", "3")),
        ('["a", "b"]', 1, ("0",)), ("[1, 2]", 2, ("0", "1")), ("[" * 100_000, 2, ("0", "1")), (None, 2, ("0", "1")),
    ],
)  # fmt: skip
def test_classes_are_named_by_the_file_if_it_names_them_all(
    stored: str | None, rows: int, found: tuple[str, ...], tmp_path: Path
) -> None:
    """A row more may be that of the null condition."""
    write_arrays(tmp_path / "x.safetensors", {"a": np.zeros(1)}, {CLASSES: stored} if stored else None)
    assert _classes(tmp_path / "x.safetensors", rows) == found


def test_weights_of_another_network_are_listed(tmp_path: Path) -> None:
    made(tmp_path / "in", UNETS["all as diffusers has it"])
    error = import_fails(changed(tmp_path / "in", layers_per_block=2), "--out", tmp_path / "run")
    assert "down_blocks.0.resnets.1.norm1.weight is missing" in error
