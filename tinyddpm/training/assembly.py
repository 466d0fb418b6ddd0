"""Building what a configuration describes: data set, model, trainer."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array, Backend
from tinyddpm.conditions import OF_CLASSES, Wish, in_turn, learned_options
from tinyddpm.data import PATH_OPTIONS, open_dataset, parse_size
from tinyddpm.data.base import Dataset, split_dataset
from tinyddpm.data.batching import check_batch_size
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.errors import ConfigError, said_before, unknown
from tinyddpm.model.config import Config, settings
from tinyddpm.model.model import Model, classes_learned
from tinyddpm.model.tables import DataConfig
from tinyddpm.ops import Operations
from tinyddpm.progress import Watch, unwatched
from tinyddpm.samplers import make_sampler
from tinyddpm.training.trainer import Trainer


def open_data(config: Config, watch: Watch = unwatched, cache: bool = False) -> Dataset:
    """Return the data set that `config` names. For the other arguments see `open_dataset`."""
    data = config.data
    _refuse_unknown(data)
    size = parse_size(data.image_size) if data.image_size else None
    return open_dataset(
        data.source, image_size=size, data_dir=data.data_dir, options=data.options, watch=watch, cache=cache
    )


def _refuse_unknown(data: DataConfig) -> None:
    """Raise a ConfigError for a key of the table `data` that is neither a setting nor an option of the data set."""
    registered = any(entry.name == data.source for entry in registry.entries("datasets"))
    options = list(registry.options(registry.load("datasets", data.source))) if registered else PATH_OPTIONS
    for key in data.options:
        if key not in options:
            names = [name for table, name, *_ in settings() if table == "data"]
            raise ConfigError(f"data: {unknown('key', key, [*names, *options])}")


def with_threads(config: Config, backend: Backend, group: Group = ALONE) -> Config:
    """Return `config` with its number of threads per rank filled in: if it is 0, as many as help on this machine.

    A run keeps this number wherever it is resumed: a sum over other parts rounds differently.
    """
    open_ = group.size > 1 and not config.training.threads
    threads = min(backend.threads(0), group.cores()) if open_ else backend.threads(config.training.threads)
    return replace(config, training=replace(config.training, threads=threads))


def with_learned(config: Config, dataset: Dataset) -> Config:
    """Return `config` with the settings filled in that depend on the training data.

    These are `data.labels`, if it is open, and what the condition learns from the data, such as a vocabulary.

    Raises:
        ConfigError: an option of the condition is wrong, or the data lacks what the condition needs.
        DataError: there are too few samples.
    """
    if config.data.labels is None:
        config = replace(config, data=replace(config.data, labels=bool(classes_learned(config, dataset.classes))))
    condition = config.condition
    if not condition.name:
        return config
    train, _ = split_held_out(config, dataset)
    return replace(
        config, condition=replace(condition, options=dict(learned_options(condition.name, train, condition.options)))
    )


def make_trainer(
    config: Config, backend: Backend, dataset: Dataset, ops: Operations | None = None, group: Group = ALONE
) -> Trainer:
    """Return a trainer at step 0 for `dataset`, part of which it holds out for validation.

    Raises:
        ConfigError: the settings ask for labels that the data lacks, the network does not fit the samples, or a batch
            has fewer samples than there are ranks.
        DataError: there are too few samples.
    """
    if config.data.labels and not dataset.classes:
        raise ConfigError(f"data.labels is true, but there are no labels in {dataset.description}: give --no-labels")
    classes = classes_learned(config, dataset.classes)
    model = Model(config, dataset.shape, classes, backend, config.training.threads)
    train, validation = split_held_out(config, dataset)
    _try_sampler(model, train)
    check_batch_size(len(train), config.training.batch_size)
    if config.training.batch_size < group.size:
        raise ConfigError(
            f"a batch of {config.training.batch_size} is too small for {group.size} ranks: set --batch-size to at"
            f" least {group.size}, or start fewer"
        )
    return Trainer(model, train, validation, ops, group)


def split_held_out(config: Config, dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Return the samples that a run trains on and those that it holds out: `data.validation`, at most a tenth."""
    return split_dataset(dataset, max(1, min(config.data.validation, len(dataset) // 10)), config.seed)


def _try_sampler(model: Model, train: Dataset) -> None:
    """Take the first sampling step of one sample, so that a bad option fails before training and not after it.

    The model's denoiser is built but not run, as a network may be large: the step asks one that predicts zeros.
    """
    backend, sampling = model.backend, model.config.sampling
    weights = backend.asarray(np.zeros(model.layout.size, np.float32))
    number = np.zeros(1, np.int64)
    with said_before():
        model.denoiser(weights, in_turn(model.condition.asked(Wish(), model.known(train, number)), number), sampling)
    with backend.scope():
        nothing = backend.xp.zeros((1, *model.sample_shape), dtype=backend.xp.float32, device=backend.device)

        def silent(x_t: Array, t: int) -> Prediction:
            return Prediction(nothing, nothing, nothing if model.objective.learned_variance else None)

        sampler = make_sampler(sampling.name, **sampling.options)
        next(sampler(model.process, silent, nothing, model.pairs(sampling), lambda t: nothing))


def learns(model: Model, dataset: Dataset) -> str:
    """Return a description of what a model learns, such as "eps of images 8x8x1 by class (10: 0, 1, 2, …)"."""
    variance = " and the variance" if model.objective.learned_variance else ""
    samples = f"{'images' if model.is_image else 'points'} {'x'.join(map(str, dataset.shape))}"
    told, untold = "", ""
    if model.condition_name == OF_CLASSES:
        more = ", …" if len(model.classes) > 3 else ""
        told = f" by class ({len(model.classes)}: {', '.join(model.classes[:3])}{more})"
    elif model.condition_name:
        told = f" by {model.condition_name}"
    if dataset.classes and not model.classes:
        untold = f", without the {len(dataset.classes)} classes"
    return f"{model.config.training.predict}{variance} of {samples}{told}{untold}"


@dataclass(frozen=True)
class Estimate:
    """What a run would need, measured in a few steps.

    Attributes:
        data: the description of the data set.
        learns: see `learns`.
        parameters: the number of parameters.
        memory: peak memory in bytes.
        seconds_per_step: the median.
    """

    data: str
    learns: str
    parameters: int
    memory: int
    seconds_per_step: float


def estimate(
    config: Config,
    backend: Backend,
    steps: int = 3,
    group: Group = ALONE,
    watch: Watch = unwatched,
    cache: bool = True,
) -> Estimate:
    """Do a few training steps without writing anything, and return what a run would need.

    One more step comes first, as a warm-up that is not timed. For `watch` and `cache` see `open_dataset`.
    """
    dataset = open_data(config, watch, cache)
    config = with_learned(with_threads(config, backend, group), dataset)
    trainer = make_trainer(config, backend, dataset, group=group)
    seconds = []
    for _ in range(1 + steps):
        began = time.perf_counter()
        trainer.train_step()
        backend.synchronize()
        seconds.append(time.perf_counter() - began)
    return Estimate(
        dataset.description,
        learns(trainer.model, dataset),
        trainer.model.layout.size,
        backend.peak_memory(),
        median(seconds[1:]),
    )
