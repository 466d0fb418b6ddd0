"""The source as the book reads it, which takes a few seconds."""

from __future__ import annotations

import pytest

from tinyddpm.report.book.library import Library


@pytest.fixture(scope="session")
def library() -> Library:
    return Library()
