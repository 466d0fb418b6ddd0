"""This library as a contestant, with a profile of its training step: time by operation, and algorithms chosen."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from threadpoolctl import threadpool_limits

from tinyddpm.backend import Backend, load_backend
from tinyddpm.bench.operations import ConvShape, Row, TimedOperations
from tinyddpm.bench.task import Task, class_names
from tinyddpm.conditions import Wish, in_turn
from tinyddpm.data.base import CAPTIONS, TOKENS, ArrayDataset
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.cuda import cudnn
from tinyddpm.ops.cuda.cudnn_frontend import Convolution, Product
from tinyddpm.samplers import Step
from tinyddpm.training.assembly import make_trainer

SIDE, GPU_SIDE = 2048, 8192
"""Rows and columns of the matrices whose product measures the machine's peak arithmetic, on a CPU and on a GPU."""

COPIED, GPU_COPIED = 1 << 26, 1 << 30
"""Bytes of the array whose copy measures the machine's memory bandwidth, on a CPU and on a GPU."""

LETTERS = 8
"""Length of a random caption."""

STEPS = 2
"""Number of training steps that a profile averages."""


@dataclass(frozen=True)
class Profile:
    """A training step on one thread, by operation.

    Attributes:
        seconds: duration of the step.
        rows: its operations, the longest first.
        matrix_rate: as `Ours.matrix_rate`, on one thread.
        copy_rate: as `Ours.copy_rate`, on one thread.
        convolutions: for each shape of convolution, the modelled cost of every algorithm in billions of multiply-adds,
            the chosen one first.
        plans: cuDNN's chosen plan and the reason, for each shape of convolution or of matrix products, and each result
            computed for it, such as y or dw; empty without cuDNN.
    """

    seconds: float
    rows: list[Row]
    matrix_rate: float
    copy_rate: float
    convolutions: dict[str, dict[str, float]]
    plans: dict[str, dict[str, cudnn.Choice]] = field(default_factory=dict)


class Ours:
    """This library as a contestant: the trainer of `tinyddpm train` and the sampler of `tinyddpm sample`, on noise."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.backend = load_backend(task.config.backend, task.config.device, task.config.precision, task.config.graph)
        self.trainer = make_trainer(task.config, self.backend, noise_dataset(task))
        self.parameters = self.trainer.model.layout.size
        self._chain = self._sampling()

    def train_step(self) -> None:
        """Do one step of training."""
        self.trainer.train_step()
        self.backend.synchronize()

    def denoise_step(self) -> None:
        """Do one step of the configuration's sampler; at the end of the chain, start a new one."""
        if next(self._chain, None) is None:
            self._chain = self._sampling()
            next(self._chain)
        self.backend.synchronize()

    def describe(self) -> str:
        """Return the backend's description."""
        return self.backend.describe()

    def gpu_memory(self) -> int:
        """Return the most bytes of GPU memory held in one more training step, without what was tried before."""
        with self.backend.scope():
            self.backend.forget_peak()
        self.train_step()
        return self.backend.peak_memory()

    def matrix_rate(self) -> float:
        """Return the floating-point operations per second of a product of two square matrices on the backend.

        The matrices have the type in which the network's activations are stored.
        """
        side = GPU_SIDE if self.task.gpu else SIDE
        if self.backend.precision == "tf32":
            os.environ["CUPY_TF32"] = "1"  # CuPy reads it when it first multiplies by cuBLAS, which training never does
        values = np.random.default_rng(0).standard_normal((side, side), np.float32)
        with self.backend.scope():
            a = self.backend.xp.astype(self.backend.asarray(values), self.backend.storage)
            return 2 * side**3 / self._least_seconds(lambda: a @ a)

    def copy_rate(self) -> float:
        """Return the bytes per second that copying a large array reads and writes."""
        size = GPU_COPIED if self.task.gpu else COPIED
        with self.backend.scope():
            a = self.backend.asarray(np.ones(size // 4, np.float32))
            b = self.backend.xp.empty_like(a)

            def copy() -> None:
                b[...] = a

            return 2 * size / self._least_seconds(copy)

    def profile(self) -> Profile:
        """Return the profile of a training step, on one thread, so that the times of its operations add up."""
        with threadpool_limits(1):
            config = self.task.config
            alone = replace(config, training=replace(config.training, threads=1))
            backend = load_backend(config.backend, config.device, config.precision, graph=False)
            ops = load_operations(backend, training=True, recompute=config.training.recompute)
            timed = TimedOperations(ops)
            trainer = make_trainer(alone, backend, noise_dataset(self.task), cast(Operations, timed))
            trainer.train_step()
            timed.rows.clear()
            began = time.perf_counter()
            for _ in range(STEPS):
                trainer.train_step()
            backend.synchronize()
            seconds = (time.perf_counter() - began) / STEPS
            rates = self.matrix_rate(), self.copy_rate()
        each = (
            Row(r.label, r.calls // STEPS, r.seconds / STEPS, r.flop // STEPS, r.moved // STEPS)
            for r in timed.rows.values()
        )
        rows = sorted(each, key=lambda row: -row.seconds)
        # Plans that the contestant's own steps have chosen first count, so its backend comes last.
        plans = _plans(ops, timed, backend, self.backend)
        return Profile(seconds, rows, *rates, _costs(ops, timed), plans)

    def _least_seconds(self, work: Callable[[], object]) -> float:
        """Return the duration of `work` in seconds, the shortest of 5 tries."""
        seconds = []
        for _ in range(5):
            self.backend.synchronize()
            began = time.perf_counter()
            work()
            self.backend.synchronize()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    def _sampling(self) -> Iterator[Step]:
        samples = np.arange(self.task.batch_size)
        config, model, held_out = self.task.config, self.trainer.model, self.trainer.held_out
        asked = in_turn(model.condition.asked(Wish(), model.known(held_out, np.arange(len(held_out)))), samples)
        return model.sample(self.trainer.ema, samples, asked, config.seed, config.sampling)


def noise_dataset(task: Task) -> ArrayDataset:
    """Return a data set of random images or points of the task's shape, with random classes if the task has classes.

    It has a few batches. Each sample has a caption of random letters, which is encoded as bytes since its word occurs
    only once, and tokens of the number and size in the condition's options.
    """
    rng = np.random.default_rng(task.config.seed)
    n = 2 * task.batch_size + 10
    if len(task.sample_shape) == 3:
        samples: Any = rng.integers(0, 256, (n, *task.sample_shape), np.uint8)
    else:
        samples = rng.standard_normal((n, *task.sample_shape), np.float32)
    labels = rng.integers(0, task.classes, n) if task.classes else None
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (n, LETTERS))
    options = task.config.condition.options
    tokens = rng.standard_normal((n, options.get("length", 1), options.get("size", 1)), np.float32)
    columns = {CAPTIONS: np.asarray(["".join(row) for row in letters], object), TOKENS: tokens}
    return ArrayDataset(samples, labels, class_names(task.classes), columns=columns, name="noise")


def _costs(ops: Operations, timed: TimedOperations) -> dict[str, dict[str, float]]:
    """Return the modelled cost of every algorithm for every convolution, the cheapest first: that one is used."""
    found = {shape: ops.conv2d_costs(shape.x, shape.w, shape.stride) for shape in sorted(timed.convolutions)}
    return {str(shape): dict(sorted(costs.items(), key=lambda item: item[1])) for shape, costs in found.items()}


def _plans(ops: Operations, timed: TimedOperations, *backends: Backend) -> dict[str, dict[str, cudnn.Choice]]:
    """Return cuDNN's chosen plans for every convolution and matrix product; those of the last backend win."""
    planners = [cudnn.planner(backend) for backend in backends] if isinstance(ops, cudnn.CudnnConvolutions) else []
    choices = {problem: choice for planner in planners if planner for problem, choice in planner.choices.items()}
    found: dict[str, dict[str, cudnn.Choice]] = {}
    for shape in sorted(timed.convolutions):
        for problem, choice in choices.items():
            if isinstance(problem, Convolution) and ConvShape(problem.x, problem.w, problem.stride) == shape:
                found.setdefault(str(shape), {})[problem.wanted] = choice
    for problem, choice in choices.items():
        if isinstance(problem, Product):
            label = f"{problem.samples} products {problem.m}x{problem.k}x{problem.n}"
            found.setdefault(label, {})[problem.wanted] = choice
    return found
