"""`tinyddpm bench`, as a user meets it; the peers are small files."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import tinyddpm
from tinyddpm.bench import contest
from tinyddpm.bench.contest import Outcome
from tinyddpm.cli import main
from tinyddpm.errors import ConfigError
from tinyddpm.machine import cpu_model, vector_instructions

pytestmark = pytest.mark.slow

SMALL = [
    "--preset", "small", "--image-size", "8x8", "--batch-size", "4", "--threads", "1", "--rounds", "2",
    "--set", "network.channels=8", "--set", "network.multipliers=[1]", "--set", "network.attention=[]",
]  # fmt: skip

PEER = """
import os, time

class Sleeper:
    def __init__(self, task, variant):
        self.parameters = task.parameters + (variant == "smaller")
        self.variant = variant
        print("noise on stdout", flush=True)
        assert os.environ["OMP_NUM_THREADS"] == "1"
    def train_step(self):
        if self.variant == "raises":
            raise ValueError("on\\nfire")
        if self.variant == "dies":
            os._exit(7)
        time.sleep(0.001)
    def denoise_step(self):
        time.sleep(0.001)
    def describe(self):
        return f"asleep, process {os.getpid()}"

def variants(task, compiled):
    return ["sleeps", "raises", "dies", "smaller"] + ["compiled"] * compiled

make = Sleeper
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(contest, "TURN", 0.02)
    monkeypatch.setattr(contest, "REST", 0.0)
    Path("sleep_peer.py").write_text(PEER)
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["bench", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fails(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_rounds_are_counted_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of training and of denoising, so twice as many as `--rounds`."""

    def contest_of(*given: object) -> Outcome:
        watch = given[-1]
        assert callable(watch)
        watch("sleep sleeps", 4)
        raise ConfigError("it is over")

    monkeypatch.setattr(contest, "run_contest", contest_of)
    assert run(*SMALL).stderr == "Error: it is over\n"
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((30, 9)))
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda stream: True, raising=False)
    assert run(*SMALL).stderr == "\r4/4  rounds of sleep sleeps  \nError: it is over\n"


@pytest.mark.parametrize("condition", ["text", "embeddings"])
def test_noise_has_what_conditions_read(condition: str, here: Path) -> None:
    """A caption each, of a preset whose pictures have them; tokens as many and as large as the options say."""
    options = {"text": ["--set", "condition.heads=2"], "embeddings": ["--set", "condition.size=5"]}[condition]
    size = ["--set", "condition.length=12", "--set", "condition.token_width=8", "--image-size", "8x8"]
    small = ["--preset", "emoji", "--batch-size", "2", "--threads", "1", *SMALL[8:], "--condition", condition]
    result = run(*small, *size, *options, "--rounds", "1", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["config"]["condition"]["name"] == condition


def test_json_is_one_object_with_what_the_ratio_came_from(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A peer raises, one dies and one has another network: each is left out with its reason, the rest is measured.

    All contestants print, and are told of other threads than the command's; neither comes through.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    result = run(*SMALL, "--peer", "sleep_peer.py", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert result.stderr == ""
    assert capfd.readouterr().out == ""
    assert list(found["contestants"]) == ["tinyddpm numpy", "sleep sleeps"]
    assert found["left_out"]["sleep raises"] == "sleep raises: ValueError: on fire"
    assert "died with exit code 7" in found["left_out"]["sleep dies"]
    assert "parameters, ours" in found["left_out"]["sleep smaller"]
    for kind, ratio in (("train", "train_ratio"), ("denoise", "sample_ratio")):
        ours, peer = (found["contestants"][name][kind] for name in ("tinyddpm numpy", "sleep sleeps"))
        assert len(ours["seconds"]) == len(peer["seconds"]) == 2
        assert found[ratio]["tinyddpm numpy"] == pytest.approx(ours["images_per_second"] / peer["images_per_second"])
        assert found["flop"][kind] == pytest.approx(ours["flop_per_second"] * ours["median_seconds"])
        assert ours["of_matmul"] == pytest.approx(ours["flop_per_second"] / found["machine"]["matmul_flop_per_second"])
    assert found["threads"] == 1
    assert found["batch_size"] == 4
    assert found["sample_shape"] == [8, 8, 3]
    assert found["config"]["network"]["channels"] == 8
    assert set(found["versions"]) >= {"python", "tinyddpm", "numpy"}
    assert found["machine"]["cpu"]
    assert "numpy" in found["contestants"]["tinyddpm numpy"]["description"]
    alone = found["one_thread"]["tinyddpm numpy"]
    assert {"operation", "calls", "seconds", "flop", "bytes"} == set(alone["operations"][0])
    assert alone["matmul_flop_per_second"] > 1e8
    assert 1e8 < alone["copy_bytes_per_second"] < 1e13
    if sys.platform == "linux":
        assert 2**16 < found["contestants"]["tinyddpm numpy"]["memory_bytes"] < 2**30
        assert 0 <= found["contestants"]["sleep sleeps"]["memory_bytes"] < 2**20
    assert [path.name for path in here.iterdir() if path.suffix] == ["sleep_peer.py"]


def test_backends_and_variants_are_named(here: Path) -> None:
    """One of the backends has no such device, and is left out with its line; so do variants that were not asked for.

    At a batch of one, which is how one image is drawn.
    """
    options = [
        "--backends",
        "numpy,numba,torch",
        "--device",
        "cpu:0",
        "--peer",
        "sleep_peer.py",
        "--variants",
        "sleeps",
    ]
    result = run(*SMALL, "--batch-size", "1", *options, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found["contestants"]) == ["tinyddpm torch", "sleep sleeps"]
    assert list(found["left_out"]) == ["tinyddpm numpy", "tinyddpm numba"]
    assert found["left_out"]["tinyddpm numba"].startswith("tinyddpm numba: the numpy backend has no device 'cpu:0'")
    assert found["sample_ratio"]["tinyddpm torch"] > 0
    assert found["batch_size"] == 1


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu sse2 avx2 fma\nbugs : avx512f\nflags : fpu avx512f\n", ["AVX2"]),
        ("flags : avx2 avx512f avx512_bf16", ["AVX2", "AVX-512", "bfloat16 (AVX-512)"]),
        ("processor : 0\nFeatures\t: fp asimd bf16 sve\n", ["NEON", "SVE", "bfloat16 (ARM)"]),
        ("", []),
    ],
)
def test_vector_instructions(cpuinfo: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: cpuinfo)
    assert vector_instructions() == expected


def test_a_processor_of_another_system_than_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """There Python names it, and its instructions are not known."""

    def missing(path: Path, encoding: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert (cpu_model(), vector_instructions()) == ("arm", [])


def test_text_alone_and_points(here: Path) -> None:
    result = run("--preset", "toy", "--batch-size", "8", "--set", "network.width=8", "--rounds", "1", "--explain")
    assert result.exit_code == 0, result.output
    assert "points 2, batch 8" in result.stdout
    assert "vector instructions of the processor: " in result.stdout
    assert "points/s" in result.stdout
    assert "linear_backward" in result.stdout
    assert "this network has no convolutions" in result.stdout
    assert "\x1b" not in result.stdout


def test_bad_input_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty_peer.py").write_text("")
    Path("broken_peer.py").write_text("def make(:")
    Path("lacking_peer.py").write_text("import no_such_package")
    assert "peer 'jax' is neither 'torch' nor a Python file" in fails(*SMALL, "--peer", "jax")
    assert "does not define variants and make" in fails(*SMALL, "--peer", "empty_peer.py")
    assert "SyntaxError" in fails(*SMALL, "--peer", "broken_peer.py")
    assert "No module named 'no_such_package'" in fails(*SMALL, "--peer", "lacking_peer.py")
    assert "no network 'mlp'" in fails("--preset", "toy", "--peer", "torch")
    assert "cannot tell the shape of the samples in 'pictures'" in fails("--data", "pictures")
    assert "give --no-labels" in fails(*SMALL, "--labels")
    assert "did you mean 'channels'" in fails("--set", "network.chanels=3")
    assert "cannot be halved" in fails("--image-size", "7x7")
    assert "unknown variant 'sleepy': did you mean 'sleeps'" in fails(
        *SMALL, "--peer", "sleep_peer.py", "--variants", "dies,sleepy"
    )
    assert "unknown backend ''" in fails(*SMALL, "--backends", "numpy,")
    assert "unknown preset 'nothing'" in fails("--preset", "nothing")


def test_a_peer_that_is_not_there_says_what_to_do(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Torch, and where the package is installed without the repository around it."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        assert "pip install -e '.[test]'" in fails(*SMALL, "--peer", "torch")
    monkeypatch.setattr(tinyddpm, "__file__", str(here / "tinyddpm" / "__init__.py"))
    assert "clone the repository" in fails(*SMALL, "--peer", "torch")
