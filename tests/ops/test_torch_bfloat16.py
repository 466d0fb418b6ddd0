"""Torch with bfloat16 activations: every operation, whole networks, and what they learn, on the CPU.

Figures are the reference's in float64 on the same rounded inputs. A rounding to bfloat16 changes a number by at most
2^-8 of itself; an operation's entry counts its `roundings`, each of which may add so much of the largest element.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from helpers.bfloat16 import BFLOAT16, FLOAT32, ROUNDING, STORED, stored
from helpers.comparison import assert_close
from helpers.networks import SKETCHES, Setting
from helpers.operations import OPERATIONS, make_case, name_of
from helpers.runs import DIGITS
from tinyddpm.backend import load_backend
from tinyddpm.data import open_dataset
from tinyddpm.ops import Operations, load_operations
from tinyddpm.training.assembly import make_trainer
from tinyddpm.training.trainer import Trainer

TORCH = load_backend("torch", precision="bf16")
OURS = load_operations(TORCH, training=True)
NUMPY = load_backend("numpy")
EXACT = Operations(NUMPY, training=True)

LARGE: list[tuple[str, dict[str, Any]]] = [
    *(
        ("conv2d", {"n": n, "h": 8, "w": 8, "c_in": 32, "c_out": 32, "kernel": 3, "stride": stride})
        for n in (1, 16, 64)
        for stride in (1, 2)
    ),
    ("linear", {"leading": (4, 64), "c_in": 128, "c_out": 64}),
    ("add_vector", {"n": 2, "pixels": (16, 16), "c": 32}),
    ("modulate", {"n": 2, "pixels": (8, 8), "c": 32}),
    ("group_norm_silu", {"leading": (2, 8, 8), "groups": 4, "each": 8, "modulated": False}),
    ("group_norm_silu", {"leading": (2, 9, 7), "groups": 3, "each": 20, "modulated": True, "rate": 0.2}),
    ("attention", {"n": 2, "queries": 64, "keys": 48, "heads": 2, "each": 16}),
]

CASES = LARGE + [case for case in STORED if not OPERATIONS[case[0]].cancels]


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    with TORCH.scope():
        yield


def tensor(a: np.ndarray) -> torch.Tensor:
    """Return a host array as a tensor of the same type and numbers."""
    return TORCH.asarray(a.astype(np.float32)).bfloat16() if a.dtype == BFLOAT16 else TORCH.asarray(a)


@pytest.mark.parametrize(("operation", "shape"), CASES, ids=name_of)
def test_operations(operation: str, shape: dict[str, Any]) -> None:
    """Values and gradients, and that each has its type: bfloat16 for activations, float32 for parameters' gradients."""
    case, exact = stored(make_case(operation, shape, seed=9))
    y, saved = case.map(tensor).forward(OURS)
    y_exact, saved_exact = exact.forward(EXACT)
    dy = case.dy(y_exact, np.random.default_rng(1)).astype(BFLOAT16)
    found = {"y": y, **case.backward(OURS, saved, tensor(dy))}
    expected = {"y": y_exact, **exact.backward(EXACT, saved_exact, dy.astype(np.float64))}
    for name, value in found.items():
        of_parameter = name in OPERATIONS[operation].parameters
        assert value.dtype == (torch.float32 if of_parameter else torch.bfloat16), name
        y_roundings, activation_roundings, parameter_roundings = OPERATIONS[operation].roundings
        roundings = y_roundings if name == "y" else parameter_roundings if of_parameter else activation_roundings
        allowed = roundings * ROUNDING + FLOAT32
        assert_close(value.double().numpy(), expected[name], allowed, f"{name} of {operation}")


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN hides instructions on x86 alone")
def test_operations_without_bfloat16_instructions() -> None:
    """The same operations within the same bounds, in a process whose oneDNN finds AVX2 at most."""
    code = f"""if True:
        import torch
        import {__name__} as here
        assert not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        with here.TORCH.scope():
            for case in here.CASES:
                here.test_operations(*case)
    """
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("operation", ["group_norm", "layer_norm"])
def test_norms_bear_a_large_mean(operation: str) -> None:
    """Elements of deviation 16 around 1000, where bfloat16 has steps of 4, are standardised to one rounding of y.

    Neither the mean nor a difference from it is rounded on the way.
    """
    x = np.random.default_rng(8).normal(1000, 16, size=(2, 8, 8, 32)).astype(BFLOAT16)
    vectors, groups = (np.ones(32, np.float32), np.zeros(32, np.float32)), (4,) if operation == "group_norm" else ()
    found, _ = getattr(OURS, operation)(tensor(x), *map(tensor, vectors), *groups)
    expected, _ = getattr(EXACT, operation)(x.astype(np.float64), *vectors, *groups)
    assert_close(found.double().numpy(), expected, ROUNDING + FLOAT32, "y")


def test_sinusoids() -> None:
    """Angles up to 1000 are float32's: in bfloat16 they would be off by whole turns."""
    t = np.asarray([0, 3, 501, 999])
    found, exact = OURS.sinusoidal(tensor(t), 12, torch.bfloat16), EXACT.sinusoidal(t, 12, np.float64)
    assert found.dtype == torch.bfloat16
    np.testing.assert_allclose(found.double().numpy(), exact, rtol=ROUNDING, atol=1000 * FLOAT32)


@pytest.mark.parametrize("name", SKETCHES)
def test_networks(name: str) -> None:
    """Prediction, dx and all gradients as vectors, against float64 on the same rounded numbers, dropout included.

    On the longest way lie below 100 roundings, each of which adds at random up to 2^-8 of what passes: √100 · 2^-8.
    """
    setting = Setting(SKETCHES[name])
    w = {path: a.astype(BFLOAT16 if a.ndim > 1 else np.float32) for path, a in setting.weights.items()}
    x, dout = setting.x.astype(BFLOAT16), setting.dout.astype(BFLOAT16)
    cond = {kind: tensor(values) for kind, values in setting.cond.items()}
    weights = {path: tensor(a) for path, a in w.items()}
    out, saved = setting.network.forward(OURS, weights, tensor(x), tensor(setting.t), cond, setting.noise(TORCH))
    buffer = torch.zeros(setting.layout.size)
    dx = setting.network.backward(saved, setting.layout.views(buffer, TORCH.xp), tensor(dout))
    assert (out.dtype, dx.dtype) == (torch.bfloat16, torch.bfloat16)

    setting.weights = {path: a.astype(np.float64) for path, a in w.items()}
    setting.x, setting.dout = x.astype(np.float64), dout.astype(np.float64)
    out_exact, dw_exact, dx_exact = setting.gradients(NUMPY)
    gradients = np.concatenate([dw.ravel() for dw in dw_exact.values()])
    for found, exact in ((out, out_exact), (dx, dx_exact), (buffer, gradients)):
        error = np.linalg.norm(found.double().numpy() - exact) / np.linalg.norm(exact)
        assert error <= 10 * ROUNDING


def trainer(precision: str) -> Trainer:
    """Return what trains a small class-conditional U-Net on the digits."""
    settings = DIGITS.updated(
        {
            "data": {"labels": True},
            "network": {"channels": 16, "dropout": 0.1},
            "training": {"batch_size": 32, "learning_rate": 2e-3, "warmup": 5},
        }
    )
    return make_trainer(settings, load_backend("torch", precision=precision), open_dataset("digits"))


@pytest.mark.slow
def test_learns_what_float32_learns() -> None:
    """Thirty steps, each loss within 1 % of float32's; the weights that are trained stay float32."""
    losses = {}
    for precision in ("fp32", "bf16"):
        of = trainer(precision)
        losses[precision] = np.asarray([of.train_step().loss for _ in range(30)])
        assert of.weights.dtype == torch.float32
    assert losses["fp32"][-1] < 0.7 * losses["fp32"][0]
    assert (losses["bf16"] != losses["fp32"]).any()
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.01)
