"""Test distributions with entry points."""

from __future__ import annotations

from pathlib import Path


class Site:
    """A folder on the import path, into which test distributions are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, distribution: str, version: str, points: dict[str, dict[str, str]], **modules: str) -> None:
        """Write a distribution's metadata with entry points by group, and its modules by name."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        sections = (
            f"[tinyddpm.{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
            for group, named in points.items()
        )
        (info / "entry_points.txt").write_text("\n".join(sections))
        for module, source in modules.items():
            (self.folder / f"{module}.py").write_text(source)
