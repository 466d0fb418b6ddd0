"""What the tests of figures share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are written while a test runs, as matplotlib has them."""
    figure = pytest.importorskip("matplotlib.figure", reason="needs the figures extra").Figure
    save, found = figure.savefig, []

    def savefig(self: Any, *arguments: Any, **options: Any) -> None:
        found.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(figure, "savefig", savefig)
    return found
