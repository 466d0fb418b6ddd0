"""This library as a contestant, and what it can say of itself: time by operation, and the ways it convolves."""

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
"""Rows and columns of the matrices whose product tells how fast the machine is."""

COPIED, GPU_COPIED = 1 << 26, 1 << 30
"""Bytes of the array whose copy tells how fast its memory is."""

LETTERS = 8
"""In a caption."""

STEPS = 2
"""Training steps that the table by operation is the mean of."""


@dataclass(frozen=True)
class Profile:
    """One training step on one thread.

    Attributes:
        seconds: how long it took.
        rows: its operations, those that took longest first.
        matrix_rate: see `Ours.matrix_rate`; here on one thread as well.
        copy_rate: bytes a second that copying a large array reads and writes.
        convolutions: for each shape of convolution, the modelled cost of every algorithm in billions of multiply-adds,
            the one chosen first.
        plans: for each shape of convolution or of products of matrices, and each of what steps asked cuDNN for, as y or
            dw, what was chosen and why; empty without cuDNN.
    """

    seconds: float
    rows: list[Row]
    matrix_rate: float
    copy_rate: float
    convolutions: dict[str, dict[str, float]]
    plans: dict[str, dict[str, cudnn.Choice]] = field(default_factory=dict)


class Ours:
    """The trainer and the sampler as `tinyddpm train` and `tinyddpm sample` use them, on images of noise."""

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
        """Do one step of the configuration's sampler, beginning again where the chain ends."""
        if next(self._chain, None) is None:
            self._chain = self._sampling()
            next(self._chain)
        self.backend.synchronize()

    def describe(self) -> str:
        """Return the backend's line."""
        return self.backend.describe()

    def gpu_memory(self) -> int:
        """Return the most bytes of the GPU in use so far; of CuPy's, what its memory pool holds."""
        return self.backend.peak_memory()

    def matrix_rate(self) -> float:
        """Return the floating-point operations a second of the library's product of two square matrices.

        They are stored as the network's activations are.
        """
        side = GPU_SIDE if self.task.gpu else SIDE
        if self.backend.precision == "tf32":
            os.environ["CUPY_TF32"] = "1"  # CuPy reads it when it first multiplies by cuBLAS, which training never does
        values = np.random.default_rng(0).standard_normal((side, side), np.float32)
        with self.backend.scope():
            a = self.backend.xp.astype(self.backend.asarray(values), self.backend.storage)
            return 2 * side**3 / self._least_seconds(lambda: a @ a)

    def copy_rate(self) -> float:
        """Return the bytes a second that copying a large array reads and writes."""
        size = GPU_COPIED if self.task.gpu else COPIED
        with self.backend.scope():
            a = self.backend.asarray(np.ones(size // 4, np.float32))
            b = self.backend.xp.empty_like(a)

            def copy() -> None:
                b[...] = a

            return 2 * size / self._least_seconds(copy)

    def profile(self) -> Profile:
        """Return where the time of a training step goes, on one thread, so that the times of operations add up."""
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
        # What the trainer's steps have chosen, the profile's have found chosen.
        plans = _plans(ops, timed, backend, self.backend)
        return Profile(seconds, rows, *rates, _costs(ops, timed), plans)

    def _least_seconds(self, work: Callable[[], object]) -> float:
        """Return how long `work` takes, of some tries the quickest."""
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


def variants(task: Task, compiled: bool) -> list[str]:
    """Return the one name there is."""
    return [""]


def make(task: Task, variant: str) -> Ours:
    """Return this library as a contestant."""
    return Ours(task)


def noise_dataset(task: Task) -> ArrayDataset:
    """Return random images or points of the task's shape, a few batches of them, with random classes if it has any.

    Each has a caption of random letters, and tokens of the number and the size that the condition's options say. No
    words are learned of such captions: they are spelled.
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
    """Return the modelled cost of every algorithm for every convolution, the cheapest first, which is chosen."""
    found = {shape: ops.conv2d_costs(shape.x, shape.w, shape.stride) for shape in sorted(timed.convolutions)}
    return {str(shape): dict(sorted(costs.items(), key=lambda item: item[1])) for shape, costs in found.items()}


def _plans(ops: Operations, timed: TimedOperations, *backends: Backend) -> dict[str, dict[str, cudnn.Choice]]:
    """Return what was chosen of cuDNN's plans for every convolution and product, by the last backend that did."""
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
