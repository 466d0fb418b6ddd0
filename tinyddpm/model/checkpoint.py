"""Checkpoints: all that sampling or resuming a training needs, in one HDF5 file that holds data and no code.

The flat vectors are stored as one dataset per parameter, by its path: `weights/<path>`, `ema/<path>`, `adam/m/<path>`,
`adam/v/<path>`, and `averages/<length>/<path>` for each length. The header is JSON. The configuration in it names
registry entries, never import paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np

from tinyddpm import __version__, registry
from tinyddpm.errors import CheckpointError
from tinyddpm.hdf5 import Header, PathLike, listed, read_file, read_header, read_outline, write_file
from tinyddpm.model.config import Config
from tinyddpm.model.tables import AUTO

Vector: TypeAlias = np.ndarray[Any, Any]
Layout: TypeAlias = Sequence[tuple[str, tuple[int, ...]]]
"""The path and the shape of each parameter, in the order of the flat vectors."""

FORMAT = "tinyddpm checkpoint"
SCHEMA = 2
"""Version of the format. It grows by one whenever an older tinyddpm could no longer read new files."""

HISTORY = "history"
"""Name of the array of losses that a law of t remembers, and of its shape in the header."""

MOMENTS, AVERAGES = "moments", "averages"
"""Fields of the header: whether the file has Adam's moments, and the lengths of the averages in it."""

ORIGINS = ("imported", "initial")
"""Entries of a run's state that tell where its first weights came from, kept in every checkpoint made of them."""

PLUGIN_KEYS = ("group", "name", "distribution", "version")

DISTRIBUTION = re.compile("[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile("[A-Za-z0-9][A-Za-z0-9.!+_-]*")
"""Names of packages and versions (PEP 508, PEP 440). Other first characters could start an option of pip."""

FLOAT32 = np.dtype(np.float32).str

LARGEST = 2**48
"""Upper bound of valid numbers of elements, steps or bytes in a header."""


@dataclass(kw_only=True)
class CheckpointHeader:
    """The header of a checkpoint: all but its arrays.

    Attributes:
        config: the whole configuration, as JSON.
        step: the number of training steps done.
        sample_shape: (H, W, C) of an image, (D,) of a point.
        classes: the names of the classes, () without labels.
        plugins: the registry entries in use, each with its "group", "name", "distribution" and "version".
        state: small JSON values of the training run.
    """

    config: dict[str, Any]
    step: int
    sample_shape: tuple[int, ...]
    classes: tuple[str, ...]
    plugins: list[dict[str, str]]
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class Checkpoint(CheckpointHeader):
    """A header with float32 arrays: the weights, their average, and what only training needs.

    Attributes:
        weights: the weights as trained, flat.
        ema: their running average, flat.
        adam_m: Adam's first moment, flat; None in a checkpoint that is only for sampling.
        adam_v: Adam's second moment; likewise.
        averages: power-function averages by the names of their lengths, each flat; {} if only for sampling.
        history: the losses that the law of t remembers, (T, n); None if it remembers none, or if only for sampling.
    """

    weights: Vector
    ema: Vector
    adam_m: Vector | None
    adam_v: Vector | None
    averages: dict[str, Vector] = field(default_factory=dict)
    history: Vector | None = None


def save_checkpoint(path: PathLike, checkpoint: Checkpoint, layout: Layout) -> None:
    """Write `checkpoint` to `path`, as a whole or not at all: an older file stays until the new one is safe on disk.

    Args:
        path: the file.
        checkpoint: the header and the arrays.
        layout: the paths and the shapes of the parameters.

    Raises:
        CheckpointError: the file cannot be written, or a value is NaN or infinite.
    """
    vectors: dict[str, Vector | None] = {"weights": checkpoint.weights, "ema": checkpoint.ema}
    moments = checkpoint.adam_m is not None
    if moments:
        vectors |= {"adam/m": checkpoint.adam_m, "adam/v": checkpoint.adam_v}
    vectors |= {f"{AVERAGES}/{name}": vector for name, vector in checkpoint.averages.items()}
    arrays = split(vectors, layout)
    header = {
        "format": FORMAT,
        "schema": SCHEMA,
        "config": checkpoint.config,
        "step": checkpoint.step,
        "sample_shape": checkpoint.sample_shape,
        "classes": checkpoint.classes,
        "plugins": checkpoint.plugins,
        "state": checkpoint.state,
        MOMENTS: moments,
        AVERAGES: list(checkpoint.averages),
        "history": None if checkpoint.history is None else checkpoint.history.shape,
    }
    if checkpoint.history is not None:
        arrays[HISTORY] = checkpoint.history
    write_file(path, arrays, header, CheckpointError)


def load_checkpoint(
    path: PathLike, layout_of: Callable[[CheckpointHeader], Layout], *, moments: bool = True
) -> Checkpoint:
    """Return the checkpoint at `path`, after a check of every array against its hash and the layout.

    Args:
        path: the file.
        layout_of: builds the network that the header's configuration describes and returns its layout. It is called
            before any array is read, so that a wrong file is refused early.
        moments: whether to read Adam's moments, the averages and the history, which only training needs.

    Raises:
        CheckpointError: the file is missing, foreign, damaged or of a newer tinyddpm, a plugin that it needs is not
            installed, its arrays do not fit the layout, or `moments` is true and the file has none.
    """

    def expected(raw: Header) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return the shape and the type of each array that a file with this header must have."""
        header = _parse(path, raw)
        _require_plugins(path, header)
        kinds = ["weights", "ema"]
        if raw.get(MOMENTS) is not False:
            kinds += ["adam/m", "adam/v"]
        elif moments:
            raise CheckpointError(
                f"{os.fspath(path)} is for drawing samples, without Adam's moments: go on with the run that it is of"
            )
        kinds += [f"{AVERAGES}/{name}" for name in raw.get(AVERAGES) or ()]
        arrays = shapes(kinds, layout_of(header))
        if raw.get(HISTORY):
            arrays[HISTORY] = tuple(raw[HISTORY]), FLOAT32
        return arrays

    skip = () if moments else ("adam/", f"{AVERAGES}/", HISTORY)
    raw, arrays = read_file(path, CheckpointError, expected, skip)
    header = _parse(path, raw)
    averages = (raw.get(AVERAGES) or ()) if moments else ()
    return Checkpoint(
        **vars(header),
        weights=join(arrays, "weights"),
        ema=join(arrays, "ema"),
        adam_m=join(arrays, "adam/m") if moments else None,
        adam_v=join(arrays, "adam/v") if moments else None,
        averages={name: join(arrays, f"{AVERAGES}/{name}") for name in averages},
        history=arrays.get(HISTORY),
    )


def read_checkpoint_header(path: PathLike) -> CheckpointHeader:
    """Return the header of the checkpoint at `path`. For the errors see `read_checkpoint_outline`."""
    return _parse(path, read_header(path, CheckpointError))


def read_checkpoint_outline(path: PathLike) -> tuple[CheckpointHeader, int]:
    """Return the header of the checkpoint at `path`, and the number of parameters in the file.

    No array is read and no network is built, so the plugins that it names need not be installed.

    Raises:
        CheckpointError: the file is missing or foreign, its header is damaged, or it is of a newer tinyddpm.
    """
    raw, shapes = read_outline(path, CheckpointError)
    return _parse(path, raw), sum(prod(shape) for name, shape in shapes.items() if name.startswith("weights/"))


def plugin_notes(header: CheckpointHeader) -> list[str]:
    """Return one line for each plugin whose installed version or distribution differs from the header's."""
    notes = []
    for plugin in header.plugins:
        sources = [f"{entry.distribution} {entry.version}" for entry in _installed(plugin)]
        written = f"{plugin['distribution']} {plugin['version']}"
        if sources and written not in sources:
            notes.append(
                f"{_described(plugin)} is from {' and '.join(sources)}; the checkpoint was written with {written}"
            )
    return notes


def in_words(plugins: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the kind, the name and the source of each of a header's plugins, such as "sampler ddim (tinyddpm 1.0)"."""
    return [
        f"{plugin['group'].removesuffix('s')} {plugin['name']} ({plugin['distribution']} {plugin['version']})"
        for plugin in plugins
    ]


def split(vectors: Mapping[str, Vector | None], layout: Layout) -> dict[str, Vector]:
    """Return views of flat vectors, one for each kind and parameter, by the name `<kind>/<path>`."""
    return {
        f"{kind}/{parameter}": array for kind, vector in vectors.items() for parameter, array in _parts(vector, layout)
    }


def shapes(kinds: Iterable[str], layout: Layout) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and the type of each array of vectors of these kinds, by the name `<kind>/<path>`."""
    return {f"{kind}/{parameter}": (tuple(shape), FLOAT32) for kind in kinds for parameter, shape in layout}


def join(arrays: Mapping[str, Vector], kind: str) -> Vector:
    """Return the arrays of a kind as one flat float32 vector, in their order."""
    parts = [array.ravel() for name, array in arrays.items() if name.startswith(f"{kind}/")]
    return np.concatenate([np.empty(0, np.float32), *parts])


def _parts(vector: Vector | None, layout: Layout) -> Iterator[tuple[str, Vector]]:
    """Yield each parameter's path and a view of its part of the flat `vector`, in its shape."""
    size = sum(prod(shape) for _, shape in layout)
    if vector is None or vector.shape != (size,) or vector.dtype != np.float32:
        found = "None" if vector is None else f"{vector.dtype} {vector.shape}"
        raise ValueError(f"a checkpoint of this layout needs float32 vectors of {size} elements, and one is {found}")
    start = 0
    for path, shape in layout:
        yield path, vector[start : start + prod(shape)].reshape(shape)
        start += prod(shape)


def _is_shape(value: Any, dimensions: tuple[int, ...] = (2,)) -> bool:
    """Whether `value` is the shape of an array with one of these numbers of dimensions."""
    return (
        isinstance(value, list)
        and len(value) in dimensions
        and all(type(n) is int and 0 < n <= LARGEST for n in value)
        and prod(value) <= LARGEST
    )


def _is_plugin(value: Any) -> bool:
    """Whether `value` describes a plugin, with names that are safe to print and a distribution that is safe for pip."""
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in PLUGIN_KEYS):
        return False
    names = DISTRIBUTION.fullmatch(value["distribution"]), VERSION.fullmatch(value["version"])
    return all(names) and value["name"].isprintable() and value["group"].isprintable()


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= LARGEST)


_STATE: dict[str, Callable[[Any], bool]] = {
    "ranks": lambda value: type(value) is int and 1 <= value <= LARGEST,
    "loss_sum": _is_number,
    "loss_count": lambda value: type(value) is int and 0 <= value <= LARGEST,
    "best": lambda value: value is None or _is_number(value),
    "validation": lambda value: value is None or _is_number(value),
    "data": _is_texts,
    "imported": _is_texts,
    "averaged": _is_texts,
    "initial": _is_texts,
}
"""Checks of the optional entries of `state` that a run reads."""

_VALID: dict[str, Callable[[Any], bool]] = {
    "config": lambda value: isinstance(value, dict),
    "step": lambda value: type(value) is int and 0 <= value <= LARGEST,
    "sample_shape": lambda value: _is_shape(value, dimensions=(1, 3)),
    "history": lambda value: value is None or _is_shape(value),
    MOMENTS: lambda value: value is None or isinstance(value, bool),
    AVERAGES: lambda value: value is None or (isinstance(value, list) and all(isinstance(name, str) for name in value)),
    "classes": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "plugins": lambda value: isinstance(value, list) and all(map(_is_plugin, value)),
    "state": lambda value: isinstance(value, dict) and all(ok(value[k]) for k, ok in _STATE.items() if k in value),
}


def _parse(path: PathLike, raw: Header) -> CheckpointHeader:
    """Return the header in the JSON object `raw`, after a check of each field."""
    name, schema = os.fspath(path), raw.get("schema")
    if raw.get("format") != FORMAT or type(schema) is not int or schema < 1:
        raise CheckpointError(f"{name} is not a checkpoint of tinyddpm")
    if schema > SCHEMA:
        raise CheckpointError(
            f"{name} was written by a newer tinyddpm (schema {schema}; {__version__} reads schema {SCHEMA}):"
            " upgrade with pip install --upgrade tinyddpm"
        )
    wrong = [field for field, is_valid in _VALID.items() if not is_valid(raw.get(field))]
    if wrong:
        raise CheckpointError(f"{name} has a damaged header: {', '.join(wrong)} missing or malformed")
    return CheckpointHeader(
        config=raw["config"] if schema > 1 else _with_table_of_spacing(raw["config"]),
        step=raw["step"],
        sample_shape=tuple(raw["sample_shape"]),
        classes=tuple(raw["classes"]),
        plugins=raw["plugins"],
        state=raw["state"],
    )


def _with_table_of_spacing(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of schema 1 in today's form: the spacing was a setting of the table `sampling` then."""
    sampling = config.get("sampling")
    if not isinstance(sampling, dict) or "spacing" not in sampling:
        return config
    rest = {key: value for key, value in sampling.items() if key != "spacing"}
    return {**config, "sampling": rest, "spacing": {"name": sampling["spacing"]}}


def _installed(plugin: dict[str, str]) -> list[registry.Entry]:
    """Return the registry's entries with the group and the name of `plugin`."""
    if plugin["group"] not in registry.GROUPS:
        return []
    return [entry for entry in registry.entries(plugin["group"]) if entry.name == plugin["name"]]


def _described(plugin: dict[str, str]) -> str:
    return registry.called(plugin["group"], plugin["name"])


def _require_plugins(path: PathLike, header: CheckpointHeader) -> None:
    missing = [plugin for plugin in header.plugins if not _installed(plugin)]
    if missing:
        needs = listed(f"{_described(p)} of {p['distribution']} {p['version']}" for p in missing)
        packages = sorted({f"{p['distribution']}=={p['version']}" for p in missing})
        raise CheckpointError(
            f"{os.fspath(path)} needs what is not installed: {needs}: run pip install {' '.join(packages)}"
        )


def plugins_of(config: Config) -> list[dict[str, str]]:
    """Return the registry entries that a model of this configuration needs, in the form of the header's `plugins`."""
    used = {
        "networks": config.network.name,
        "schedules": config.schedule.name,
        "parametrisations": config.training.predict,
        "objectives": config.training.loss,
        **({} if config.training.times == AUTO else {"times": config.training.times}),
        "weightings": config.weighting.name,
        "samplers": config.sampling.name,
        "spacings": config.sampling.spacing.name,
    }
    if config.condition.name:
        used["conditions"] = config.condition.name
    told = config.transforms if config.data.tell_transforms else ()
    entries = [registry.find(group, name) for group, name in (*used.items(), *(("transforms", name) for name in told))]
    return [{key: getattr(entry, key) for key in PLUGIN_KEYS} for entry in entries]
