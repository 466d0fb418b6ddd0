"""What ranks compute together is what one process computes: bit for bit where sums are cut alike, else to rounding."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.ranks import started
from helpers.runs import loaded
from tinyddpm.model.checkpoint import read_checkpoint_header

pytestmark = pytest.mark.slow

IMAGES = [
    "train", "--data", "digits", "--timesteps", "20", "--batch-size", "16", "--set", "network.channels=8",
    "--sample-count", "4", "--sample-steps", "2", "--log-every", "1", "--warmup", "5",
]  # fmt: skip
POINTS = [
    "train", "--data", "moons", "--timesteps", "20", "--batch-size", "32", "--set", "network.width=16",
    "--set", "network.depth=1", "--sample-count", "4", "--sample-steps", "2", "--log-every", "1", "--warmup", "5",
]  # fmt: skip
VECTORS = ("weights", "ema", "adam_m", "adam_v")


def tinyddpm(ranks: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What `tinyddpm` says with these arguments, and its exit code, when so many ranks run it."""
    return started(ranks, "tinyddpm", *arguments)


def trained(folder: Path, ranks: int, *arguments: object) -> Path:
    """The folder of a run of so many ranks."""
    done = tinyddpm(ranks, *arguments, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def vectors(folder: Path) -> dict[str, np.ndarray]:
    checkpoint = loaded(folder)
    return {name: getattr(checkpoint, name) for name in VECTORS}


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def assert_same_bits(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    expected = vectors(other)
    for name, vector in vectors(one).items():
        np.testing.assert_array_equal(vector, expected[name], err_msg=name)


def assert_close(one: Path, other: Path, rtol: float = 2e-5) -> None:
    """The same weights but for rounding, on the scale of the largest."""
    np.testing.assert_allclose(losses(one), losses(other), rtol=rtol)
    for name in ("weights", "ema"):
        expected = vectors(other)[name]
        np.testing.assert_allclose(vectors(one)[name], expected, rtol=0, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="numpy"),
        pytest.param(["--backend", "numba"], id="numba"),
        pytest.param(["--accumulate", "3"], id="accumulated"),
        pytest.param(
            ["--transform", "crop", "--transform", "shift", "--tell-transforms", "--balance", "weights"],
            id="transformed, weighted",
        ),
        pytest.param(["--balance", "order"], id="balanced"),
        pytest.param(["--loss", "vlb", "--steps", "14", "--timesteps", "5"], id="times after their losses"),
    ],
)
def test_two_ranks_are_two_threads(options: list[str], tmp_path: Path) -> None:
    """A batch is cut over ranks as over threads, and two numbers have one sum: so all bits are the same."""
    arguments = [*IMAGES, "--steps", "6", *options]
    threads = trained(tmp_path / "threads", 1, *arguments, "--threads", "2")
    ranks = trained(tmp_path / "ranks", 2, *arguments, "--threads", "1")
    assert_same_bits(ranks, threads)
    validation = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (ranks, threads)]
    assert validation[0] == pytest.approx(validation[1], rel=1e-6)


@pytest.mark.parametrize("arguments", [IMAGES, POINTS], ids=["images", "points"])
def test_losses_of_1_2_and_4_ranks(arguments: list[str], tmp_path: Path) -> None:
    """Over 200 steps each loss is the same to 5 parts in a million."""
    runs = [trained(tmp_path / str(n), n, *arguments, "--steps", "200", "--threads", "1") for n in (1, 2, 4)]
    alone, *together = map(losses, runs)
    assert len(alone) == 200
    for found in together:
        np.testing.assert_allclose(found, alone, rtol=5e-6)


def test_three_ranks_twice_are_the_same_bits(tmp_path: Path) -> None:
    first, second = (trained(tmp_path / name, 3, *IMAGES, "--steps", "5") for name in ("first", "second"))
    assert_same_bits(first, second)
    for picture in ("samples.png", "denoising.gif"):
        assert (first / picture).read_bytes() == (second / picture).read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps of two ranks."""
    return trained(tmp_path_factory.mktemp("two") / "straight", 2, *IMAGES, "--steps", "8", "--threads", "2")


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first four of them."""
    return trained(tmp_path_factory.mktemp("two") / "halfway", 2, *IMAGES, "--steps", "4", "--threads", "2")


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_run_of_two_ranks_goes_on_under(ranks: int, straight: Path, halfway: Path, tmp_path: Path) -> None:
    """The same bits under two, and the same numbers but for rounding under others, which is said."""
    stopped = shutil.copytree(halfway, tmp_path / "stopped")
    done = tinyddpm(ranks, "train", "--resume", stopped, "--steps", "8")
    assert done.returncode == 0, done.stderr
    if ranks == 2:
        assert_same_bits(stopped, straight)
    else:
        assert_close(stopped, straight)
    told = f"note: the steps until now were done by 2 ranks, and those from here on by {ranks}"
    assert (told in done.stderr) == (ranks != 2)
    kept = read_checkpoint_header(stopped / "checkpoint.h5").config["training"]["threads"]
    assert kept == 4 // ranks


@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_of_the_state_train_as_the_whole(ranks: int, tmp_path: Path) -> None:
    """Resumed whole, and cut again. The gradient's length is summed otherwise: so the same but for rounding."""
    arguments = [*IMAGES, "--clip", "0.1", "--average-lengths", "0.05,0.2", "--snapshot-every", "4"]
    whole = trained(tmp_path / "whole", ranks, *arguments, "--steps", "8")
    shards = trained(tmp_path / "shards", ranks, *arguments, "--steps", "5", "--shard")
    assert tinyddpm(ranks, "train", "--resume", shards, "--steps", "8").returncode == 0
    assert_close(shards, whole)
    assert losses(shards)[-1] != losses(shards)[0]
    one, other = loaded(shards), loaded(whole)
    assert [*one.averages] == ["0.050", "0.200"]
    for name, average in one.averages.items():
        np.testing.assert_allclose(average, other.averages[name], rtol=0, atol=2e-5 * np.abs(other.ema).max())
    taken = [[path.name for path in sorted((run / "averages").iterdir())] for run in (shards, whole)]
    assert taken == [["step_0000004.h5", "step_0000005.h5", "step_0000008.h5"], ["step_0000004.h5", "step_0000008.h5"]]


def test_sums_in_bfloat16_are_near(tmp_path: Path) -> None:
    """Each number of the gradient is off by up to 1 part in 128: half a unit of each of three roundings."""
    exact = trained(tmp_path / "fp32", 2, *POINTS, "--steps", "30")
    near = trained(tmp_path / "bf16", 2, *POINTS, "--steps", "30", "--sums", "bf16")
    assert losses(near)[1:] != losses(exact)[1:]
    np.testing.assert_allclose(losses(near), losses(exact), rtol=0.02)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("ranks") / "run", 1, *IMAGES, "--steps", "6")


def test_samples_are_the_same_files(run: Path, tmp_path: Path) -> None:
    """Seven in batches of two: the last batch has none for some of two ranks, or of three."""
    found = []
    for n in (1, 2, 3):
        out = tmp_path / str(n)
        done = tinyddpm(n, "sample", run, "--count", "7", "--batch-size", "2", "--npz", "--gif", "--out", out)
        assert done.returncode == 0, done.stderr
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert set(found[0]) == {"grid.png", "samples.npz", "denoising.gif"}
    assert found[0] == found[1] == found[2]


def test_an_evaluation_says_the_same(run: Path, tmp_path: Path) -> None:
    said = []
    for n in (1, 3):
        chosen = ["--count", "60", "--steps", "2", "--batch-size", "16", "--metrics", "frechet,memorisation", "--json"]
        done = tinyddpm(n, "evaluate", run, *chosen, "--out", tmp_path / str(n))
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    assert said[0] == said[1]
    assert set(said[0]["floor"]["numbers"]) >= {"frechet"}


def test_a_likelihood_is_the_same(run: Path) -> None:
    """To rounding: a rank has fewer threads, which cut a batch otherwise."""
    found: list[dict[str, Any]] = []
    for n in (1, 3):
        done = tinyddpm(n, "nll", run, "--count", "10", "--batch-size", "3", "--flow", "--flow-steps", "3", "--json")
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    for part in ("L_T", "L_t", "L_0", "total"):
        assert found[1]["bound"][part]["mean"] == pytest.approx(found[0]["bound"][part]["mean"], rel=1e-6)
    assert found[1]["flow"]["mean"] == pytest.approx(found[0]["flow"]["mean"], rel=1e-6)
