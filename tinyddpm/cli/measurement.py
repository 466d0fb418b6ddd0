"""Likelihood of data under a model, in batches: by the variational bound, and by the probability flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count, zip_longest
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyddpm.backend import Array, Purpose
from tinyddpm.cli.output import say
from tinyddpm.data import open_dataset, parse_size
from tinyddpm.data.base import Dataset, Subset
from tinyddpm.diffusion.bound import Bound, Estimate, Floats, Times, estimate, together, variational_bound
from tinyddpm.diffusion.flow import BIN, bits_per_dimension, flow_log_density
from tinyddpm.diffusion.process import Variance
from tinyddpm.distributed.group import ALONE, Group
from tinyddpm.errors import DataError, DrawingError, said_before
from tinyddpm.model.denoiser import NetworkDenoiser, NetworkFlow
from tinyddpm.model.model import Model
from tinyddpm.model.sampling import are_finite
from tinyddpm.ops import load_operations
from tinyddpm.ops.images import to_model
from tinyddpm.progress import Progress, Watch, unwatched
from tinyddpm.training.assembly import split_held_out

T = TypeVar("T")


class Measurement:
    """The likelihood of samples under a model, computed batch by batch.

    Args:
        model: the model.
        weights: its flat parameters on the device.
        dataset: the samples, as `opened` returns them.
        numbers: indices of the samples to measure. The noise of a sample depends on its index, not on its batch.
        batch_size: number of samples that are computed at once.
        draws: number of draws of the noise for each sample and time.
        seed: seed of the noise.
        group: ranks that measure together. Each computes a part of the batches.
    """

    def __init__(
        self,
        model: Model,
        weights: Array,
        dataset: Dataset,
        numbers: NDArray[np.int64],
        batch_size: int,
        draws: int,
        seed: int,
        group: Group = ALONE,
    ) -> None:
        self.model, self.weights, self.dataset, self.draws = model, weights, dataset, draws
        self.numbers, self.random = numbers, model.backend.random(seed)
        model.columns(Subset(dataset, numbers))  # all at once, so that notes on its columns are printed once
        self.group = group
        batches = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]
        self.batches = batches[group.rank :: group.size]
        self.progress, self.text = Progress(), f"of {len(numbers)} samples"

    def bound(self, times: Times, variance: Variance | None) -> Bound:
        """Return the variational bound of the samples at these times; None takes the model's own variance."""
        model, bounds = self.model, []
        watch = self._watch(len(times.t), "the bound")
        for batch in self.batches:
            with model.backend.scope():
                bounds.append(
                    variational_bound(
                        load_operations(model.backend),
                        model.process,
                        "pixels" if model.is_image else "points",
                        model.thresholded(self._denoiser(batch), model.config.sampling),
                        self._read(batch),
                        times,
                        partial(self._noise, batch),
                        self.draws,
                        variance,
                        watch,
                    )
                )
        self.progress.close()
        bound = together(self._in_order(bounds))
        self._check_finite(bound.terms, bound.mse_x_0, bound.mse_eps)
        return bound

    def flow(self, times: Sequence[int]) -> Estimate:
        """Return the bits per dimension by the probability flow, solved along these times."""
        watch = self._watch(len(times), "the flow")
        rows = [[self._flow(batch, draw, times, watch) for draw in range(self.draws)] for batch in self.batches]
        self.progress.close()
        values = np.concatenate([np.stack(draws, axis=1) for draws in self._in_order(rows)])
        self._check_finite(values)
        return estimate(values)

    def _check_finite(self, *measured: Floats) -> None:
        """Raise a DrawingError if not all that was measured, (n, …) each, is finite: no JSON could hold it."""
        finite = np.all([*map(are_finite, measured)], axis=0)
        if not finite.all():
            raise DrawingError(
                f"the predictions for sample {self.numbers[np.argmin(finite)]} are not finite: the weights are too"
                " large to measure the model; take an earlier checkpoint, or train anew with a lower --learning-rate"
            )

    def _in_order(self, own: list[T]) -> list[T]:
        """Return the results of all batches in order; of `size` ranks, rank r has computed batches r, r + size, …"""
        turns = zip_longest(*self.group.gather(own))
        return [found for turn in turns for found in turn if found is not None]

    def _flow(self, batch: NDArray[np.int64], draw: int, times: Sequence[int], watch: Callable[[], None]) -> Floats:
        """Return the bits per dimension of a batch, (n,), by one draw of dequantisation noise and probes."""
        model, shape, random = self.model, self.model.sample_shape, self.random
        place, signs = 2 * draw, 2 * draw + 1  # layers of random numbers: places in the bins, signs of the probes

        def probe(t: int) -> Array:
            keep = random.keep_mask(Purpose.FLOW_NOISE, t, batch, shape, 0.5, signs)
            return 2 * model.backend.xp.astype(keep, model.process.dtype) - 1

        with model.backend.scope():
            x = self._read(batch)
            if model.is_image:
                x = x + BIN * (random.uniform(Purpose.FLOW_NOISE, 0, batch, shape, place) - 0.5)
            density = flow_log_density(model.process, NetworkFlow(self._denoiser(batch)), x, times, probe, watch)
        return bits_per_dimension(density, shape, BIN if model.is_image else None)

    def _denoiser(self, batch: NDArray[np.int64]) -> NetworkDenoiser:
        with said_before():
            return self.model.network_denoiser(self.weights, self.model.known(self.dataset, batch))

    def _read(self, batch: NDArray[np.int64]) -> Array:
        x_0 = self.model.backend.asarray(self.dataset.read(batch))
        return to_model(x_0) if self.model.is_image else x_0

    def _noise(self, batch: NDArray[np.int64], t: int, draw: int) -> Array:
        return self.random.normal(Purpose.BOUND_NOISE, t, batch, self.model.sample_shape, draw)

    def _watch(self, times: int, what: str) -> Callable[[], None]:
        """Return a function that advances the progress line, to be called for each batch, draw and time."""
        done, total = count(1), len(self.batches) * times * self.draws
        return lambda: self.progress.update(next(done), total, f"{what} {self.text}")


def opened(
    model: Model,
    data: str | None,
    data_dir: str | None,
    split: str | None,
    watch: Watch = unwatched,
    cache: bool = False,
) -> tuple[Dataset, str]:
    """Return the data set to measure the model on, and its split; `watch` and `cache` are those of `open_dataset`.

    Raises:
        DataError: there is no such data set or split, or its samples or classes are not those of the model.
    """
    config = model.config
    source, places = data or config.data.source, data_dir or config.data.data_dir
    size = parse_size(config.data.image_size) if config.data.image_size else None
    options = config.data.options if source == config.data.source else {}
    wanted = split or "test"
    opening = partial(open_dataset, source, image_size=size, data_dir=places, options=options, watch=watch, cache=cache)
    try:
        dataset = opening(split="train" if wanted == "held-out" else wanted)
    except DataError as error:
        if split or data:
            raise
        wanted, dataset = "held-out", opening()
        say(f"note: {error}; the samples that the run held out are used instead", err=True)
    if wanted == "held-out":
        if data:
            raise DataError(f"the run held out nothing of {data}: give --split train for all of it")
        _, dataset = split_held_out(config, dataset)
    if dataset.shape != model.sample_shape:
        shapes = ["x".join(map(str, shape)) for shape in (dataset.shape, model.sample_shape)]
        raise DataError(f"{dataset.description}: samples are {shapes[0]}, but the model's are {shapes[1]}")
    if model.classes and dataset.classes != model.classes:
        raise DataError(
            f"{dataset.description}: the model is conditioned on classes ({', '.join(model.classes[:3])}, …): give"
            " data with these classes"
        )
    return dataset, wanted
