"""Places that take no files, what killed processes left half written, and rows of arrays that are kept in files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tinyddpm.errors import DataError
from tinyddpm.files import DAY, check_folder, check_target, claimed, replacing, sweep
from tinyddpm.kept import KeptRows


def test_a_claimed_folder_is_nobody_else_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes it at the same moment; and what stays empty is removed."""
    base = tmp_path / "a" / "samples"
    with claimed(base) as first, claimed(base) as second:
        assert (first, second) == (base, base.with_name("samples-2"))
        (first / "x").touch()
    assert [*base.parent.iterdir()] == [first]
    with pytest.raises(DataError, match=r"^cannot write into .*/x/y: .*/x is no folder"), claimed(first / "x" / "y"):
        pass
    names = iter([first, base.with_name("samples-2")])
    monkeypatch.setattr("tinyddpm.files.unused", lambda base: next(names))
    with claimed(base) as other:
        assert other == base.with_name("samples-2")


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for target in (tmp_path / "a" / "x.npz", tmp_path / "a" / "b" / "x.npz"):
        line = f"^cannot write {target}: {target.parent} is no folder; choose another place$"
        with pytest.raises(DataError, match=line), replacing(target):
            pass


def test_places_that_take_no_files_are_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the place of a folder, however far above; and a folder that is read-only. Nothing is made."""
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "a" / "b", Path("here"), Path()):
        check_folder(folder)
        check_target(folder / "x.png")
    for folder in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(DataError, match=rf"^cannot write into {folder}: {tmp_path}/file is no folder; choose anot"):
            check_folder(folder)
    with pytest.raises(DataError, match=f"^cannot write {tmp_path}: it is a folder; choose another place$"):
        check_target(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(DataError, match=rf"^cannot write into {tmp_path}/a/b: {tmp_path} is read-only; choose another"):
        check_target(tmp_path / "a" / "b" / "x.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_old_unfinished_files_are_swept(tmp_path: Path) -> None:
    """In folders within too; a file of another name stays, however old."""
    folder = tmp_path / "a"
    folder.mkdir()
    names = ["a/.x.npz.01.tmp", ".x.npz.02.tmp", ".young.03.tmp", "x.npz", ".hidden"]
    for name in names:
        (tmp_path / name).touch()
        if "young" not in name:
            os.utime(tmp_path / name, (0, time.time() - DAY - 60))
    sweep(tmp_path)
    assert [name for name in names if (tmp_path / name).exists()] == names[2:]


def test_rows_are_found_in_the_files_that_have_them(tmp_path: Path) -> None:
    """Of two batches of two rows, the last row, which the second file alone has."""
    kept = KeptRows(tmp_path, {"seed": 0})
    keys = kept.keys(np.arange(4))
    for batch in (slice(0, 2), slice(2, 4)):
        kept.add(keys[batch], {"x": np.arange(4.0)[batch]})
    ((places, arrays),) = kept.find(["of no row", keys[3]])
    assert (places.tolist(), arrays["x"].tolist()) == ([1], [3.0])
    assert list(KeptRows(tmp_path, {"seed": 1}).find(keys)) == []
