"""Files of improved-diffusion and guided-diffusion: what their models compute, by an implementation of their facts."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import command_line
from helpers.command_line import says
from helpers.comparison import HostArray, assert_close
from helpers.peers import import_peer
from helpers.torch_openai import Kind, OpenaiUNet
from tinyddpm.backend import Purpose, load_backend
from tinyddpm.conditions import Asked
from tinyddpm.exchange.openai_flags import read_flags
from tinyddpm.model.config import Config
from tinyddpm.model.load import load_model
from tinyddpm.model.model import Model

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")

import_fails = partial(command_line.fails, "import")

SMALL = Kind(32, (1, 2), 1, rates=(2,), channels_out=3, heads=4)
FLAGS = "--image_size 16 --num_channels 32 --num_res_blocks 1 --channel_mult 1,2 --attention_resolutions 8"

CASES: dict[str, tuple[str, Kind, float]] = {
    "as they are by default": (FLAGS, SMALL, 1.0),
    "learned variance, cosine, rescaled times": (
        f"{FLAGS} --learn_sigma True --diffusion_steps 4000 --noise_schedule cosine --rescale_timesteps True",
        replace(SMALL, channels_out=6),
        0.25,
    ),
    "time added, one head, attention on both levels": (
        f"{FLAGS},16 --num_heads 1 --use_scale_shift_norm False --diffusion_steps 300 --rescale_timesteps yes",
        replace(SMALL, heads=1, scale_shift=False, rates=(1, 2)),
        1000 / 300,
    ),
    "heads of 16 channels, by class, times as they are": (
        f"{FLAGS} --num_head_channels=16 --class_cond True --diffusion_steps 2000 --rescale_timesteps False",
        replace(SMALL, head_channels=16, classes=5),
        1.0,
    ),
    "new order, blocks that pool, two blocks": (
        f"{FLAGS} --num_res_blocks 2 --use_new_attention_order True --resblock_updown True --learn_sigma True"
        " --channel_mult 1,2,1 --attention_resolutions 8,4 --dropout 0.1 --use_fp16 True --class_cond 1",
        replace(
            SMALL, multipliers=(1, 2, 1), blocks=2, rates=(2, 4), new_order=True, pooling_blocks=True, channels_out=6,
            classes=3, dropout=0.1,
        ),
        1.0,
    ),
    "levels that are wider than the sinusoids": (
        f"{FLAGS} --channel_mult 2,4 --num_head_channels 64",
        replace(SMALL, multipliers=(2, 4), head_channels=64),
        1.0,
    ),
    "pooling, time added, no attention but in the middle": (
        f"{FLAGS} --attention_resolutions 3 --resblock_updown t --use_scale_shift_norm f --num_heads 2",
        replace(SMALL, heads=2, rates=(), pooling_blocks=True, scale_shift=False),
        1.0,
    ),
}  # fmt: skip
"""Flags, the model that they are of, and what its times are multiplied by."""


def made(path: Path, kind: Kind, seed: int = 0) -> OpenaiUNet:
    """A model with random weights, in which no layer is zero, saved as theirs are."""
    torch.manual_seed(seed)
    model = OpenaiUNet(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter) if parameter.ndim == 1 else 0
    torch.save(model.state_dict(), path)
    return model.eval()


def imported(folder: Path, flags: str, kind: Kind) -> tuple[OpenaiUNet, Path]:
    model = made(folder / "ema_0.9999_500000.pt", kind)
    says("import", folder / "ema_0.9999_500000.pt", "--flags", flags, "--out", folder / "run")
    return model, folder / "run"


@pytest.mark.parametrize(
    ("name", "backend"),
    [*((name, "numpy") for name in CASES), *((list(CASES)[4], name) for name in ("numba", "torch"))],
)
def test_an_import_computes_the_same(tmp_path: Path, name: str, backend: str) -> None:
    flags, kind, scale = CASES[name]
    theirs, run = imported(tmp_path, flags, kind)
    model, flat, _ = load_model(run, load_backend(backend))
    T = model.process.T
    rng = np.random.default_rng(1)
    x, labels = np.float32(rng.normal(size=(3, 16, 16, 3))), rng.permutation(max(3, kind.classes))[:3]
    asked = labels if kind.classes else None
    denoiser = model.network_denoiser(flat, Asked(asked))
    for t in (0, 1, T // 3, T - 1):
        times = torch.full((3,), t).float() * scale
        with torch.no_grad():
            expected = theirs(chw(x), times, None if asked is None else torch.from_numpy(asked))
        found = both_halves(denoiser, x, t, kind.channels_out)
        assert expected.std() > 0.1
        assert_close(found, np.moveaxis(expected.numpy(), 1, -1), 1e-5, f"output at {t}")


@pytest.mark.parametrize("pooling", [False, True])
def test_what_comes_in_goes_out_to_diffusers(tmp_path: Path, pooling: bool) -> None:
    """A model of theirs, in a library that has no reader for it."""
    diffusers = import_peer("diffusers", "0.42")
    flags = f"{FLAGS} --learn_sigma True --resblock_updown {pooling}"
    theirs, run = imported(tmp_path, flags, replace(SMALL, channels_out=6, pooling_blocks=pooling))
    says("export", run, tmp_path / "out")
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "out", subfolder="unet")
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = theirs(x, torch.tensor([700, 700]))
        assert_close(unet(x, 700).sample.numpy(), expected.numpy(), 1e-5, "output")


def chw(x: HostArray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def both_halves(denoiser: Any, x: HostArray, t: int, channels: int) -> HostArray:
    """What our network predicts, and what it says of the variance if it does."""
    array = denoiser.ops.backend.asarray
    outputs = denoiser._forward(array(x), array(np.full(len(x), t)), *denoiser.given.values())
    found = np.concatenate([np.asarray(half) for half in outputs if half is not None], axis=-1)
    assert found.shape[-1] == channels
    return found


def test_flags_are_settings(tmp_path: Path) -> None:
    """Those of the published CIFAR-10 model: 52,546,438 parameters."""
    flags = (
        "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True --dropout 0.3 --diffusion_steps 4000"
        " --noise_schedule cosine --rescale_timesteps True --timestep_respacing 250"
    )
    flagged = read_flags(flags)
    assert flagged.options["multipliers"] == [1, 2, 2, 2]
    assert flagged.options["attention"] == [16, 8]
    assert flagged.options["time_scale"] == 0.25
    kind = Kind(128, (1, 2, 2, 2), 3, rates=(2, 4), channels_out=6, heads=4)
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in OpenaiUNet(kind).parameters()) == 52_546_438
    small = flags.replace("--num_channels 128", "--num_channels 32")
    _, run = imported(tmp_path, small, replace(kind, channels=32))
    config = load_model(run, NUMPY)[0].config
    assert (config.schedule.name, config.schedule.timesteps) == ("cosine", 4000)
    assert (config.training.predict, config.training.loss, config.training.vlb_weight) == ("eps", "hybrid", 0.001)
    assert (config.sampling.steps, config.sampling.spacing.name) == (250, "uniform")
    assert (config.sampling.name, config.sampling.options) == ("ancestral", {"variance": "learned"})
    told = json.loads(says("info", run, "--json"))["imported"]
    assert (told["format"], told["flags"]) == ("OpenAI's weights", small)


@pytest.mark.parametrize(
    ("flags", "predict", "loss", "variance"),
    [
        ("", "eps", "simple", "large"),
        ("--sigma_small True", "eps", "simple", "small"),
        ("--predict_xstart True", "x_0", "simple", "large"),
        ("--learn_sigma True --use_kl True", "eps", "vlb", "learned"),
    ],
)
def test_what_is_predicted_and_drawn_follows_flags(flags: str, predict: str, loss: str, variance: str) -> None:
    tables = read_flags(flags).tables
    assert (tables["training"]["predict"], tables["training"]["loss"]) == (predict, loss)
    assert tables["sampling"]["variance"] == variance


ADM = (
    "--learn_sigma True --resblock_updown True --attention_resolutions 32,16,8 --class_cond True --num_channels 256"
    " --num_head_channels 64"
)


@pytest.mark.parametrize(
    ("flags", "millions"),
    [
        ("--image_size 64 --num_channels 192 --num_res_blocks 3 --use_new_attention_order True", 296),
        ("--image_size 128", 422),
        ("--image_size 256", 554),
        ("--image_size 512", 559),
    ],
)
def test_published_models_have_their_size(flags: str, millions: int) -> None:
    """Those of ImageNet, by the paper's table of them (ADM, arXiv 2105.05233, appendix I)."""
    flagged = read_flags(f"{ADM} {flags}")
    tables = {**flagged.tables, "network": {"name": "unet", **flagged.options}, "data": {"labels": True}}
    classes = tuple(map(str, range(1000)))
    layout = Model(Config.from_dict(tables), flagged.sample_shape, classes, NUMPY).layout
    assert round(layout.size / 1e6) == millions
    first = dict(zip(layout.paths, layout.shapes, strict=True))["conv_in/b"][0]
    assert first == {512: 128, 64: 192}.get(flagged.sample_shape[0], 256)


def of_formulas(T: int, schedule: str) -> HostArray:
    """Betas by the formulas of their paper (IDDPM, section 3.2), those of "linear" scaled from 1000 steps to T."""
    if schedule == "linear":
        return np.linspace(0.1 / T, 20 / T, T)
    f = [np.cos((t / T + 0.008) / 1.008 * np.pi / 2) ** 2 for t in range(T + 1)]
    return np.asarray([min(1 - f[t + 1] / f[t], 0.999) for t in range(T)])


def drawn_by_theirs(
    theirs: OpenaiUNet, betas: HostArray, times: list[int], kind: str, scale: float, noise: Callable[[int], HostArray]
) -> HostArray:
    """Two samples by their chain of fewer steps: its betas are those between the times that are visited."""
    whole = np.cumprod(1 - betas)
    alpha_bar = whole[times]
    before = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / before
    small = beta * (1 - before) / (1 - alpha_bar)
    small[0] = small[1]
    large = np.append(small[1], beta[1:])
    x = noise(-1)
    for i in reversed(range(len(times))):
        with torch.no_grad():
            out = theirs(chw(np.float32(x)), torch.full((2,), times[i]).float() * scale)
        out = np.moveaxis(out.numpy(), 1, -1).astype(np.float64)
        x_0 = np.clip((x - np.sqrt(1 - alpha_bar[i]) * out[..., :3]) / np.sqrt(alpha_bar[i]), -1, 1)
        log_variance = np.log({"small": small, "large": large}.get(kind, small)[i])
        if kind == "learned":
            share = (out[..., 3:] + 1) / 2
            log_variance = share * np.log(beta[i]) + (1 - share) * np.log(small[i])
        mean = beta[i] * np.sqrt(before[i]) * x_0 + (1 - before[i]) * np.sqrt(1 - beta[i]) * x
        x = mean / (1 - alpha_bar[i]) + (i > 0) * np.exp(log_variance / 2) * (noise(times[i]) if i else 0)
    return x


@pytest.mark.parametrize(
    ("flags", "T", "steps", "kind", "scale"),
    [
        ("--diffusion_steps 40 --rescale_timesteps False", 40, 40, "large", 1.0),
        ("--diffusion_steps 40 --rescale_timesteps True --sigma_small True", 40, 40, "small", 25.0),
        ("--noise_schedule cosine --learn_sigma True --timestep_respacing 8", 1000, 8, "learned", 1.0),
        ("--timestep_respacing 7", 1000, 7, "large", 1.0),
    ],
)
def test_an_import_draws_what_theirs_does(
    tmp_path: Path, flags: str, T: int, steps: int, kind: str, scale: float
) -> None:
    """By the chain's own settings, from our noise."""
    theirs, run = imported(tmp_path, f"{FLAGS} {flags}", replace(SMALL, channels_out=6 if kind == "learned" else 3))
    model, flat, _ = load_model(run, NUMPY)
    *_, last = model.sample(flat, np.arange(2), Asked(None), 5, model.config.sampling)
    random = NUMPY.random(5)
    numbers, _ = random.on_device(0, np.arange(2))

    def noise(t: int) -> HostArray:
        purpose = Purpose.SAMPLE_START if t < 0 else Purpose.SAMPLE_STEP
        return np.float64(random.normal(purpose, max(t, 0), numbers, model.sample_shape))

    times = [round(i * (T - 1) / (steps - 1)) for i in range(steps)]
    wanted = drawn_by_theirs(theirs, of_formulas(T, model.config.schedule.name), times, kind, scale, noise)
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(last.x, wanted, atol=1e-4)
    says("sample", run, "--count", "2", "--npz", "--out", tmp_path / "samples")
    assert np.load(tmp_path / "samples" / "samples.npz")["images"].shape == (2, 16, 16, 3)


def test_both_files_make_a_run_with_weights_and_average(tmp_path: Path) -> None:
    ema, raw = tmp_path / "ema_0.9999_010.pt", tmp_path / "model010.pt"
    made(ema, SMALL, seed=1), made(raw, SMALL, seed=2)
    says("import", ema, "--trained", raw, "--flags", FLAGS, "--out", tmp_path / "both")
    for path, name in ((ema, "averaged"), (raw, "trained")):
        says("import", path, "--flags", FLAGS, "--out", tmp_path / name)
        alone = load_model(tmp_path / name, NUMPY)[1]
        found = load_model(tmp_path / "both", NUMPY, raw=name == "trained")[1]
        assert found.tobytes() == alone.tobytes()
    assert f"trained {raw}" in says("info", tmp_path / "both")


class Runs:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


def test_nothing_that_is_read_runs(tmp_path: Path) -> None:
    """In the format of Torch's files, in that of before, and as a pickle alone."""
    path = tmp_path / "x.pt"
    contents: list[Any] = [{"out.2.bias": Runs()}, Runs(), OrderedDict(a=torch.zeros(3), b=Runs())]
    for content in contents:
        for zipped in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            assert "cannot be read as weights" in import_fails(path, "--flags", FLAGS, "--out", tmp_path / "r")
    path.write_bytes(pickle.dumps(Runs()))
    assert "cannot be read as weights" in import_fails(path, "--flags", FLAGS, "--out", tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Cut and with other bytes: in one line, or read as what they are not."""
    path = tmp_path / "x.pt"
    for zipped in (True, False):
        torch.save(
            {"out.0.weight": torch.ones(32), "out.0.bias": torch.ones(32)}, path, _use_new_zipfile_serialization=zipped
        )
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        for start in rng.integers(0, len(whole), 60):
            path.write_bytes(whole[:start])
            assert str(path) in import_fails(path, "--flags", FLAGS, "--out", tmp_path / "r")
            path.write_bytes(whole[:start] + rng.bytes(4) + whole[start + 4 :])
            assert str(path) in import_fails(path, "--flags", FLAGS, "--out", tmp_path / "r")
    torch.save({"out.0.weight": torch.ones(32)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert "it is compressed" in import_fails(path, "--flags", FLAGS, "--out", tmp_path / "r")
    assert "No such file" in import_fails(tmp_path / "none.pt", "--flags", FLAGS, "--out", tmp_path / "r")


OTHERS: dict[str, Any] = {
    "a list": [torch.zeros(3)],
    "numbers": {"step": 3},
    "integers": {"out.0.weight": torch.zeros(3, dtype=torch.int64)},
    "sparse": {"out.0.weight": torch.zeros(3).to_sparse()},
    "another name": {3: torch.zeros(3)},
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_what_is_no_model_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    error = import_fails(tmp_path / "x.pt", "--flags", FLAGS, "--out", tmp_path / "r")
    assert "contains more than floating-point arrays by name" in error


def test_all_that_differs_is_listed_at_once(tmp_path: Path) -> None:
    model = made(tmp_path / "x.pt", SMALL)
    state = model.state_dict()
    del state["out.0.bias"]
    state |= {"more": torch.zeros(2), "out.2.weight": torch.zeros(1).expand(2**20, 2**20, 3, 3)}
    torch.save(state, tmp_path / "x.pt")
    error = import_fails(tmp_path / "x.pt", "--flags", FLAGS, "--out", tmp_path / "r")
    assert "out.2.weight is 1048576x1048576x3x3 and not 3x32x3x3; out.0.bias is missing; more is surplus" in error
    assert error.endswith("give --flags as the model was trained with")
    model = made(tmp_path / "x.pt", replace(SMALL, classes=4))
    assert "label_emb.weight is surplus" in import_fails(tmp_path / "x.pt", "--flags", FLAGS, "--out", tmp_path / "r")
    made(tmp_path / "x.pt", SMALL)
    flags = f"{FLAGS} --class_cond True"
    assert "label_emb.weight is missing" in import_fails(tmp_path / "x.pt", "--flags", flags, "--out", tmp_path / "r")


def test_all_flags_without_an_equal_are_said_at_once(tmp_path: Path) -> None:
    made(tmp_path / "x.pt", SMALL)
    flags = (
        "--image_size 512 --channel_mult 2,1 --num_heads_upsample 2 --noise_schedule sqrt --lr 1e-4 --large_size 256"
        " --diffusion_steps 250 --dropout high --class_cond maybe --timestep_respacing fast --num_channels"
    )
    error = import_fails(tmp_path / "x.pt", "--flags", flags, "--out", tmp_path / "r")
    for said in ("channel_mult is '2,1'", "num_heads_upsample is '2'", "noise_schedule is 'sqrt'",
                 "num_channels has no value", "lr is no flag", "large_size is no flag", "dropout is 'high'",
                 "class_cond is 'maybe'", "timestep_respacing is 'fast'",
                 "rescale_timesteps is not given"):  # fmt: skip
        assert said in error
    assert "image_size" not in error
    assert "channel_mult is ''" in import_fails(
        tmp_path / "x.pt", "--flags", "--image_size 16", "--out", tmp_path / "r"
    )
    for flags in (
        "'",
        "--image_size " + "9" * 5000,
        f"--image_size 512 --num_channels {10**400}",
        "--attention_resolutions 0",
        "--num_res_blocks -1",
        "64",
    ):
        assert "--flags" in import_fails(tmp_path / "x.pt", "--flags", flags, "--out", tmp_path / "r")


def test_what_is_lacking_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, a file that is for them, and Torch."""
    made(tmp_path / "x.pt", SMALL)
    assert "--flags" in import_fails(tmp_path / "x.pt", "--out", tmp_path / "r")
    assert "--like" in import_fails(tmp_path / "x.pt", "--like", "toy", "--flags", FLAGS, "--out", tmp_path / "r")
    assert "--flags" in import_fails(tmp_path, "--flags", FLAGS, "--out", tmp_path / "r")
    monkeypatch.setitem(sys.modules, "torch", None)
    error = import_fails(tmp_path / "x.pt", "--flags", FLAGS, "--out", tmp_path / "r")
    assert "run pip install 'tinyddpm[torch]'" in error


def test_what_is_drawn_otherwise_is_said(tmp_path: Path) -> None:
    made(tmp_path / "x.pt", SMALL)
    flags = f"{FLAGS} --timestep_respacing ddim50 --use_kl True"
    said = command_line.run("import", tmp_path / "x.pt", "--flags", flags, "--out", tmp_path / "r")
    assert said.exit_code == 0, said.output
    assert "timestep_respacing 'ddim50' have no equivalent" in said.stderr
    assert "use_kl without learn_sigma" in said.stderr
    sampling = load_model(tmp_path / "r", NUMPY)[0].config.sampling
    assert (sampling.steps, sampling.spacing.name) == (50, "trailing")
