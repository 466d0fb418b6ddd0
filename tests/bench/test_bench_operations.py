"""Counting and timing operations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from helpers import cupy_stand_in
from helpers.cuda_shim import COMPILER
from helpers.cudnn_stand_in import Frontend
from helpers.torch_unet import TorchUNet
from tinyddpm.backend import Backend
from tinyddpm.bench import ours
from tinyddpm.bench.contest import KINDS, OURS, Outcome, Standing
from tinyddpm.bench.operations import TimedOperations, attention_product, conv2d_product, linear_product
from tinyddpm.bench.ours import Ours
from tinyddpm.bench.report import as_json, as_text
from tinyddpm.bench.task import make_task
from tinyddpm.model.config import Config, preset
from tinyddpm.ops import load_operations
from tinyddpm.ops.cuda import cudnn

pytestmark = pytest.mark.slow

OPTIONS = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "heads": 2, "dropout": 0.0}


def config(batch_size: int = 3, **network: object) -> Config:
    tables = {"network": {**OPTIONS, **network}, "training": {"batch_size": batch_size, "threads": 1}}
    return preset("digits").config.updated(tables)


def test_products_by_hand() -> None:
    """Two operations per multiply-add, each output number of a 3×3 convolution taking 9 C_in of them."""
    x, b = np.zeros((2, 5, 7, 3)), np.zeros(4)
    conv = conv2d_product(x, np.zeros((3, 3, 3, 4)), b)
    assert (conv.flop, conv.shape) == (2 * (2 * 5 * 7 * 4) * 27, "3x3 3→4 at 5x7")
    halved = conv2d_product(x, np.zeros((3, 3, 3, 4)), b, 2)
    assert (halved.flop, halved.shape) == (2 * (2 * 3 * 4 * 4) * 27, "3x3/2 3→4 at 5x7")
    assert linear_product(x, np.zeros((3, 4)), b).flop == 2 * (2 * 5 * 7 * 4) * 3
    assert attention_product(np.zeros((2, 5, 6)), np.zeros((2, 9, 6)), np.zeros((2, 9, 6)), 3).flop == 2 * 2 * 540


@pytest.mark.parametrize("adaptive", [False, True])
def test_flop_of_a_network_are_what_torch_counts(adaptive: bool) -> None:
    """The sums over a training step, against Torch's own counter on the twin.

    Torch skips one gradient that we compute: of the time embedding's input, which depends on no parameter.
    """
    task = make_task(config(adaptive=adaptive), "digits")
    rows = Ours(task).profile().rows
    twin = TorchUNet(task.sample_shape, task.classes, 1, **{**OPTIONS, "adaptive": adaptive})
    x = torch.zeros(3, 1, 8, 8, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            y = twin(x, torch.arange(3), torch.arange(3), None)
        with FlopCounterMode(display=False) as backward:
            y.sum().backward()
    assert sum(row.flop for row in rows if not row.backward) == forward.get_total_flops()
    skipped = 2 * 3 * 8 * 32
    assert sum(row.flop for row in rows if row.backward) == backward.get_total_flops() + skipped


def test_what_is_computed_twice_is_counted_once() -> None:
    """A step that recomputes runs forwards again: its operations show that, the arithmetic of the task does not."""
    plain = config()
    profiles = [
        Ours(make_task(plain.updated({"training": {"recompute": recompute}}), "digits")).profile()
        for recompute in (False, True)
    ]
    once, twice = (sum(row.flop for row in profile.rows) for profile in profiles)
    assert twice > 1.2 * once
    for profile in profiles:
        outcome = Outcome({}, {}, {}, 1.0, {OURS: profile})
        assert (outcome.train_flop, outcome.denoise_flop) == (once, once // 3)


def test_rows_are_those_of_one_step() -> None:
    task = make_task(config(), "digits")
    profile = Ours(task).profile()
    calls = {row.label: row.calls for row in profile.rows}
    # Blocks with attention after them on the lower level: 1 down, 2 up, and the middle.
    assert calls["attention"] == calls["attention_backward"] == 4
    assert calls["conv2d 3x3/2 8→8 at 8x8"] == calls["conv2d_backward 3x3/2 8→8 at 8x8"] == 1
    assert calls["mse"] == calls["mse_backward"] == 1
    # Noise, sums and the optimiser are operations too, so the rest of a step is none of these.
    assert {"noised", "lengths", "adam"} <= set(calls)
    standing, us = Standing("", [1.0], [1.0], None), f"{OURS} numpy"
    text = list(
        as_text(task, Outcome({us: standing}, {kind: {us: {}} for kind in KINDS}, {}, 1.0, {us: profile}), False)
    )
    assert [line.split("  ")[0] for line in text[-3:-1]] == ["between these operations", "all"]
    assert all(row.seconds > 0 for row in profile.rows)
    assert sum(row.seconds for row in profile.rows) < profile.seconds
    assert [row.seconds for row in profile.rows] == sorted((row.seconds for row in profile.rows), reverse=True)


@pytest.mark.parametrize("training", [False, True])
def test_timed_operations_compute_the_same(numpy_backend: Backend, rng: np.random.Generator, training: bool) -> None:
    ops = load_operations(numpy_backend, training)
    timed = TimedOperations(ops)
    x, w, b = rng.normal(size=(2, 4, 4, 3)), rng.normal(size=(3, 3, 3, 5)), rng.normal(size=5)
    y, saved = ops.conv2d(x, w, b)
    y_timed, kept = timed.conv2d(x, w, b)
    assert np.array_equal(y, y_timed)
    assert timed.training is training
    assert timed.xp is ops.xp
    assert np.array_equal(ops.sinusoidal(np.arange(3), 4, x.dtype), timed.sinusoidal(np.arange(3), 4, x.dtype))
    if not training:
        assert kept is None
        return
    for gradient, gradient_timed in zip(ops.conv2d_backward(saved, y), timed.conv2d_backward(kept, y), strict=True):
        assert np.array_equal(gradient, gradient_timed)
    labels = ["conv2d 3x3 3→5 at 4x4", "sinusoidal", "conv2d_backward 3x3 3→5 at 4x4"]
    assert list(timed.rows) == labels
    forward, _, backward = timed.rows.values()
    assert backward.flop == 2 * forward.flop > 0
    # Forwards x, w and b are read and y written; backwards what was saved, x and w, and dy are read, and as much
    # written as forwards was read.
    assert forward.moved == 8 * (96 + 135 + 5 + 160)
    assert backward.moved == 8 * ((96 + 135) + 160 + (96 + 135 + 5))


def test_every_distinct_convolution_is_explained() -> None:
    """By its shape, once, the algorithm of least cost first: Winograd's among them on NumPy, and one alone on Torch."""
    task = make_task(config(), "digits")
    explained = Ours(task).profile().convolutions
    assert "3x3/2 8→8 at 8x8" in explained
    assert "3x3 24→8 at 8x8" in explained
    assert any("winograd" in name for costs in explained.values() for name in costs)
    for costs in explained.values():
        assert list(costs.values()) == sorted(costs.values())
        assert all(cost > 0 for cost in costs.values())
    on_torch = replace(task, config=replace(task.config, backend="torch"))
    alone = Ours(on_torch).profile().convolutions
    assert set(alone) == set(explained)
    assert all(len(costs) == 1 for costs in alone.values())


def test_denoising_begins_again_where_the_chain_ends() -> None:
    contestant = Ours(make_task(config().updated({"sampling": {"steps": 3}}), "digits"))
    for _ in range(4):
        contestant.denoise_step()
    pairs = contestant.trainer.model.pairs(contestant.task.config.sampling)
    assert len(pairs) == 3
    assert [step.t for step in contestant._chain] == [t for t, _ in pairs[1:]]


def test_plans_of_cudnn_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By what the trainer's steps chose, though the profile has operations of its own; in text and in JSON."""
    if COMPILER is None:
        pytest.skip("there is no C++ compiler (g++ or clang++) to run the kernels with")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cudnn, "REPEATS", 1)
    monkeypatch.setattr(ours, "GPU_SIDE", 8)
    monkeypatch.setattr(ours, "GPU_COPIED", 1 << 10)
    cupy_stand_in.install(monkeypatch, Frontend("breaks", "right 0.2", "right 0.1"))
    task = make_task(config(channels=4, multipliers=(1,), attention=(), batch_size=1), "digits")
    task = replace(task, config=replace(task.config, backend="cupy"))
    contestant = Ours(task)
    contestant.train_step()
    profile = contestant.profile()
    assert set(profile.plans) == set(profile.convolutions)
    assert set(profile.plans["3x3 4→4 at 8x8"]) == {"y", "y + residual", "dx", "dw"}
    line = "right 0.1; cuDNN's others: 1 failed when run, 1 slower"
    own = f"{cudnn.OWN}; cuDNN's others: 1 failed when run, 2 slower"  # by the kernel that turns a plan's dw
    for choices in profile.plans.values():
        assert {wanted: str(choice) for wanted, choice in choices.items()} == dict.fromkeys(choices, line) | {"dw": own}
    standing = Standing("", [1.0], [1.0], None)
    us = f"{OURS} cupy"
    outcome = Outcome({us: standing}, {kind: {us: {}} for kind in KINDS}, {}, 1.0, {us: profile})
    assert f"{'3x3 4→4 at 8x8':<32}{'y + residual':<14}{line}" in list(as_text(task, outcome, explain=True))
    plans = json.loads(json.dumps(as_json(task, outcome)))["one_thread"][us]["cudnn_plans"]
    refused = {"failed when run": 1, "slower": 1}
    assert plans["3x3 4→4 at 8x8"]["dx"] == {"name": "right 0.1", "refused": refused, "untried": 0, "furthest": 0.0}
