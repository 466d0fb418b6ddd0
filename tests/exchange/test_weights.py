"""Weights alone, out of a run and into another."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers import command_line
from helpers.command_line import NARROW, TWO_STEPS, says
from tinyddpm.backend import load_backend
from tinyddpm.errors import CheckpointError, ConfigError
from tinyddpm.exchange.arrays import read_arrays, read_metadata, read_shapes, write_arrays
from tinyddpm.model.config import preset
from tinyddpm.model.load import load_model
from tinyddpm.model.model import Model

pytestmark = pytest.mark.slow

safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="needs the extra exchange")

SUFFIXES = pytest.mark.parametrize("suffix", [".safetensors", ".npz"])

export_fails, import_fails = partial(command_line.fails, "export"), partial(command_line.fails, "import")


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors_numpy.save_file(arrays, path)
    return path


def weights_of(run: Path, raw: bool) -> np.ndarray:
    return load_model(run, load_backend("numpy"), raw)[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exchange") / "run"
    says("train", *TWO_STEPS, *NARROW, "--labels", "--out", folder)
    return folder


@SUFFIXES
@pytest.mark.parametrize("raw", [False, True])
def test_there_and_back_has_the_same_bits(trained: Path, tmp_path: Path, suffix: str, raw: bool) -> None:
    file = tmp_path / f"w{suffix}"
    says("export", trained, file, *(["--raw"] if raw else []))
    says("import", file, "--like", trained, "--out", tmp_path / "back")
    wanted = weights_of(trained, raw)
    assert weights_of(tmp_path / "back", False).tobytes() == wanted.tobytes()
    assert weights_of(tmp_path / "back", True).tobytes() == wanted.tobytes()
    assert wanted.tobytes() != weights_of(trained, not raw).tobytes()


def test_weights_and_their_average_come_from_a_file_each(trained: Path, tmp_path: Path) -> None:
    says("export", trained, tmp_path / "average.npz")
    says("export", trained, tmp_path / "raw.npz", "--raw")
    both = ["--trained", tmp_path / "raw.npz", "--like", trained]
    says("import", tmp_path / "average.npz", *both, "--out", tmp_path / "back")
    for raw in (False, True):
        assert weights_of(tmp_path / "back", raw).tobytes() == weights_of(trained, raw).tobytes()
    assert json.loads(says("info", tmp_path / "back", "--json"))["imported"]["trained"] == str(tmp_path / "raw.npz")


def test_a_file_is_by_path(trained: Path, tmp_path: Path) -> None:
    """As other programs read it."""
    says("export", trained, tmp_path / "w.safetensors")
    says("export", trained, tmp_path / "w.npz")
    found, same = safetensors_numpy.load_file(tmp_path / "w.safetensors"), np.load(tmp_path / "w.npz")
    model, flat, _ = load_model(trained, load_backend("numpy"))
    views = model.layout.views(flat, np)
    assert set(found) == set(same) == set(views)
    assert all(np.array_equal(found[path], view) and np.array_equal(same[path], view) for path, view in views.items())
    assert found["conv_in/w"].shape == (3, 3, 1, 8)


def test_an_import_is_a_run(trained: Path, tmp_path: Path) -> None:
    """That draws what the first draws, and on which commands work; `info` says where it came from."""
    says("export", trained, tmp_path / "w.npz")
    back = tmp_path / "back"
    says("import", tmp_path / "w.npz", "--like", trained, "--out", back)
    for run, out in ((trained, "a"), (back, "b")):
        says("sample", run, "--count", "3", "--npz", "--out", tmp_path / out)
    a, b = (np.load(tmp_path / out / "samples.npz") for out in "ab")
    assert np.array_equal(a["images"], b["images"])
    told = json.loads(says("info", back, "--json"))
    assert told["imported"]["from"] == str(tmp_path / "w.npz")
    assert len(told["imported"]["sha256"]) == 64
    assert f"imported      from {tmp_path / 'w.npz'}, format weights alone, sha256 " in says("info", back)
    assert "imported" not in json.loads(says("info", trained, "--json"))
    says("edit", "from", back, "digits:3", "--count", "2", "--out", tmp_path / "edited")
    says("nll", back, "--count", "4")
    says("evaluate", back, "--count", "20", "--features", "pixels", "--sample-steps", "2")


def test_a_preset_has_settings_too(tmp_path: Path) -> None:
    says("import", initial(tmp_path), "--like", "toy", "--out", tmp_path / "run")
    assert json.loads(says("info", tmp_path / "run", "--json"))["sample_shape"] == [2]


def initial(folder: Path) -> Path:
    """The weights that the preset toy starts from, in half precision."""
    chosen = preset("toy")
    layout = Model(chosen.config, chosen.sample_shape, (), load_backend("numpy")).layout
    views = layout.views(layout.initialise(0), np)
    return save(folder / "toy.safetensors", {path: view.astype(np.float16) for path, view in views.items()})


@SUFFIXES
def test_all_that_differs_is_listed_at_once(trained: Path, tmp_path: Path, suffix: str) -> None:
    says("export", trained, tmp_path / "w.npz")
    arrays = dict(np.load(tmp_path / "w.npz"))
    del arrays["norm_out/shift"]
    arrays |= {"conv_in/w": np.zeros((5, 3, 1, 8), np.float32), "more": np.zeros(2, np.float32)}
    error = import_fails(save(tmp_path / f"x{suffix}", arrays), "--like", trained, "--out", tmp_path / "r")
    assert "conv_in/w is 5x3x1x8 and not 3x3x1x8; norm_out/shift is missing; more is surplus" in error
    assert "3 of" in error
    assert not (tmp_path / "r").exists()


class Runs:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


def test_nothing_that_is_read_runs(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{"conv_in/w": np.array([Runs()], object)})
    assert "Python objects" in import_fails(path, "--like", trained, "--out", tmp_path / "r")
    for name in "x.safetensors", "x.npz":
        (tmp_path / name).write_bytes(pickle.dumps(Runs()))
        assert "cannot be read as weights" in import_fails(tmp_path / name, "--like", trained, "--out", tmp_path / "r")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Runs()))
    assert "x.pkl has no known format: give FILE.saf" in import_fails(tmp_path / "x.pkl", "--out", tmp_path / "r")


def header(tensors: object) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


HOSTILE = {
    "long header": (2**62).to_bytes(8, "little") + b"{}",
    "header without an end": (1000).to_bytes(8, "little") + b"{" * 1000,
    "beyond the file": header({"conv_in/w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    "overflow": header({"conv_in/w": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 0]}}),
    "another type": header({"conv_in/w": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}) + bytes(8),
    "bfloat16": header({"conv_in/w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}) + bytes(2),
    "cut": header({"conv_in/w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}) + bytes(3),
    "empty": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_refused(trained: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert str(path) in import_fails(path, "--like", trained, "--out", tmp_path / "r")


@SUFFIXES
def test_damaged_numbers_are_refused(tmp_path: Path, suffix: str) -> None:
    """The header is whole, the numbers behind it are not: an `.npz` has a checksum, the other a length."""
    path, shapes = save(tmp_path / f"x{suffix}", {"a": np.ones(1000, np.float32)}), {"a": (1000,)}
    whole = path.read_bytes()
    assert read_shapes(path) == shapes
    half = len(whole) // 2
    path.write_bytes(whole[:half] + (b"?" + whole[half + 1 :] if suffix == ".npz" else b""))
    with pytest.raises(CheckpointError, match=rf"x{suffix} cannot be read as weights: .*; save it anew"):
        read_arrays(path, shapes)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_metadata(path)


def test_files_are_written_by_their_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is refused, and so is one whose library is not installed."""
    with pytest.raises(
        ConfigError, match=r"x\.pt has no suffix of a file of weights: give one that ends in \.safetensors"
    ):
        write_arrays(tmp_path / "x.pt", {})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ConfigError, match=r"run pip install 'tinyddpm\[exchange\]', or exchange \.npz files"):
        write_arrays(tmp_path / "x.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_declares_petabytes_is_not_read(trained: Path, tmp_path: Path) -> None:
    says("export", trained, tmp_path / "w.npz")
    shape = "{'descr': '<f4', 'fortran_order': False, 'shape': (1125899906842624,), }"
    npy = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + shape.ljust(117).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "w.npz", "a") as archive:
        archive.writestr("more.npy", npy)
    with np.load(tmp_path / "w.npz") as file:
        every = len(file.files)
    error = import_fails(tmp_path / "w.npz", "--like", trained, "--out", tmp_path / "r")
    assert f"1 of {every} arrays differ: more is surplus" in error


def test_what_is_not_said_or_there_is_asked_for(trained: Path, tmp_path: Path) -> None:
    says("export", trained, tmp_path / "w.npz")
    assert "--like RUN" in import_fails(tmp_path / "w.npz", "--out", tmp_path / "r")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "mine").touch()
    assert "is not empty" in import_fails(tmp_path / "w.npz", "--like", trained, "--out", tmp_path / "r")
    assert "No such file" in import_fails(tmp_path / "none.npz", "--like", trained, "--out", tmp_path / "s")


def test_weights_that_are_not_finite_are_no_run(trained: Path, tmp_path: Path) -> None:
    says("export", trained, tmp_path / "w.npz")
    arrays = dict(np.load(tmp_path / "w.npz"))
    arrays["norm_out/shift"][0] = np.nan
    error = import_fails(save(tmp_path / "x.npz", arrays), "--like", trained, "--out", tmp_path / "r")
    assert "norm_out/shift" in error
