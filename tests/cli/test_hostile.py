"""Headers, settings and files that are hostile or silly: each is answered in one line, at once, before it is built."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from helpers.command_line import MOONS, TWO_STEPS
from helpers.headers import rewritten
from tinyddpm.cli import main
from tinyddpm.errors import CheckpointError, ConfigError, TinyDDPMError
from tinyddpm.model.config import Config, parse_toml, read_toml
from tinyddpm.report.metrics import read_metrics
from tinyddpm.training.record import read_record


def answer(*arguments: str) -> str:
    """What a command prints, on one line if it fails."""
    result = CliRunner().invoke(main, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        assert result.exit_code in (1, 2)
        assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
        return result.stderr.splitlines()[-1]
    return result.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "run"
    assert answer("train", *TWO_STEPS, *MOONS, "--out", str(folder)).startswith("trained")
    return folder / "checkpoint.h5"


def table(name: str, /, **values: Any) -> dict[str, Any]:
    return {"config": {name: values}}


HEADERS: list[tuple[dict[str, Any], str, str]] = [
    (table("network", name="mlp", depth=10**7), "depth is 10000000: it must be at least 1 and at most 1000", "sample"),
    (table("network", name="mlp", width=2**40), "width is 1099511627776: it must be even", "sample"),
    (table("schedule", timesteps=3 * 10**8), "T = 300000000: a diffusion needs at least 2 steps and at most", "sample"),
    (table("sampling", count=2**70), "a number has more than 64 bits", "info"),
    (table("network", name="\ud800"), "is no Unicode text", "info"),
    (table("data", source=None), "data.source is None", "info"),
    ({"sample_shape": []}, "sample_shape missing or malformed", "info"),
    ({"sample_shape": [2**40, 2**40, 3]}, "sample_shape missing or malformed", "info"),
    ({"sample_shape": [2, 2]}, "sample_shape missing or malformed", "info"),
    ({"step": 2**70}, "step missing or malformed", "info"),
    ({"state": {"loss_sum": "much"}}, "state missing or malformed", "info"),
    ({"state": {"data": ["x"]}}, "state missing or malformed", "info"),
    ({"state": {"loss_count": -1}}, "state missing or malformed", "info"),
    ({"state": {"validation": [1]}}, "state missing or malformed", "info"),
    ({"state": {"ranks": "many"}}, "state missing or malformed", "info"),
    ({"state": {"ranks": 0}}, "state missing or malformed", "info"),
    *(
        ({"plugins": [{"group": "samplers", "name": "far", "version": "1", "distribution": "far", **wrong}]},
         "plugins missing or malformed", "info")
        for wrong in (
            {"distribution": "--index-url=https://example.org"}, {"distribution": "a b"}, {"distribution": "a; rm"},
            {"version": "1 --pre"}, {"version": "-1"}, {"version": "1\n"}, {"name": "\u202e"}, {"distribution": ""},
        )
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("change", "message", "command"), HEADERS)
def test_headers(trained: Path, tmp_path: Path, change: dict[str, Any], message: str, command: str) -> None:
    def changed(header: dict[str, Any]) -> None:
        for key, value in change.items():
            if key == "config":
                for name, inner in value.items():
                    header["config"][name] = {**header["config"][name], **inner}
            else:
                header[key] = value

    path = rewritten(trained, tmp_path / "hostile.h5", changed)
    assert message in answer(command, str(path))


@pytest.mark.parametrize(
    "change", [{"depth": 10**7}, {"name": "far-net", "width": 2**40}, {"name": "unet", "blocks": 10**7}]
)
def test_info_builds_nothing(trained: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """It tells what the header says, and the parameters that are there; what is not installed is not needed."""

    def changed(header: dict[str, Any]) -> None:
        header["config"]["network"] = {**header["config"]["network"], **change}

    found = json.loads(answer("info", str(rewritten(trained, tmp_path / "hostile.h5", changed)), "--json"))
    assert found["config"]["network"].items() >= change.items()
    assert found["parameters"] == 16 * 16 + 16 + 16 * 16 + 16 + 2 * 16 + 16 + 3 * (16 * 16 + 16) + 16 * 2 + 2


def test_manifest_nested_too_deeply(trained: Path, tmp_path: Path) -> None:
    def changed(header: dict[str, Any]) -> None:
        value: Any = 0
        for _ in range(400):
            value = [value]
        header["config"]["callbacks"] = {"early-stop": {"patience": value}}

    assert "nested too deeply" in answer("info", str(rewritten(trained, tmp_path / "hostile.h5", changed)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 100_000, "is not valid TOML: it is nested too deeply"),
        ("seed = " + "9" * 5000, "is not valid TOML: "),
        (f"seed = {2**64}", "is not valid TOML: a number has more than 64 bits"),
        ("a" + ".a" * 50_000 + " = 1", "is not valid TOML: it is nested too deeply"),
        ("[training]\nsteps" + ".a" * 20 + " = 1", "is not valid TOML: it is nested too deeply"),
        ("seed = 1979-05-27", "is not valid TOML: 1979-05-27 is a date"),
        ("training = 3", "training is a table of settings, not 3"),
        ("callbacks = 3", "callbacks is 3"),
        ("data = 3", "data is a table of settings, not 3"),
    ],
)
def test_toml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    assert message in answer("train", "--config", str(tmp_path / "c.toml"))


def test_a_byte_order_mark_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert read_toml(tmp_path / "c.toml") == {"seed": 3}
    (tmp_path / "c.toml").write_bytes("seed = 3".encode("utf-16"))
    assert "is not valid TOML" in answer("train", "--config", str(tmp_path / "c.toml"))


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["training=3"], "training is a table of settings, not 3"),
        (["training=3", "training.steps=4"], "training is a value already"),
        (["training.steps=4", "training=3"], "training is a table of settings, not 3"),
        (["data=3"], "data is a table of settings, not 3"),
        (["seed.x=3"], "seed is {'x': 3}: give a whole number"),
        (["seed=" + "9" * 5000], "seed is '9999"),
        (["training.steps=" + "[" * 5000], "training.steps is '[[[["),
        (["network.width=99999999999999999999999"], "give a whole number"),
    ],
)
def test_set(assignments: list[str], message: str) -> None:
    given = [part for text in assignments for part in ("--set", text)]
    assert message in answer("train", *TWO_STEPS, *MOONS, "--dry-run", *given)


def test_settings_are_bounded() -> None:
    with pytest.raises(ConfigError, match="configuration: a number has more than 64 bits: give texts"):
        Config.from_dict({"sampling": {"count": 2**70}})
    with pytest.raises(ValueError, match="is nested too deeply"):
        parse_toml("a = " + "[" * 9 + "]" * 9)
    assert parse_toml("a = [[[[1]]]]") == {"a": [[[[1]]]]}


@pytest.fixture(params=["fifo", "socket", "device"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What lies in a folder like a file and is none; whoever reads it waits for ever."""
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    if request.param == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no FIFOs")
        os.mkfifo("a")
        return "a"
    if request.param == "device":
        if not Path("/dev/zero").exists():
            pytest.skip("this system has no /dev/zero")
        os.symlink("/dev/zero", "a")
        return "a"
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("this system has no such sockets")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a")
    return "a"


def test_pipes_sockets_and_devices_are_refused(no_file: str, trained: Path) -> None:
    os.symlink("a", "x.npz")
    os.symlink("a", "x.npy")
    os.symlink("a", "x.h5")
    os.symlink("a", "train-images-idx3-ubyte")
    for arguments in (
        ["info", no_file],
        ["sample", no_file],
        ["train", "--config", no_file],
        *(["train", "--data", name] for name in ("x.npz", "x.npy", "x.h5", "train-images-idx3-ubyte")),
        ["sample", str(trained), "--prompts", no_file],
        ["sample", str(trained), "--embeddings", "x.npz"],
        ["sample", str(trained), "--embeddings", "x.h5"],
        ["sample", str(trained), "--guide", "auto", "--guide-option", f"weak={no_file}"],
    ):
        assert "and no file" in answer(*arguments), arguments
    Path("run").mkdir()
    os.symlink("../a", "run/metrics.jsonl")
    os.symlink("../a", "run/run.json")
    assert "and no file" in answer("plot", "run")
    for read in (read_metrics, read_record):
        with pytest.raises(TinyDDPMError, match="and no file"):
            read(Path(no_file))


@pytest.mark.parametrize(
    "shape", ["(2**70, 2)", "(-5, 2)", "(1180591620717411303424, 2)", "(5, -2)", "(4611686018427387904, 4)"]
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_shapes_of_arrays(tmp_path: Path, shape: str, suffix: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(40)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        path.write_bytes(content)
    else:
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("points.npy", content)
    assert f"{path}: cannot be read (" in answer("train", "--data", str(path))


def test_a_path_that_is_no_unicode(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has names in Unicode alone")
    np.save(folder / "x.npy", np.zeros((20, 2), np.float32))
    said = answer("train", "--preset", "toy", "--data", str(folder / "x.npy"), "--out", str(tmp_path / "r"))
    assert "is no Unicode text" in said
    assert "latin\\udce9/a.png: give one" in answer("info", str(folder / "a.png"))


def test_a_header_of_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is not an HDF5 file"):
        rewritten(tmp_path / "a.h5", tmp_path / "b.h5", lambda header: None)
