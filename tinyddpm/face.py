"""The Python interface: train on an array or a data set, load a run, draw samples. Names are the command line's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, load_backend
from tinyddpm.conditions import Known, Wish, in_turn
from tinyddpm.data import ARRAY
from tinyddpm.data.base import CAPTIONS, ArrayDataset, Dataset, checked_columns, checked_dataset
from tinyddpm.data.levels import levelled
from tinyddpm.diffusion.denoiser import Denoiser
from tinyddpm.diffusion.process import checked_time
from tinyddpm.errors import ConfigError
from tinyddpm.figures import images
from tinyddpm.figures.points import point_picture
from tinyddpm.files import unused
from tinyddpm.model.checkpoint import read_checkpoint_header
from tinyddpm.model.config import Config, defaults_for, tables_of
from tinyddpm.model.config import preset as find_preset
from tinyddpm.model.load import checkpoint_file, load_model
from tinyddpm.model.model import Model
from tinyddpm.model.sampling import class_names, class_numbers, draw
from tinyddpm.model.tables import GuidanceConfig, SamplingConfig
from tinyddpm.progress import Progress
from tinyddpm.training.initial import Initial, base_of
from tinyddpm.training.run import resume as go_on
from tinyddpm.training.run import start

HostArray: TypeAlias = np.ndarray[Any, Any]
PathLike: TypeAlias = str | os.PathLike[str]
Labels: TypeAlias = int | str | Sequence[int | str] | HostArray
"""One class or several, by number or name."""
Classes: TypeAlias = Sequence[int | str] | HostArray
"""The class of each sample of an array, (n,)."""
Prompts: TypeAlias = str | Sequence[str]
"""One caption or several."""
Part: TypeAlias = str | Mapping[str, Any]
"""A registered name, or a table of it with its options, such as {"name": "ddim", "eta": 0.5}."""
Guide: TypeAlias = float | Part
"""The scale of classifier-free guidance, or any guidance by its name or table."""


class Trained:
    """A trained model, as returned by `load`, `train` and `resume`.

    Attributes:
        config: the run's configuration.
        sample_shape: (H, W, C) of an image, (D,) of a point.
        classes: the names of the classes, () without.
        process: the Gaussian process, which noises samples: `process.T` times, 0 to T − 1.
        step: number of training steps done.
    """

    def __init__(self, model: Model, weights: Array, step: int) -> None:
        self.config, self.sample_shape, self.classes = model.config, model.sample_shape, model.classes
        self.process, self.step = model.process, step
        self._model, self._weights = model, weights

    def __repr__(self) -> str:
        """Return the network, its number of parameters, the samples' shape, classes and steps in one line."""
        shape, classes = "x".join(map(str, self.sample_shape)), f", {len(self.classes)} classes" if self.classes else ""
        size = self._model.layout.size
        return f"<{self.config.network.name} of {size:,} parameters for {shape}{classes}, trained {self.step:,} steps>"

    def sample(
        self,
        n: int = 64,
        *,
        labels: Labels | None = None,
        prompts: Prompts | None = None,
        embeddings: Mapping[str, HostArray] | None = None,
        images: HostArray | None = None,
        seed: int = 0,
        guidance: Guide | None = None,
        first: int = 0,
        batch_size: int = 128,
        progress: bool = False,
        **sampling: Any,
    ) -> HostArray:
        """Draw samples: uint8 images (n, H, W, C), or float32 points (n, D).

        Args:
            n: number of samples.
            labels: their classes, in turn; all classes in turn if not given.
            prompts: their captions, in turn, for a model that was trained with captions.
            embeddings: {"tokens": …, "length": …}, tokens (k, L, D) and, with padding, their number (k,), in turn, for
                a model that was trained with those of the same encoder.
            images: small pictures to enlarge, uint8 (k, h, w, C), in turn, for a model that was trained to enlarge.
            seed: seed of the noise: the same seed gives the same sample number i.
            guidance: scale of classifier-free guidance, where 1 is none; or a table, such as
                {"name": "auto", "weak": "runs/small"}. The run's own if not given.
            first: the number of the first sample.
            batch_size: samples per batch; it changes memory, and the rounding of matrix products, but nothing else.
            progress: whether to show a progress line.
            sampling: `sampler`, `steps`, `spacing`, `threshold`, `percentile`; those not given are the run's own.

        Raises:
            ConfigError: a class is unknown, there are more labels or prompts than samples, the model was trained
                without them, or an option is wrong.
        """
        if n < 1 or first < 0:
            raise ConfigError(f"{n} samples from number {first} on: give at least 1 sample, and a number from 0 on")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: give at least 1")
        chosen, numbers = self._sampling(**sampling), np.arange(first, first + n)
        bar = Progress(None if progress else StringIO())
        try:
            return draw(
                self._model,
                self._weights,
                numbers,
                self._asked(labels, prompts, numbers, embeddings, images),
                seed=seed,
                sampling=chosen,
                guidance=self._guidance(guidance),
                batch_size=batch_size,
                watch=lambda done, steps: bar.update(done, steps, f"drawing {n} samples"),
            ).values
        finally:
            bar.close()

    def denoiser(
        self,
        labels: Labels | None = None,
        *,
        prompts: Prompts | None = None,
        n: int = 1,
        guidance: Guide | None = None,
        **sampling: Any,
    ) -> Denoiser:
        """Return the network as a function `x_t, t -> (x_0, eps)` on the backend's arrays, for n samples.

        Args:
            labels: the classes of the samples, in turn; required for a model with classes.
            prompts: their captions, in turn.
            n: number of samples in x_t; a model without a condition takes any number.
            guidance: see `sample`.
            sampling: see `sample`; only `threshold` and `percentile` have an effect.

        Raises:
            ConfigError: no classes are given to a model that has them, or one is unknown.
        """
        if self.classes and labels is None:
            raise ConfigError(f"the model draws by class ({', '.join(self.classes[:3])}, …): give labels")
        chosen, guided = self._sampling(**sampling), self._guidance(guidance)
        return self._model.denoiser(self._weights, self._asked(labels, prompts, np.arange(n)), chosen, guided)

    def predict_x0(
        self, x: HostArray, t: int, labels: Labels | None = None, *, prompts: Prompts | None = None, **sampling: Any
    ) -> HostArray:
        """Return the x_0 that the network predicts for noisy samples x, float32 of x's shape; images in [−1, 1].

        Args:
            x: (n, *sample_shape), samples of the process at time t.
            t: 0 to T − 1.
            labels: the classes of the samples, in turn; required for a model with classes.
            prompts: their captions, in turn.
            sampling: see `denoiser`.

        Raises:
            ConfigError: x has another shape, t is no time of the chain, or the labels are wrong.
        """
        x, t = np.asarray(x, np.float32), checked_time(t, self.process.T)
        if x.ndim != len(self.sample_shape) + 1 or x.shape[1:] != self.sample_shape:
            raise ConfigError(f"x has shape {x.shape}: give (n, {', '.join(map(str, self.sample_shape))})")
        backend, denoiser = self._model.backend, self.denoiser(labels, prompts=prompts, n=len(x), **sampling)
        with backend.scope():
            prediction = denoiser(backend.asarray(x), t)
        return backend.to_numpy(prediction.x_0)

    def _asked(
        self,
        labels: Labels | None,
        prompts: Prompts | None,
        numbers: HostArray,
        embeddings: Mapping[str, HostArray] | None = None,
        images: HostArray | None = None,
    ) -> Known:
        """Return the condition's request for the samples of these numbers."""
        classes, captions = None, [prompts] if isinstance(prompts, str) else prompts
        if labels is not None:
            several = (
                class_names(self.classes, labels)
                if isinstance(labels, str)
                else np.ravel(np.asarray(labels, dtype=object)).tolist()
            )
            _check_number(len(several), "labels", len(numbers))
            classes = class_numbers(self.classes, [str(name) for name in several])
        if captions is not None:
            _check_number(len(captions), "prompts", len(numbers))
        if embeddings is not None:
            tokens = next(iter(embeddings.values()), ())
            _check_number(len(tokens), "embeddings", len(numbers))
            embeddings = checked_columns(embeddings, len(tokens), "embeddings")
        if images is not None:
            _check_number(len(images), "images", len(numbers))
        return in_turn(self._model.condition.asked(Wish(classes, captions, embeddings, images)), numbers)

    def _guidance(self, guidance: Guide | None) -> GuidanceConfig:
        """Return the guidance that is given, or else the run's."""
        given = {"name": "cfg", "scale": guidance} if isinstance(guidance, int | float) else _table(guidance)
        return self.config.updated({"guidance": given}, "sample").guidance

    def _sampling(
        self,
        *,
        sampler: Part | None = None,
        steps: int | None = None,
        spacing: Part | None = None,
        threshold: str | None = None,
        percentile: float | None = None,
    ) -> SamplingConfig:
        """Return the run's sampling, changed by what is given."""
        plain = {"steps": steps, "threshold": threshold, "percentile": percentile}
        changes = {name: value for name, value in plain.items() if value is not None}
        tables = {"sampling": {**_table(sampler), **changes}, "spacing": _table(spacing)}
        return self.config.updated(tables, "sample").sampling


def load(
    run: PathLike,
    *,
    backend: str = "numpy",
    device: str | None = None,
    precision: str = "fp32",
    graph: bool = True,
    raw: bool = False,
    threads: int = 0,
) -> Trained:
    """Return the model in a run folder or a checkpoint.

    Args:
        run: the folder, or the file.
        backend, device, precision, graph: see `load_backend`.
        raw: whether to load the weights as trained, instead of their average.
        threads: number of threads that share a batch; 0 for as many as help.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
    """
    model, weights, checkpoint = load_model(Path(run), load_backend(backend, device, precision, graph), raw, threads)
    return Trained(model, weights, checkpoint.step)


def train(
    data: HostArray | Dataset | PathLike,
    *,
    labels: Classes | bool | None = None,
    classes: Sequence[str] = (),
    captions: Sequence[str] | None = None,
    preset: str | None = None,
    out: PathLike | None = None,
    init_from: PathLike | None = None,
    init_raw: bool = False,
    init_partly: bool = False,
    progress: bool = True,
    cache: bool = True,
    **given: Any,
) -> Trained:
    """Train a model, and return it. The run folder is the same as that of `tinyddpm train`.

    Args:
        data: uint8 images (n, H, W) or (n, H, W, C), points (n, D), a data set, or a data set's registered name or
            path.
        labels: for an array, the class of each sample, integers or names (n,); for a data set, whether to learn its
            classes. The preset decides if not given.
        classes: the names of an array's classes; their numbers if not given.
        captions: captions of an array's samples, for `condition="text"`.
        preset: the preset to start from. If not given: the settings of `init_from`, if that is given; else the preset
            of a data set's name, or `small` for images and `toy` for points.
        init_from: a run or a checkpoint whose weights to start from.
        init_raw: whether to start from its weights as trained, instead of their average.
        init_partly: whether to leave out its weights that do not fit.
        out: the run's folder; the first unused one under `runs` if not given.
        progress: whether to show a progress line.
        cache: whether to keep decoded images for the next start, and use those kept before.
        given: settings by their names on the command line, such as `steps=500` or `batch_size=32`; and tables, such as
            `network={"channels": 64}`.

    Raises:
        ConfigError: a setting is unknown or wrong, or labels, classes or captions are given beside a data set.
        DataError: the array is not a data set.
    """
    data = os.fspath(data) if isinstance(data, os.PathLike) else data
    dataset = _dataset(data, labels, classes, captions)
    base = base_of(Path(init_from)) if init_from is not None and not preset else None
    if isinstance(data, str):
        config = find_preset(preset).config if preset else base or defaults_for(data)
        config = config.updated({"data": {"source": data} | ({} if labels is None else {"labels": labels})}, "train")
        name = Path(data).stem
    else:
        assert dataset is not None
        config = base or find_preset(preset or ("small" if len(dataset.shape) == 3 else "toy")).config
        learned = config.data.labels if labels is None else labels is not False
        config = replace(config, data=replace(config.data, source=ARRAY, image_size=None, options={}, labels=learned))
        name = ARRAY
    config = config.updated(tables_of(given), "train")
    backend = load_backend(config.backend, config.device, config.precision, config.graph)
    folder = Path(out) if out is not None else unused(Path("runs") / name)
    initial = None if init_from is None else Initial(Path(init_from), init_raw, init_partly)
    bar = Progress(None if progress else StringIO())
    start(config, backend, folder, bar, dataset, initial=initial, cache=cache)
    return _where_it_trained(folder)


def resume(
    run: PathLike,
    data: HostArray | Dataset | PathLike | None = None,
    *,
    labels: Classes | None = None,
    classes: Sequence[str] = (),
    captions: Sequence[str] | None = None,
    progress: bool = True,
    cache: bool = True,
    **changes: Any,
) -> Trained:
    """Continue a run that was stopped, or do more steps, as if it had never stopped; return the model.

    Args:
        run: its folder, or one of its checkpoints, such as `runs/digits@1000`.
        data: the array or data set that it was trained on, or the path where it lies now; not needed if its settings
            name where it lies.
        labels, classes, captions: as they were given to `train` with an array.
        progress: whether to show a progress line.
        cache: see `train`.
        changes: settings by their names on the command line that `train --resume` takes, such as `steps=500`, the total
            number of steps, or `backend="cupy"`.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or the data differ.
        ConfigError: the run has already done that many steps, or its folder is in use by another run.
        DataError: the data are not where they were, or were an array that is not given again.
    """
    dataset = None if data is None else _dataset(data, labels, classes, captions)
    if isinstance(data, str | os.PathLike):
        changes["data"] = os.fspath(data)
    outcome = go_on(Path(run), Progress(None if progress else StringIO()), dataset, cache=cache, **changes)
    return _where_it_trained(outcome.folder)


def plugins() -> dict[str, list[str]]:
    """Return the names of all parts, by group. Imports none of them."""
    return {group: sorted({entry.name for entry in registry.entries(group)}) for group in registry.GROUPS}


def save_png(path: PathLike, samples: HostArray) -> None:
    """Write samples as one picture: images (n, H, W, C) as a grid, points (n, 1) as bars, (n, 2) as a scatter."""
    images.save_png(path, point_picture(samples) if samples.ndim == 2 else images.grid(samples))


def _where_it_trained(run: Path) -> Trained:
    """Return the model of a run, on the backend that the run was trained on."""
    path = checkpoint_file(run)
    config = Config.from_dict(read_checkpoint_header(path).config, str(path))
    backend = load_backend(config.backend, config.device, config.precision, config.graph)
    model, weights, checkpoint = load_model(path, backend, threads=config.training.threads)
    return Trained(model, weights, checkpoint.step)


def _dataset(
    data: HostArray | Dataset | PathLike,
    labels: Classes | bool | None,
    classes: Sequence[str],
    captions: Sequence[str] | None,
) -> Dataset | None:
    """Return the data set that is given, or that of an array with its labels and captions; None for a name or path.

    Raises:
        ConfigError: labels, classes or captions are given for a data set, which has its own.
        DataError: the array is not a data set, or does not fit its labels or captions.
    """
    of_each = None if labels is None or isinstance(labels, bool) else np.asarray(labels)
    if isinstance(data, np.ndarray):
        columns = {} if captions is None else {CAPTIONS: np.asarray(captions, object)}
        return levelled(ArrayDataset(data, of_each, tuple(classes), columns=columns, name=ARRAY))
    if of_each is not None or captions is not None or len(classes):
        raise ConfigError("labels, classes and captions of samples go with an array: a data set has its own")
    return None if isinstance(data, str | os.PathLike) else checked_dataset(data, "data")


def _check_number(several: int, what: str, samples: int) -> None:
    if not 1 <= several <= samples:
        advice = "at most one each" if several else "at least one"
        raise ConfigError(f"{several} {what} for {samples} samples: give {advice}")


def _table(part: Part | None) -> dict[str, Any]:
    """Return the configuration table of a part; empty for None."""
    if part is None:
        return {}
    return {"name": part} if isinstance(part, str) else dict(part)
