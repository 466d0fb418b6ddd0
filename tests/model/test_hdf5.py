"""HDF5 files: what is written comes back bit for bit, and what is not plain data is refused with one line."""

from __future__ import annotations

import hashlib
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.refusals import one_line
from tinyddpm import hdf5
from tinyddpm.errors import CheckpointError, DataError
from tinyddpm.hdf5 import (
    checked_datasets,
    import_h5py,
    listed,
    open_file,
    read_file,
    read_header,
    read_outline,
    write_file,
)

h5py = import_h5py()

Arrays = dict[str, np.ndarray[Any, Any]]
Read = Callable[[Path, type[CheckpointError]], object]
HEADER = {"step": 7, "name": "ünï", "nested": [1, 2.5, None, {"a": True}]}

FORMS = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
NUMBERS = st.sampled_from(["<f4", "<f8", "<f2", "|u1", "<i8", "|b1"])


@st.composite
def trees(draw: st.DrawFn) -> Arrays:
    """Arrays of any numeric type and shape, empty and scalar too, in two levels of folders."""
    names = draw(st.sets(st.from_regex(r"[a-z0-9_]{1,5}/[a-z0-9_ü]{1,5}", fullmatch=True), max_size=6))
    finite = {"allow_nan": False, "allow_infinity": False}
    return {
        name: draw(hnp.arrays(kind, draw(FORMS), elements=finite if "f" in kind else None))
        for name in sorted(names)
        for kind in [draw(NUMBERS)]
    }


def forms(arrays: Arrays) -> Callable[[dict[str, Any]], dict[str, tuple[tuple[int, ...], str]]]:
    return lambda header: {name: (array.shape, array.dtype.str) for name, array in arrays.items()}


def assert_same(found: Arrays, written: Arrays) -> None:
    assert list(found) == list(written)
    for name, array in written.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        assert found[name].tobytes() == array.tobytes()


@pytest.fixture
def arrays(rng: np.random.Generator) -> Arrays:
    """Enough for each kind of storage: chunked, scalar and empty."""
    weights = {f"weights/conv_{i}/w": rng.normal(size=(3, 3, 2, i + 1)).astype(np.float32) for i in range(3)}
    return {**weights, "scalar": np.array(0.5, np.float32), "empty": np.zeros((0, 3), np.float32)}


@pytest.fixture
def saved(tmp_path: Path, arrays: Arrays) -> Path:
    path = tmp_path / "good.h5"
    write_file(path, arrays, HEADER, CheckpointError)
    return path


class TestRoundTrip:
    @pytest.mark.slow
    @given(arrays=trees())
    @settings(max_examples=30)
    def test_is_exact(self, tmp_path_factory: pytest.TempPathFactory, arrays: Arrays) -> None:
        """For all numeric arrays without NaN: names, order, shapes, types and bits survive, and so does the header."""
        path = tmp_path_factory.mktemp("hdf5") / "any.h5"
        write_file(path, arrays, HEADER, CheckpointError)
        header, found = read_file(path, CheckpointError, forms(arrays))
        assert header == HEADER
        assert_same(found, arrays)

    def test_of_arrays_that_are_not_contiguous(self, tmp_path: Path, rng: np.random.Generator) -> None:
        arrays = {"columns": rng.normal(size=(4, 6))[:, ::2], "transposed": rng.normal(size=(4, 6)).T}
        write_file(tmp_path / "a.h5", arrays, {}, CheckpointError)
        assert_same(read_file(tmp_path / "a.h5", CheckpointError, forms(arrays))[1], arrays)

    def test_order_is_that_of_what_is_expected(self, saved: Path, arrays: Arrays) -> None:
        backwards = dict(reversed(arrays.items()))
        assert_same(read_file(saved, CheckpointError, forms(backwards))[1], backwards)

    def test_same_content_makes_the_same_bytes(self, saved: Path, arrays: Arrays) -> None:
        again = saved.with_name("again.h5")
        write_file(again, arrays, HEADER, CheckpointError)
        assert again.read_bytes() == saved.read_bytes()

    def test_skipped_arrays_are_checked_for_but_not_read(self, saved: Path, arrays: Arrays) -> None:
        _, found = read_file(saved, CheckpointError, forms(arrays), skip=("weights/",))
        assert list(found) == ["scalar", "empty"]
        with pytest.raises(CheckpointError, match="'weights/more' is missing"):
            read_file(saved, CheckpointError, forms({**arrays, "weights/more": arrays["scalar"]}), skip=("weights/",))

    def test_header_alone(self, saved: Path) -> None:
        assert read_header(saved, CheckpointError) == read_outline(saved, CheckpointError)[0] == HEADER

    def test_every_dataset_of_some_size_has_a_checksum_of_its_own(self, saved: Path) -> None:
        with h5py.File(saved) as file:
            datasets = checked_datasets(file, DataError)
            assert len(datasets) == 7
            assert all(dataset.fletcher32 for dataset in datasets.values() if dataset.ndim and dataset.size)


class TestAccidents:
    def test_truncated_at_any_length(self, saved: Path, arrays: Arrays) -> None:
        """At each of 80 lengths spread over the file, the last byte's loss among them."""
        whole, path = saved.read_bytes(), saved.with_name("cut.h5")
        for length in {*np.linspace(0, len(whole) - 1, 80, dtype=int).tolist()}:
            path.write_bytes(whole[:length])
            with pytest.raises(CheckpointError) as caught:
                read_file(path, CheckpointError, forms(arrays))
            one_line(caught, path)

    @pytest.mark.slow
    @pytest.mark.parametrize("run", [1, 16])
    def test_flipped_bits_are_never_silently_wrong(
        self, saved: Path, arrays: Arrays, rng: np.random.Generator, run: int
    ) -> None:
        """One bit at, or `run` bytes from, each of 200 random places: an error, or else the very content written."""
        whole, path, refused = saved.read_bytes(), saved.with_name("flipped.h5"), 0
        for place in rng.choice(len(whole) - run, 200, replace=False):
            content = bytearray(whole)
            if run == 1:
                content[place] ^= 1 << int(rng.integers(8))
            else:
                content[place : place + run] = rng.bytes(run)
            path.write_bytes(content)
            try:
                header, found = read_file(path, CheckpointError, forms(arrays))
            except CheckpointError:
                refused += 1
            else:
                assert header == HEADER
                assert_same(found, arrays)
        assert refused > 100

    def test_wrong_values_behind_right_checksums(self, saved: Path, arrays: Arrays) -> None:
        """Fletcher-32 is recomputed on writing, as it is blind to some errors; SHA-256 tells."""
        with h5py.File(saved, "r+") as file:
            file["weights/conv_1/w"][0, 0, 0, 0] += 1
            file["scalar"][()] = 0.75
        with pytest.raises(CheckpointError) as caught:
            read_file(saved, CheckpointError, forms(arrays))
        message = one_line(caught, saved)
        assert "'weights/conv_1/w' is not what was written; 'scalar' is not what was written" in message

    def test_not_a_number_behind_right_hashes(self, tmp_path: Path) -> None:
        """Of a file that another program wrote: ours refuses to."""
        bad = {"a": np.array([1, np.nan], np.float32)}
        path = tmp_path / "nan.h5"
        path.write_bytes(hdf5._image(hdf5._with_manifest(bad, {})))
        with pytest.raises(CheckpointError, match="'a' holds NaN or infinity"):
            read_file(path, CheckpointError, forms(bad))

    @pytest.mark.parametrize("read", [read_header, read_outline])
    def test_changed_manifest(self, saved: Path, read: Read) -> None:
        with h5py.File(saved, "r+") as file:
            file["manifest"][20] ^= 1
        with pytest.raises(CheckpointError, match="its manifest has another hash"):
            read(saved, CheckpointError)

    def test_differences_are_reported_together_before_data_is_read(
        self, saved: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = forms({**arrays, "scalar": np.zeros((2,), np.float64), "more": arrays["scalar"]})({})
        del expected["empty"]
        monkeypatch.setattr(hdf5, "_read_arrays", lambda *_: pytest.fail("data was read"))
        with pytest.raises(CheckpointError) as caught:
            read_file(saved, CheckpointError, lambda header: expected)
        message = one_line(caught, saved)
        assert "'more' is missing" in message
        assert "'empty' is not expected" in message
        assert "'scalar' is <f4 () instead of <f8 (2,)" in message

    def test_callers_error_passes_through(self, saved: Path) -> None:
        def refuse(header: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
            raise ValueError(f"no such network as of step {header['step']}")

        with pytest.raises(ValueError, match="no such network as of step 7"):
            read_file(saved, CheckpointError, refuse)

    def test_what_cannot_be_opened(self, tmp_path: Path) -> None:
        text, empty, missing = tmp_path / "text.h5", tmp_path / "empty.h5", tmp_path / "missing.h5"
        text.write_text("this is a text\n" * 100)
        empty.touch()
        reasons = {text: "not an HDF5 file", empty: "not an HDF5 file", missing: "No such file", tmp_path: "directory"}
        for path, reason in reasons.items():
            with pytest.raises(DataError) as caught:
                open_file(path, DataError)
            assert reason in one_line(caught, path)

    @pytest.mark.parametrize("read", [read_header, read_outline])
    def test_foreign_file(self, tmp_path: Path, read: Read) -> None:
        """Also where its content would be refused: that it is foreign is the better answer."""
        path = tmp_path / "keras.h5"
        with h5py.File(path, "w") as file:
            file["names"] = ["a", "b"]
        with pytest.raises(CheckpointError, match="not written by tinyddpm: it has no 'manifest'"):
            read(path, CheckpointError)

    @pytest.mark.parametrize("read", [read_header, read_outline])
    @pytest.mark.parametrize("size", [0, 31])
    def test_manifest_without_its_hash(self, saved: Path, size: int, read: Read) -> None:
        with h5py.File(saved, "r+") as file:
            del file["manifest_sha256"]
            if size:
                file["manifest_sha256"] = np.zeros(size, np.uint8)
        with pytest.raises(CheckpointError, match="not written by tinyddpm, or its manifest is damaged"):
            read(saved, CheckpointError)

    @pytest.mark.parametrize("name", ["manifest", "manifest_sha256"])
    @pytest.mark.parametrize("attack", ["soft", "external", "raw", "group", "type", "text"])
    def test_the_header_is_read_from_plain_datasets_alone(self, saved: Path, name: str, attack: str) -> None:
        """Where one of the two is something else that HDF5 would follow, or no numbers, nothing is read."""
        kept = saved.with_name("kept.h5")
        kept.write_bytes(saved.read_bytes())
        with h5py.File(saved, "r+") as file:
            content = file[name][()]
            del file[name]
            if attack == "soft":
                file["elsewhere"], file[name] = content, h5py.SoftLink("/elsewhere")
            elif attack == "external":
                file[name] = h5py.ExternalLink(str(kept), f"/{name}")
            elif attack == "raw":
                saved.with_name("raw").write_bytes(content.tobytes())
                file.create_dataset(
                    name, content.shape, "u1", external=[(str(saved.with_name("raw")), 0, len(content))]
                )
            elif attack == "group":
                file.create_group(name)
            else:
                file[name] = np.dtype("u1") if attack == "type" else "text"
        with pytest.raises(CheckpointError, match="not written by tinyddpm, or its manifest is damaged"):
            read_header(saved, CheckpointError)

    @pytest.mark.parametrize("manifest", [b"[1]", b"{}", b"\xff", b"[" * 100_000, b'{"header": 3, "arrays": {}}'])
    @pytest.mark.parametrize("read", [read_header, read_outline])
    def test_manifest_of_another_kind(self, tmp_path: Path, manifest: bytes, read: Read) -> None:
        path = tmp_path / "odd.h5"
        with h5py.File(path, "w") as file:
            file["manifest"] = np.frombuffer(manifest, np.uint8)
            file["manifest_sha256"] = np.frombuffer(hashlib.sha256(manifest).digest(), np.uint8)
        with pytest.raises(CheckpointError) as caught:
            read(path, CheckpointError)
        one_line(caught, path)


class TestFailedWrites:
    """The file that was there stays as it was, nothing else is left, and the error is one line."""

    @pytest.fixture
    def unchanged(self, saved: Path) -> Any:
        before = saved.read_bytes()
        yield saved
        assert saved.read_bytes() == before
        assert list(saved.parent.iterdir()) == [saved]

    def fails(self, path: Path, arrays: Arrays | None = None) -> str:
        with pytest.raises(CheckpointError) as caught:
            write_file(path, arrays or {"a": np.ones(3, np.float32)}, {}, CheckpointError)
        return one_line(caught, path)

    @pytest.mark.parametrize("call", ["replace", "fsync"])
    def test_when_the_system_refuses(self, unchanged: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, call, refuse)
        message = self.fails(unchanged)
        assert "No space left on device; what was there before is untouched" in message

    def test_when_interrupted(self, unchanged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_file(unchanged, {}, {}, CheckpointError)

    def test_when_what_was_written_reads_back_wrong(self, unchanged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that loses bits is simulated at the sync."""
        sync = os.fsync

        def corrupt(descriptor: int) -> None:
            os.pwrite(descriptor, b"\xff", os.fstat(descriptor).st_size // 2)
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", corrupt)
        assert "is damaged" in self.fails(unchanged, {"a": np.zeros(10_000, np.float32)})

    @pytest.mark.parametrize(
        "other", [np.zeros(3, np.float32), np.ones(4, np.float32), np.ones(3)], ids=["values", "shape", "type"]
    )
    def test_when_something_else_is_read_back(
        self, unchanged: Path, monkeypatch: pytest.MonkeyPatch, other: np.ndarray[Any, Any]
    ) -> None:
        """A whole file, whose checksums are right: only the comparison tells."""
        image = hdf5._image
        monkeypatch.setattr(hdf5, "_image", lambda stored: image({**stored, "a": other}))
        assert "'a' is not what was written" in self.fails(unchanged)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_when_a_value_is_not_finite(self, unchanged: Path, value: float) -> None:
        message = self.fails(unchanged, {"good": np.ones(3), "bad": np.array([1, value], np.float32)})
        assert "'bad' holds NaN or infinity" in message
        assert "good" not in message.removeprefix(f"cannot save {unchanged}")

    def test_order_of_what_makes_it_safe(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file is on disk before it takes the old one's place, and the folder that names it after."""
        sync, replace, calls = os.fsync, os.replace, []

        def watch_sync(descriptor: int) -> None:
            calls.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
            sync(descriptor)

        def watch_replace(source: Path, target: Path) -> None:
            calls.append("replace")
            replace(source, target)

        monkeypatch.setattr(os, "fsync", watch_sync)
        monkeypatch.setattr(os, "replace", watch_replace)
        write_file(saved, {}, {}, CheckpointError)
        assert calls == ["sync file", "replace", "sync folder"]

    @pytest.mark.slow
    def test_when_the_disk_is_full(self, saved: Path) -> None:
        """A process that may write no file beyond 64 KiB reports it and lives on; with h5py writing, it would crash."""
        before = saved.read_bytes()
        code = (
            "import sys, numpy as np\n"
            "from tinyddpm.errors import CheckpointError\n"
            "from tinyddpm.hdf5 import write_file\n"
            "for n in (10**6, 3):\n"
            "    try: write_file(sys.argv[1], {'a': np.ones(n)}, {}, CheckpointError)\n"
            "    except CheckpointError as error: print(error)\n"
            "    else: print('saved', n)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, saved],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        first, second = done.stdout.splitlines()
        assert f"cannot save {saved}: File too large" in first
        assert second == "saved 3"
        assert saved.read_bytes() != before
        assert list(saved.parent.iterdir()) == [saved]

    def test_where_there_is_no_folder(self, tmp_path: Path) -> None:
        assert "No such file or directory" in self.fails(tmp_path / "none" / "a.h5")

    def test_onto_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a.h5").mkdir()
        assert "Is a directory" in self.fails(tmp_path / "a.h5")
        assert os.listdir(tmp_path) == ["a.h5"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_without_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        assert "Permission denied" in self.fails(tmp_path / "a.h5")

    def test_through_a_link_the_target_is_replaced(self, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        """The file is staged where the target is, which may be another disk; the link stays a link."""
        link = tmp_path_factory.mktemp("links") / "link.h5"
        link.symlink_to(saved)
        write_file(link, {"a": np.ones(3)}, {"new": 1}, CheckpointError)
        assert link.is_symlink()
        assert read_outline(saved, CheckpointError)[0] == {"new": 1}
        assert os.listdir(link.parent) == ["link.h5"]

    def test_what_a_killed_save_left_is_removed(self, saved: Path, arrays: Arrays) -> None:
        left = saved.with_name(".good.h5.0123abcd.tmp")
        others = [saved.with_name(name) for name in (".good.h5.notes.tmp", ".good.h5x.0123abcd.tmp", "good.h5.tmp")]
        for path in (left, *others):
            path.touch()
        write_file(saved, arrays, HEADER, CheckpointError)
        assert sorted(saved.parent.iterdir()) == sorted([saved, *others])


@given(st.lists(st.text("abc", min_size=1), max_size=9), st.integers(1, 9))
def test_listed_names_the_first_and_counts_all(problems: list[str], most: int) -> None:
    """For all lists: at most `most` problems are shown, and shown and counted together are all of them."""
    *shown, last = listed(problems, most).split("; ")
    if len(problems) > most:
        assert shown == problems[:most]
        assert last == f"and {len(problems) - most} more"
    else:
        assert [*shown, last] == (problems or [""])
