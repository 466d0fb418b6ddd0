"""Reading a run folder for a report. Missing files are skipped, and each damaged file becomes a note."""

from __future__ import annotations

import base64
import glob
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tinyddpm.backend import load_backend
from tinyddpm.errors import DataError, TinyDDPMError
from tinyddpm.files import check_file
from tinyddpm.model.checkpoint import CheckpointHeader, read_checkpoint_header
from tinyddpm.model.config import parse_toml
from tinyddpm.model.load import CHECKPOINT, layout_of
from tinyddpm.report.metrics import METRICS, Logged, read_metrics
from tinyddpm.training.record import RECORD, read_record

MOST_BYTES = 8 << 20
"""Largest picture or JSON file that is read; larger ones are skipped."""

MOST_GRIDS, MOST_EVALUATIONS = 24, 8
"""Most grids drawn during training that are shown, evenly spread, and most evaluations, the first by name."""

T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """A picture embedded in a page: its address, a data URL with all its bytes, and its size in pixels."""

    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Evaluation:
    """A report of `tinyddpm evaluate`, and its pictures of the closest pairs by the value of the varied setting."""

    found: dict[str, Any]
    closest: dict[str, Picture]


@dataclass
class Run:
    """The contents of a run folder.

    Attributes:
        name: name of the run, unique in a report.
        folder: the folder.
        logged: the metrics.
        config: the tables of `config.toml`.
        header: header of the checkpoint; None if there is no checkpoint yet.
        layout: path and shape of each parameter.
        parts: the entries of `run.json`.
        grids: pictures drawn during training, by step.
        samples: picture drawn at the end.
        denoising: animation of the denoising.
        likelihood: report of `tinyddpm nll`.
        evaluations: reports of `tinyddpm evaluate`.
        notes: one line for each file that could not be read.
    """

    name: str
    folder: Path
    logged: Logged
    config: dict[str, Any] = field(default_factory=dict)
    header: CheckpointHeader | None = None
    layout: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    grids: dict[int, Picture] = field(default_factory=dict)
    samples: Picture | None = None
    denoising: Picture | None = None
    likelihood: dict[str, Any] | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_run(name: str, folder: Path, nll: Path | None = None) -> Run:
    """Read the run in `folder`.

    Args:
        name: name of the run.
        folder: a run folder, which has metrics.
        nll: a report of `tinyddpm nll`; by default `nll.json` or `nll/nll.json` in the folder, if there is one.

    Raises:
        DataError: `folder` is no run folder, or `nll` cannot be read.
    """
    run = Run(name, folder, read_metrics(folder / METRICS))

    def kept(read: Callable[[], T], otherwise: T) -> T:
        """Return the result of `read`; if it raises a TinyDDPMError, add a note and return `otherwise`."""
        try:
            return read()
        except TinyDDPMError as error:
            run.notes.append(str(error))
            return otherwise

    def picture(path: Path) -> Picture | None:
        return kept(lambda: read_picture(path), None) if path.exists() else None

    run.config = kept(lambda: _read_settings(folder / "config.toml"), {})
    run.parts = kept(lambda: read_record(folder / RECORD), [])
    if (folder / CHECKPOINT).exists():
        run.header = kept(lambda: read_checkpoint_header(folder / CHECKPOINT), None)
        if run.header:
            header = run.header
            run.layout = kept(lambda: list(layout_of(load_backend())(header)), [])
    grids = {step: picture(path) for step, path in _grids(folder / "samples")}
    run.grids = {step: grid for step, grid in grids.items() if grid}
    run.samples, run.denoising = picture(folder / "samples.png"), picture(folder / "denoising.gif")
    if nll:
        run.likelihood = read_json(nll)
    else:
        found = next((path for path in (folder / "nll.json", folder / "nll" / "nll.json") if path.exists()), None)
        run.likelihood = kept(lambda: read_json(found), None) if found else None
    for path in sorted((folder / "evaluations").glob("*.json"))[:MOST_EVALUATIONS]:
        if evaluation := kept(partial(read_json, path), None):
            start = f"{path.stem}-closest"
            drawn = {path.stem.removeprefix(start): picture(path) for path in _pictures(path.parent, start)}
            closest = {value.removeprefix("-"): shown for value, shown in drawn.items() if shown}
            run.evaluations.append(Evaluation(evaluation, closest))
    return run


def _pictures(folder: Path, start: str) -> list[Path]:
    """Return the PNG files whose names start with `start`, shorter names first, so that numbers are in order."""
    return sorted(folder.glob(f"{glob.escape(start)}*.png"), key=lambda path: (len(path.name), path.name))


def _grids(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of at most `MOST_GRIDS` grids drawn during training, in order."""
    named = ((re.fullmatch(r"step_(\d{1,12})\.png", path.name), path) for path in folder.glob("step_*.png"))
    found = sorted((int(match[1]), path) for match, path in named if match)
    return spread(found, MOST_GRIDS)


def spread(items: list[T], most: int) -> list[T]:
    """Return at most `most` items, evenly spread, the first and the last included."""
    if len(items) <= most:
        return items
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]


def read_picture(path: Path) -> Picture:
    """Read a PNG or GIF file for embedding in a page.

    Raises:
        DataError: the file cannot be read, is no such picture, or is larger than `MOST_BYTES`.
    """
    from PIL import Image

    content = _read(path)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "GIF")) as image:
            image.load()
            kind, (width, height) = str(image.format).lower(), image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no picture that can be shown: {error}") from error
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        DataError: the file cannot be read, is larger than `MOST_BYTES`, or contains no JSON object.
    """
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: it is no JSON text") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no report: it holds no JSON object")
    return found


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(_read(path).decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is no TOML file: {error}") from error


def _read(path: Path) -> bytes:
    """Return the contents of a file; raise DataError if it cannot be read or is larger than `MOST_BYTES`."""
    try:
        check_file(path)
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise DataError(f"{path} is larger than {MOST_BYTES >> 20} MiB, and is left out")
    return content
