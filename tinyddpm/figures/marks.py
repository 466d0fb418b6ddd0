"""Marks: the provenance of a picture or file of samples, stored in the file itself as one JSON object.

A PNG file has it as the text `tinyddpm`, an NPZ file as the string `tinyddpm`, a GIF file as its comment, and an SVG
file as its description. The same command makes the same bytes: the mark has no date, and no names other than those
given by the user.
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
from tinyddpm.files import check_file
from tinyddpm.model.checkpoint import CheckpointHeader, read_checkpoint_header
from tinyddpm.model.load import checkpoint_file
from tinyddpm.model.model import Model
from tinyddpm.model.tables import GuidanceConfig, SamplingConfig

KEY = "tinyddpm"
"""Name of the mark in a PNG or NPZ file."""

DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"
"""Dublin Core's name of the SVG element that holds the mark."""

Mark: TypeAlias = Mapping[str, Any]
"""The mark, a JSON object:

- `made_by` and `version`: the command, and the version of this library;
- `checkpoint`: its `step`, the `sha256` of the file, and which `weights` were used;
- `configuration`: the run's configuration, in the place of the hash, for pictures drawn during training;
- `seed`, `backend`, `precision`;
- `sampling`, `spacing`, `guidance`: as in a configuration, with the number of `steps` actually taken;
- `edit`: arguments of a command of `tinyddpm edit`; `embeddings`: the file of tokens used as prompts;
- `samples`: for each sample in the file its `number` and its `class` or `prompt`; for an edit also the source `image`,
  or the `share` of an interpolation;
- `options`: for figures and charts, the command's options, in the place of all entries from `seed` on.
"""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a checkpoint in hexadecimal, as `sha256sum` prints it.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        check_file(path)
        with open(path, "rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise CheckpointError(f"cannot read {path}: {cause.strerror}") from cause


def checkpoint_of(path: Path, loaded: CheckpointHeader, raw: bool) -> dict[str, Any]:
    """Return the mark's entry `checkpoint` for a loaded checkpoint.

    Args:
        path: the checkpoint, or its run folder.
        loaded: the header that was read when it was loaded.
        raw: whether the raw weights were used, not their average.

    Raises:
        CheckpointError: the checkpoint no longer exists, or its run has replaced it since.
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
    """Return the mark of samples drawn by a model.

    Args:
        model: the model.
        made_by: the command.
        checkpoint: as returned by `checkpoint_of`.
        seed: seed of the noise.
        sampling: the sampling.
        guidance: the guidance.
        samples: the entry of each sample in the file, as returned by `samples_of`.
        edit: arguments of an edit other than its images.
        embeddings: the file of tokens used as prompts.

    Raises:
        CheckpointError: the checkpoint named by `weak` of the guidance does not exist.
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
    """Return the `class` and the `prompt` of each of n samples; either is omitted if the model has none.

    Args:
        model: the model.
        asked: the condition asked for, one row per sample.
        n: number of samples.
    """
    said: list[dict[str, Any]] = [{} for _ in range(n)]
    if model.classes and asked.labels is not None:
        said = [{"class": model.classes[label]} for label in asked.labels]
    words = model.condition.words(asked)
    return said if words is None else [{**one, "prompt": text} for one, text in zip(said, words, strict=True)]


def samples_of(model: Model, asked: Known, numbers: NDArray[np.integer[Any]]) -> list[dict[str, Any]]:
    """Return the mark's entries for samples with these `numbers`, (n,), and these conditions, one row per sample."""
    said = said_of(model, asked, len(numbers))
    return [{"number": int(number), **one} for number, one in zip(numbers, said, strict=True)]


def of_sample(mark: Mark, i: int) -> Mark:
    """Return the mark of a file that contains only sample i of the mark's samples."""
    return {**mark, "samples": [mark["samples"][i]]}


def to_text(mark: Mark) -> str:
    """Return a mark as one line of JSON. Lone surrogates, from arguments that are not UTF-8, are escaped."""
    return json.dumps(mark, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def read_mark(path: Path) -> Mark:
    """Return the mark of a PNG, SVG, GIF or NPZ file.

    Raises:
        DataError: the file has no mark, or cannot be read.
    """
    try:
        mark = json.loads(_text_in(path))
    except (ValueError, RecursionError):
        mark = None
    if not isinstance(mark, dict) or "made_by" not in mark or not isinstance(mark.get("samples", []), list):
        raise DataError(f"{path} does not say what made it: give a PNG, SVG, GIF or NPZ file that tinyddpm drew")
    return mark


def _text_in(path: Path) -> str:
    """Return the text of the mark in a file; "" if there is none."""
    if path.suffix.lower() == ".npz":
        return npz_text(path, KEY)
    if path.suffix.lower() == ".svg":
        return _description(path)
    with opened(path) as image:
        found = image.info.get(KEY, image.info.get("comment", ""))
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def _description(path: Path) -> str:
    """Return the description of an SVG file; "" if there is none.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return ElementTree.parse(path).findtext(f".//{DESCRIPTION}", "")
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as cause:  # the last two: its encoding
        raise DataError(f"{path} cannot be read as SVG ({cause}): give another file") from cause
