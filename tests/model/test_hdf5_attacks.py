"""HDF5 files that are no plain data: each kind is refused before anything is read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.refusals import refusal
from tinyddpm import hdf5
from tinyddpm.errors import DataError
from tinyddpm.hdf5 import checked_datasets, import_h5py, open_file

h5py = import_h5py()


class TestAttacks:
    """Each is refused before a byte of data is read, in a file that holds a plain dataset too."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "attack.h5"
        with h5py.File(path, "w", libver="latest") as file:
            file["plain"] = np.arange(10)
        (tmp_path / "secret").write_bytes(b"the secret")
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["data"] = np.arange(10)
        return path

    def test_plain_data_is_not_refused(self, path: Path) -> None:
        """Compressed, shuffled and resizable datasets neither: these are what data sets come in."""
        with h5py.File(path, "r+") as file:
            kinds = {"gzip": {"compression": "gzip", "shuffle": True}, "lzf": {"compression": "lzf"}, "plain": {}}
            for name, options in kinds.items():
                file.create_dataset(f"a/{name}", data=np.zeros((500, 8, 8)), maxshape=(None, 8, 8), **options)
            file.create_dataset("fletcher", data=np.zeros((30, 7)), chunks=(7, 5), fletcher32=True)
            file["flags"] = np.array([True, False])
        with open_file(path, DataError) as file:
            assert set(checked_datasets(file, DataError)) == {
                "plain", "a/gzip", "a/lzf", "a/plain", "fletcher", "flags",
            }  # fmt: skip

    def test_links(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file["outside"] = h5py.ExternalLink("other.h5", "/data")
            file["soft"] = h5py.SoftLink("/plain")
        message = refusal(path)
        assert "'outside' is a soft or external link; 'soft' is a soft or external link" in message

    def test_external_storage(self, path: Path) -> None:
        secret = str(path.with_name("secret"))
        with h5py.File(path, "r+") as file:
            file.create_dataset("a/b", (10,), "u1", external=[(secret, 0, 10)])
            assert file["a/b"][()].tobytes() == b"the secret"
        assert "'a/b' keeps its data in another file" in refusal(path)

    def test_virtual_dataset(self, path: Path) -> None:
        layout = h5py.VirtualLayout(shape=(10,), dtype="i8")
        layout[:] = h5py.VirtualSource("other.h5", "data", shape=(10,))
        with h5py.File(path, "r+") as file:
            file.create_virtual_dataset("v", layout)
            assert file["v"][()].tolist() == list(range(10))
        assert "'v' is virtual" in refusal(path)

    @pytest.mark.parametrize(
        "options",
        [
            {"shape": (2**50,), "dtype": "f8"},
            {"shape": (2**50,), "dtype": "f8", "chunks": (2**17,)},
            {"shape": (2**50,), "dtype": "f8", "chunks": (2**17,), "compression": "gzip"},
        ],
        ids=["contiguous", "chunked", "compressed"],
    )
    def test_huge_declaration(self, path: Path, options: dict[str, Any]) -> None:
        with h5py.File(path, "r+") as file:
            bomb = file.create_dataset("bomb", **options)
            if bomb.chunks:
                bomb[:10] = 1
        assert os.path.getsize(path) < 2**21
        assert "'bomb' declares" in refusal(path)

    def test_half_written_data(self, path: Path) -> None:
        """A chunk that was never written reads as zeros, which nobody stored."""
        with h5py.File(path, "r+") as file:
            file.create_dataset("half", (12, 11), "f8", chunks=(10, 10))[:10] = 1
        assert "'half' declares 3200 bytes but stores 1600" in refusal(path)

    def test_more_stored_than_the_file_holds(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As where chunks share their bytes, which takes a forged index: simulated by a smaller file."""
        with open_file(path, DataError) as file:
            shown = type(
                "File", (), {"filename": file.filename, "id": type("Id", (), {"get_filesize": lambda _: 79})()}
            )
            monkeypatch.setattr(hdf5, "_walk", lambda _: [("plain", file["plain"])])
            with pytest.raises(DataError, match="its datasets claim 80 bytes of a file of 79"):
                checked_datasets(shown, DataError)

    def test_cycle_of_hard_links(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file["a/b/c"] = file["a"] if "a" in file else file.create_group("a")
            file["root"] = file["/"]
        message = refusal(path)
        assert "'root' is a second path" in message
        assert "'a/b/c' is a second path" in message

    def test_depth_and_number_of_objects(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with h5py.File(path, "r+") as file:
            file.create_group("/".join("d" * 100))
        assert "is nested more than 16 deep" in refusal(path)
        monkeypatch.setattr(hdf5, "MAX_OBJECTS", 5)
        assert "is one object too many" in refusal(path)

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda file: file.create_dataset("x", data=["text", "of any length"]), "holds object"),
            (lambda file: file.create_dataset("x", (3,), h5py.vlen_dtype(np.int32)), "holds object"),
            (lambda file: file.create_dataset("x", data=np.zeros(3, [("a", "f4"), ("b", "i8")])), "holds [('a'"),
            (lambda file: file.create_dataset("x", (3,), h5py.ref_dtype), "holds object"),
            (lambda file: file.create_dataset("x", data=np.array([b"abc"])), "holds |S3"),
            (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "has no shape"),
            (lambda file: file.create_dataset("x", data=np.zeros(64), scaleoffset=2), "has filters number 6"),
            (lambda file: file.__setitem__("x", np.dtype("f4")), "is a named type"),
            (
                lambda file: h5py.h5d.create(file.id, b"x", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((3,))),
                "is of a type that NumPy does not have",
            ),
        ],
        ids=["object", "vlen", "compound", "reference", "bytes", "null", "filter", "named type", "time"],
    )
    def test_what_is_not_plain_numbers(self, path: Path, make: Callable[[Any], Any], reason: str) -> None:
        with h5py.File(path, "r+") as file:
            make(file)
        assert f"'x' {reason}" in refusal(path)

    def test_no_other_file_is_opened(self, path: Path) -> None:
        """The sources are pipes without a writer: opening one would not return, so a process of its own is asked."""
        os.mkfifo(path.with_name("pipe"))
        layout = h5py.VirtualLayout(shape=(10,), maxshape=(None,), dtype="i8")
        source = h5py.VirtualSource("pipe", "data", shape=(10,), maxshape=(None,))
        layout[0 : h5py.h5s.UNLIMITED] = source[0 : h5py.h5s.UNLIMITED]
        with h5py.File(path, "r+") as file:
            file.create_virtual_dataset("v", layout)
            file["link"] = h5py.ExternalLink("pipe", "/data")
            file.create_dataset("raw", (10,), "u1", external=[(str(path.with_name("pipe")), 0, 10)])
        code = (
            "import sys; from tinyddpm.hdf5 import *; from tinyddpm.errors import DataError\n"
            "with open_file(sys.argv[1], DataError) as file:\n"
            "    try: checked_datasets(file, DataError)\n"
            "    except DataError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True
        )
        assert all(f"{name!r} " in done.stdout for name in ("v", "link", "raw"))

    def test_only_the_first_few_problems_are_spelled_out(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            for i in range(9):
                file[f"soft_{i}"] = h5py.SoftLink("/plain")
        message = refusal(path)
        assert message.count("is a soft or external link") == 5
        assert message.endswith("and 4 more")

    def test_names_with_line_breaks_stay_in_one_line(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file["two\nlines"] = h5py.SoftLink("/plain")
        assert r"two\nlines" in refusal(path)

    def test_filter_plugins_are_never_loaded(self) -> None:
        """In a fresh process: the setting that disables plugins is there when h5py, and so HDF5, is first loaded."""
        code = (
            "import sys, os; from tinyddpm.hdf5 import import_h5py\n"
            "assert 'h5py' not in sys.modules and 'numpy' not in sys.modules\n"
            "class Watch:\n"
            "    def find_spec(self, name, *_):\n"
            "        if name == 'h5py': print(os.environ.get('HDF5_PLUGIN_PRELOAD'))\n"
            "sys.meta_path.insert(0, Watch())\n"
            "h5py = import_h5py(); print(h5py.__name__)\n"
        )
        environment = {**os.environ, "HDF5_PLUGIN_PATH": "/nowhere", "HDF5_PLUGIN_PRELOAD": "something"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["::", "h5py"]
