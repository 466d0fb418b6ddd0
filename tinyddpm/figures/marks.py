"""What made a file, kept in the file itself as one JSON object.

A PNG file has it as the text `tinyddpm`, an NPZ file as the string `tinyddpm`, a GIF file as its comment, and an SVG
file as its description. The same command makes the same bytes: no date is in it, and no name but those that the user
gave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from tinyddpm import __version__
from tinyddpm.conditions import Known
from tinyddpm.data.arrays import npz_text
from tinyddpm.data.image_files import opened
from tinyddpm.errors import CheckpointError, DataError
from tinyddpm.model.checkpoint import CheckpointHeader, read_checkpoint_header
from tinyddpm.model.load import checkpoint_file
from tinyddpm.model.model import Model
from tinyddpm.model.tables import GuidanceConfig, SamplingConfig

KEY = "tinyddpm"
"""What the JSON object is called."""

DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"
"""Where it stands in an SVG file, by Dublin Core's name."""

Mark: TypeAlias = Mapping[str, Any]
"""What made a file, a JSON object:

- `made_by` and `version`: the command, and the version of this library;
- `checkpoint`: its `step`, the `sha256` of the file, and which `weights` drew;
- `configuration`: the run's, in place of the hash, of pictures that a run draws on its way;
- `seed`, `backend`, `precision`;
- `sampling`, `spacing`, `guidance`: as in a configuration, `steps` as many as were taken;
- `edit`: what a command of `tinyddpm edit` was told; `embeddings`: the file of tokens that were asked for;
- `samples`: of each sample in the file its `number`, and what it was asked for by, its `class` or `prompt`; of an edit,
  the `image` that it was made of, or its `share` of the way between two;
- `options`: of figures and charts, in place of all from `seed` on, what the command was told.
"""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a checkpoint in hexadecimal, as `sha256sum` prints it.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise CheckpointError(f"cannot read {path}: {cause.strerror}") from cause


def checkpoint_of(path: Path, loaded: CheckpointHeader, raw: bool) -> dict[str, Any]:
    """Return what a mark says of the checkpoint that was loaded.

    Args:
        path: the checkpoint, or its run folder.
        loaded: what it said of itself then.
        raw: whether its weights were taken as trained.

    Raises:
        CheckpointError: it is no longer there, or its run has replaced it since.
    """
    file = checkpoint_file(path)
    found = {"step": loaded.step, "sha256": sha256_of(file), "weights": "raw" if raw else "average"}
    if read_checkpoint_header(file).step != loaded.step:
        raise CheckpointError(f"{file} was replaced by its run while it was read: try again")
    return found


def mark_of(
    model: Model,
    made_by: str,
    checkpoint: Mapping[str, Any],
    *,
    seed: int,
    sampling: SamplingConfig,
    guidance: GuidanceConfig,
    samples: Sequence[Mapping[str, Any]],
    edit: Mapping[str, Any] | None = None,
    embeddings: Path | None = None,
) -> Mark:
    """Return the mark of what a model draws.

    Args:
        model: draws it.
        made_by: the command.
        checkpoint: see `checkpoint_of`.
        seed: of the noise.
        sampling: the sampling.
        guidance: the guidance.
        samples: what is said of each sample in the file, see `samples_of`.
        edit: what an edit was told beside its images.
        embeddings: the file of tokens that were asked for.

    Raises:
        CheckpointError: the run that guidance names as `weak` is not there.
    """
    tables = replace(model.config, sampling=sampling, guidance=guidance).to_dict()
    drawn = {key: value for key, value in tables["sampling"].items() if key != "count"}
    guided = dict(tables["guidance"])
    if "weak" in guided:
        guided["weak_sha256"] = sha256_of(checkpoint_file(Path(str(guided["weak"]))))
    mark = {
        "made_by": made_by,
        "version": __version__,
        "checkpoint": checkpoint,
        "edit": edit,
        "embeddings": None if embeddings is None else str(embeddings),
        "seed": seed,
        "backend": model.backend.name,
        "precision": model.backend.precision,
        "sampling": drawn | {"steps": len(model.pairs(sampling))},
        "spacing": tables["spacing"],
        "guidance": guided,
        "samples": samples,
    }
    return {key: value for key, value in mark.items() if value is not None}


def said_of(model: Model, asked: Known, n: int) -> list[dict[str, Any]]:
    """Return what each of n samples is asked for by: its `class` and its `prompt`, as far as it has them.

    Args:
        model: draws them.
        asked: what is asked for, a row a sample.
        n: how many.
    """
    said: list[dict[str, Any]] = [{} for _ in range(n)]
    if model.classes and asked.labels is not None:
        said = [{"class": model.classes[label]} for label in asked.labels]
    words = model.condition.words(asked)
    return said if words is None else [{**one, "prompt": text} for one, text in zip(said, words, strict=True)]


def samples_of(model: Model, asked: Known, numbers: NDArray[np.integer[Any]]) -> list[dict[str, Any]]:
    """Return what a mark says of samples of these numbers, (n,), asked for a row a sample."""
    said = said_of(model, asked, len(numbers))
    return [{"number": int(number), **one} for number, one in zip(numbers, said, strict=True)]


def of_sample(mark: Mark, i: int) -> Mark:
    """Return the mark of a file that holds sample i alone, of those that the mark speaks of."""
    return {**mark, "samples": [mark["samples"][i]]}


def to_text(mark: Mark) -> str:
    """Return a mark as JSON in one line. Half a character, as an argument that is no UTF-8 leaves, is escaped."""
    return json.dumps(mark, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def read_mark(path: Path) -> Mark:
    """Return the mark of a PNG, SVG, GIF or NPZ file.

    Raises:
        DataError: it has none, or cannot be read.
    """
    try:
        mark = json.loads(_text_in(path))
    except (ValueError, RecursionError):
        mark = None
    if not isinstance(mark, dict) or "made_by" not in mark or not isinstance(mark.get("samples", []), list):
        raise DataError(f"{path} does not say what made it: give a PNG, SVG, GIF or NPZ file that tinyddpm drew")
    return mark


def _text_in(path: Path) -> str:
    """Return the JSON in a file, "" if there is none."""
    if path.suffix.lower() == ".npz":
        return npz_text(path, KEY)
    if path.suffix.lower() == ".svg":
        return _description(path)
    with opened(path) as image:
        found = image.info.get(KEY, image.info.get("comment", ""))
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def _description(path: Path) -> str:
    """Return the description of an SVG file, "" if there is none.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return ElementTree.parse(path).findtext(f".//{DESCRIPTION}", "")
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as cause:  # the last two of its encoding
        raise DataError(f"{path} cannot be read as SVG ({cause}): give another file") from cause
