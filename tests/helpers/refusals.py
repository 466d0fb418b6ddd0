"""Errors of refused HDF5 files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinyddpm.errors import DataError
from tinyddpm.hdf5 import checked_datasets, open_file


def one_line(caught: pytest.ExceptionInfo[BaseException], path: Path) -> str:
    """Return the message of an error, after checking that it names the file and is a single line."""
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def refusal(path: Path) -> str:
    with open_file(path, DataError) as file, pytest.raises(DataError) as caught:
        checked_datasets(file, DataError)
    return one_line(caught, path)
