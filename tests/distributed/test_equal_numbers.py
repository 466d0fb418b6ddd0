"""What ranks compute together is what one process computes: bit for bit where sums are cut alike, else to rounding."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import says
from helpers.ranks import all_said, on_ranks, started
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
    found, expected = vectors(one), vectors(other)
    for name in ("weights", "ema"):
        atol = rtol * np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=atol)


AS_THREADS = {
    "numpy": [],
    "numba": ["--backend", "numba"],
    "accumulated": ["--accumulate", "3"],
    "transformed, weighted": [
        "--transform", "crop", "--transform", "shift", "--tell-transforms", "--balance", "weights",
    ],
    "balanced": ["--balance", "order"],
    "times after their losses": ["--loss", "vlb", "--steps", "14", "--timesteps", "5"],
}  # fmt: skip
"""Options of runs of six steps, by name."""

LONG = {"images, 200 steps": [*IMAGES, "--steps", "200"], "points, 200 steps": [*POINTS, "--steps", "200"]}

SHARDS = [*IMAGES, "--clip", "0.1", "--average-lengths", "0.05,0.2", "--snapshot-every", "4"]


@dataclass(frozen=True)
class Done:
    """What some ranks have done: a folder for each command, by its name, and what it said, by the same name."""

    folder: Path
    said: dict[str, tuple[str, str]]

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def done(ranks: int, folder: Path, commands: dict[str, list[object]]) -> Done:
    """Run these commands on so many ranks, one after the other; those without a folder get that of their name."""
    given = {
        name: command if {"--resume", "nll"} & {*command} else [*command, "--out", folder / name]
        for name, command in commands.items()
    }
    return Done(folder, all_said(ranks, given))


def of_shards(folder: Path) -> dict[str, list[object]]:
    """Eight steps with the state whole; and five with shards of it, resumed."""
    return {
        "whole": [*SHARDS, "--steps", "8"],
        "shards": [*SHARDS, "--steps", "5", "--shard"],
        "shards, resumed": ["train", "--resume", folder / "shards", "--steps", "8"],
    }


def measured(run: Path) -> dict[str, list[object]]:
    """An evaluation of a run, and the likelihood of data under it."""
    of_samples = ["--count", "60", "--steps", "2", "--batch-size", "16", "--metrics", "frechet,memorisation", "--json"]
    of_data = ["--count", "10", "--batch-size", "3", "--flow", "--flow-steps", "3", "--threads", "1", "--json"]
    return {"evaluated": ["evaluate", run, *of_samples], "likelihood": ["nll", run, *of_data]}


def drawn(run: Path) -> list[object]:
    """Seven samples in batches of two: the last batch has none for some of two ranks, or of three."""
    return ["sample", run, "--count", "7", "--batch-size", "2", "--npz", "--gif"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, to draw from and to measure."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    says(*IMAGES, "--steps", "6", "--out", folder)
    return folder


@pytest.fixture(scope="module")
def two(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("two")
    return done(
        2,
        folder,
        {name: [*IMAGES, "--steps", "6", *options, "--threads", "1"] for name, options in AS_THREADS.items()}
        | {name: [*command, "--threads", "1"] for name, command in LONG.items()}
        | {name: [*IMAGES, "--steps", n, "--threads", "2"] for name, n in (("straight", 8), ("halfway", 4))}
        | of_shards(folder)
        | {sums: [*POINTS, "--steps", "30", "--sums", sums] for sums in ("fp32", "bf16")}
        | {"drawn": drawn(run)}
        | measured(run),
    )


@pytest.fixture(scope="module")
def one(run: Path, two: Done, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("one")
    stopped = shutil.copytree(two / "halfway", folder / "resumed")
    return done(
        1,
        folder,
        {name: [*IMAGES, "--steps", "6", *options, "--threads", "2"] for name, options in AS_THREADS.items()}
        | {name: [*command, "--threads", "1"] for name, command in LONG.items()}
        | {"resumed": ["train", "--resume", stopped, "--steps", "8"], "drawn": drawn(run)}
        | measured(run)
        | {"likelihood, two threads": [*measured(run)["likelihood"], "--threads", "2"]},
    )


@pytest.fixture(scope="module")
def three(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("three")
    commands: dict[str, list[object]] = {"five steps": [*IMAGES, "--steps", "5"], "drawn": drawn(run)}
    return done(3, folder, commands | of_shards(folder) | measured(run))


@pytest.fixture(scope="module")
def four(two: Done, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("four")
    stopped = shutil.copytree(two / "halfway", folder / "resumed")
    long: dict[str, list[object]] = {name: [*command, "--threads", "1"] for name, command in LONG.items()}
    return done(4, folder, long | {"resumed": ["train", "--resume", stopped, "--steps", "8"]})


@pytest.mark.parametrize("name", AS_THREADS)
def test_two_ranks_are_two_threads(name: str, one: Done, two: Done) -> None:
    """A batch is cut over ranks as over threads, and two numbers have one sum: so all bits are the same."""
    assert_same_bits(two / name, one / name)
    validation = [json.loads((by / name / "metrics.jsonl").read_text().splitlines()[-1]) for by in (one, two)]
    assert validation[0] == pytest.approx(validation[1], rel=1e-6)


@pytest.mark.parametrize("name", LONG)
def test_losses_of_1_2_and_4_ranks(name: str, one: Done, two: Done, four: Done) -> None:
    """Over 200 steps each loss is the same to 5 parts in a million."""
    alone, *together = (losses(by / name) for by in (one, two, four))
    assert len(alone) == 200
    for found in together:
        np.testing.assert_allclose(found, alone, rtol=5e-6)


def test_three_ranks_twice_are_the_same_bits(three: Done, tmp_path: Path) -> None:
    first, second = three / "five steps", tmp_path / "second"
    on_ranks(3, "tinyddpm", *IMAGES, "--steps", "5", "--distributed", "mpi", "--out", second)
    assert_same_bits(first, second)
    for picture in ("samples.png", "denoising.gif"):
        assert (first / picture).read_bytes() == (second / picture).read_bytes()


def goes_on_under(ranks: int, resumed: Path, said: str) -> None:
    """Check what a resumed run says of its ranks, and keeps."""
    told = f"note: the steps until now were done by 2 ranks, and those from here on by {ranks}"
    assert (told in said) == (ranks != 2)
    kept = read_checkpoint_header(resumed / "checkpoint.h5").config["training"]["threads"]
    assert kept == 4 // ranks


def test_a_run_of_two_ranks_goes_on_under_two(two: Done, tmp_path: Path) -> None:
    """To the same bits."""
    stopped = shutil.copytree(two / "halfway", tmp_path / "stopped")
    done = started(2, "tinyddpm", "train", "--resume", stopped, "--steps", "8")
    assert done.returncode == 0, done.stderr
    assert_same_bits(stopped, two / "straight")
    goes_on_under(2, stopped, done.stderr)


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_run_of_two_ranks_goes_on_under_others(ranks: int, one: Done, two: Done, four: Done) -> None:
    """To the same numbers but for rounding, which is said."""
    by = {1: one, 4: four}[ranks]
    assert_close(by / "resumed", two / "straight")
    goes_on_under(ranks, by / "resumed", by.said["resumed"][1])


@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_of_the_state_train_as_the_whole(ranks: int, two: Done, three: Done) -> None:
    """Resumed whole, and cut again. The gradient's length is summed otherwise: so the same but for rounding."""
    by = {2: two, 3: three}[ranks]
    whole, shards = by / "whole", by / "shards"
    assert_close(shards, whole)
    assert losses(shards)[-1] != losses(shards)[0]
    one, other = loaded(shards), loaded(whole)
    assert [*one.averages] == ["0.050", "0.200"]
    for name, average in one.averages.items():
        np.testing.assert_allclose(average, other.averages[name], rtol=0, atol=2e-5 * np.abs(other.ema).max())
    taken = [[path.name for path in sorted((run / "averages").iterdir())] for run in (shards, whole)]
    assert taken == [["step_0000004.h5", "step_0000005.h5", "step_0000008.h5"], ["step_0000004.h5", "step_0000008.h5"]]


def test_sums_in_bfloat16_are_near(two: Done) -> None:
    """Each number of the gradient is off by up to 1 part in 128: half a unit of each of three roundings."""
    exact, near = two / "fp32", two / "bf16"
    assert losses(near)[1:] != losses(exact)[1:]
    np.testing.assert_allclose(losses(near), losses(exact), rtol=0.02)


def test_samples_are_the_same_files(one: Done, two: Done, three: Done) -> None:
    found = [{path.name: path.read_bytes() for path in (by / "drawn").iterdir()} for by in (one, two, three)]
    assert set(found[0]) == {"grid.png", "samples.npz", "denoising.gif"}
    assert found[0] == found[1] == found[2]


def test_an_evaluation_says_the_same(one: Done, two: Done, three: Done) -> None:
    said = [json.loads(by.said["evaluated"][0]) for by in (one, two, three)]
    assert said[0] == said[1] == said[2]
    assert set(said[0]["floor"]["numbers"]) >= {"frechet"}


def test_a_likelihood_is_the_same(one: Done, two: Done, three: Done) -> None:
    """To the last digit, and with more threads, which cut a batch otherwise, to rounding."""
    found = [json.loads(by.said["likelihood"][0]) for by in (one, two, three)]
    assert found[0] == found[1] == found[2]
    threads = json.loads(one.said["likelihood, two threads"][0])
    for part in ("L_T", "L_t", "L_0", "total"):
        assert threads["bound"][part]["mean"] == pytest.approx(found[0]["bound"][part]["mean"], rel=1e-6)
    assert threads["flow"]["mean"] == pytest.approx(found[0]["flow"]["mean"], rel=1e-6)
