"""What tests of this folder share."""

from __future__ import annotations

import pytest

from helpers.peers import import_peer


@pytest.fixture(scope="module")
def diffusers(request: pytest.FixtureRequest) -> None:
    """Give a module of tests its `diffusers`. The import takes seconds, so it waits for the first test."""
    request.module.diffusers = import_peer("diffusers", "0.42")
