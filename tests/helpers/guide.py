"""The folder of the guide."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "tinyddpm" / "report" / "book" / "guide"
