"""A model's network under guidance: in one batch, within the range of images, and away from another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers.command_line import ONE_LEVEL, TWO_STEPS
from tinyddpm.backend import load_backend
from tinyddpm.cli import main
from tinyddpm.conditions import Asked
from tinyddpm.diffusion.denoiser import static_threshold
from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config
from tinyddpm.model.load import load_model
from tinyddpm.model.model import Model
from tinyddpm.model.tables import GuidanceConfig

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")
SMALL = {"name": "unet", "channels": 8, "multipliers": [1, 1], "blocks": 1, "attention": [], "heads": 1}
LABELS = Asked(np.array([0, 1, 0, 1, 1]))
CFG = GuidanceConfig("cfg", {"scale": 3.0})
TABLES = {"network": SMALL, "schedule": {"timesteps": 30}, "condition": {"dropout": 0.1}}


def model(threads: int = 1, **tables: Any) -> Model:
    return Model(Config.from_dict({**TABLES, **tables}), (4, 4, 1), ("a", "b"), NUMPY, threads)


def weights(of: Model, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.2, of.layout.size).astype(np.float32)


X = np.random.default_rng(1).standard_normal((5, 4, 4, 1), dtype=np.float32)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("loss", ["simple", "hybrid"])
def test_one_batch_of_both_is_two_batches(monkeypatch: pytest.MonkeyPatch, threads: int, loss: str) -> None:
    """The network is asked once, for 2N rows; the halves are those of each side alone, to float32's rounding."""
    of = model(threads, training={"loss": loss})
    w = weights(of)
    conditional = of.network_denoiser(w, LABELS)
    other = conditional.told(of.nothing(5))
    rows: list[int] = []
    forward = of.network.forward
    monkeypatch.setattr(
        of.network, "forward", lambda ops, w, x, *rest: rows.append(len(x)) or forward(ops, w, x, *rest)
    )
    guided = of.guided(w, LABELS, CFG)(X, 7)
    assert sum(rows) == 10
    assert len(rows) == threads
    c, u = conditional(X, 7), other(X, 7)
    np.testing.assert_allclose(guided.x_0, u.x_0 + 3 * (c.x_0 - u.x_0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(guided.eps, u.eps + 3 * (c.eps - u.eps), rtol=1e-4, atol=1e-4)
    assert (guided.fraction is not None) == (loss == "hybrid")
    if guided.fraction is not None and c.fraction is not None:
        np.testing.assert_allclose(guided.fraction, c.fraction, rtol=1e-4, atol=1e-5)
    # Twice the same answer would hide a condition that is not told apart.
    assert np.abs(c.x_0 - u.x_0).max() > 0.01


def test_a_row_of_each_class_may_be_asked_of_fewer_samples() -> None:
    """As in interpolation, which leads one end up with the denoiser of many rows."""
    of = model()
    guided = of.guided(weights(of), LABELS, CFG)
    np.testing.assert_allclose(guided(X[:1], 7).x_0, guided(X, 7).x_0[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cfg", "auto"])
def test_scale_1_is_the_model_unguided(name: str, tmp_path: Path) -> None:
    of = model()
    options = {"scale": 1.0} if name == "cfg" else {"scale": 1.0, "weak": "other"}
    of._others["other"] = of, weights(of, 1)

    def drawn(guidance: GuidanceConfig) -> Any:
        *_, last = of.sample(weights(of), np.arange(5), LABELS, 0, of.config.sampling, guidance)
        return last.x

    assert np.array_equal(drawn(GuidanceConfig(name, options)), drawn(GuidanceConfig()))
    assert not np.array_equal(drawn(GuidanceConfig(name, {**options, "scale": 2.0})), drawn(GuidanceConfig()))


def test_thresholds_come_after_guidance() -> None:
    """The guided x_0 is clipped, not what it is made of; and eps follows it."""
    of = model()
    w = weights(of)
    free = of.guided(w, LABELS, CFG)(X, 20)
    kept = of.denoiser(w, LABELS, of.config.sampling, CFG)(X, 20)
    assert np.abs(free.x_0).max() > 1.5
    assert np.array_equal(kept.x_0, static_threshold(np, free.x_0))
    assert np.array_equal(kept.eps, of.process.predict_eps(X, 20, kept.x_0))


def test_the_runs_own_guidance_is_the_default() -> None:
    of = model(guidance={"name": "cfg", "scale": 3.0})
    w = weights(of)
    assert np.array_equal(of.guided(w, LABELS)(X, 7).x_0, of.guided(w, LABELS, CFG)(X, 7).x_0)
    plain = of.guided(w, LABELS, GuidanceConfig())(X, 7)
    assert np.array_equal(plain.x_0, of.network_denoiser(w, LABELS)(X, 7).x_0)


def test_options_without_a_guidance_are_refused() -> None:
    of = model()
    with pytest.raises(ConfigError, match="there is no guidance for option scale: name one"):
        of.guided(weights(of), LABELS, GuidanceConfig(options={"scale": 2.0}))


# The command line

TRAIN = ["train", *TWO_STEPS, *ONE_LEVEL, "--timesteps", "25", "--sample-every", "9"]
NULL = ["--condition-dropout", "0.5", "--steps", "5", "--ema", "0", "--warmup", "0", "--learning-rate", "0.02"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guided")
    for name, more in {
        "good": [],
        "weak": ["--seed", "1"],
        "plain": ["--no-labels"],
        "longer": [],
        "null": NULL,
    }.items():
        arguments = [*TRAIN, *more, "--out", str(folder / name)]
        done = CliRunner().invoke(main, arguments + (["--timesteps", "30"] if name == "longer" else []))
        assert done.exit_code == 0, done.output
    return folder


def drawn(command: list[str], out: Path) -> Any:
    done = CliRunner().invoke(main, [*command, "--count", "3", "--npz", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return np.load(next(out.glob("*.npz")))["images"].astype(int)


def test_sample_and_edit_take_another_run_as_the_weak_model(runs: Path, tmp_path: Path) -> None:
    """With the model itself as the weak one there is nothing to go away from; with another there is."""
    good = str(runs / "good")
    for number, command in enumerate((["sample", good], ["edit", "from", good, "digits:3"])):
        plain = drawn(command, tmp_path / f"{number}-plain")
        for weak, moved in (("good", False), ("weak", True)):
            guide = ["--guide", "auto", "--guide-option", f"weak={runs / weak}", "--guidance", "40"]
            found = drawn([*command, *guide], tmp_path / f"{number}-{weak}")
            assert np.array_equal(found, plain) != moved


def test_sample_and_edit_guide_a_run_with_a_null(runs: Path, tmp_path: Path) -> None:
    """At scale 1 it is the run unguided; beyond, something else."""
    run = str(runs / "null")
    for number, command in enumerate((["sample", run], ["edit", "from", run, "digits:3"])):
        plain, one, far = (
            drawn([*command, *guide], tmp_path / f"{number}-{i}")
            for i, guide in enumerate(([], ["--guidance", "1"], ["--guidance", "40"]))
        )
        assert np.array_equal(one, plain)
        assert not np.array_equal(far, plain)


def test_the_weak_model_is_loaded_once_and_guides(runs: Path) -> None:
    of, w, _ = load_model(runs / "good", NUMPY)
    guidance = GuidanceConfig("auto", {"weak": str(runs / "weak"), "scale": 3.0})
    other, other_w, _ = load_model(runs / "weak", NUMPY)
    x = np.random.default_rng(2).standard_normal((5, *of.sample_shape), dtype=np.float32)
    c, u = of.network_denoiser(w, LABELS)(x, 9), other.network_denoiser(other_w, LABELS)(x, 9)
    for _ in range(2):
        np.testing.assert_array_equal(of.guided(w, LABELS, guidance)(x, 9).x_0, u.x_0 + 3 * (c.x_0 - u.x_0))
    assert list(of._others) == [str(runs / "weak")]


@pytest.mark.parametrize(
    ("run", "options", "line"),
    [
        ("good", ["--guidance", "3"], "guidance 'cfg' needs predictions without a condition"),
        ("plain", ["--guidance", "3"], "guidance 'cfg' needs predictions without a condition"),
        ("good", ["--guide", "auto"], "guidance 'auto' needs a weaker model"),
        ("good", ["--guide", "auto", "--guide-option", "weak=nowhere"], "nowhere"),
        ("good", ["--guide", "auto", "--guide-option", "weak=RUNS/longer"], "has other samples, classes or noise"),
        ("plain", ["--guide", "auto", "--guide-option", "weak=RUNS/good"], "has other samples, classes or noise"),
        ("good", ["--guide", "auot"], "unknown guidance 'auot': did you mean 'auto'"),
        ("good", ["--guide-option", "scale=2"], "there is no guidance for option scale"),
    ],
)
def test_what_cannot_guide_is_one_line(runs: Path, run: str, options: list[str], line: str, tmp_path: Path) -> None:
    arguments = [option.replace("RUNS", str(runs)) for option in options]
    done = CliRunner().invoke(main, ["sample", str(runs / run), *arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    errors = [text for text in done.stderr.splitlines() if text.startswith("Error: ")]
    assert len(errors) == 1
    assert line in errors[0]
    assert not (tmp_path / "out").exists()
