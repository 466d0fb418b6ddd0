"""How many launches a training step is, and what takes part in saving them: packed weights, places, sums."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cuda.conftest import make_shim
from helpers.cuda_shim import ShimBackend
from helpers.cuda_tape import TAPE
from helpers.launches import ELSE, CountingBackend, install_cudnn
from helpers.operations import OPERATIONS, make_case
from tinyddpm.backend import load_backend
from tinyddpm.conditions import Asked
from tinyddpm.data.base import ArrayDataset
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model
from tinyddpm.nn.layers import GroupNormSiLU, Linear, Pass
from tinyddpm.nn.parameters import Layout, ZeroGradients
from tinyddpm.ops import Operations, load_operations
from tinyddpm.ops.cuda import geometry
from tinyddpm.training import assembly

REFERENCE = Operations(load_backend("numpy"), training=True)
CIFAR = Config.from_dict({"data": {"flip": True, "labels": False}, "training": {"batch_size": 128, "threads": 1}})


@pytest.fixture
def let_go_of() -> Iterator[None]:
    """A trainer and its step know each other: what they hold, a gigabyte here, waits for the collector."""
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("let_go_of")
@pytest.mark.parametrize("with_cudnn", [False, True], ids=["own", "cuDNN"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_step_of_ddpms_network(monkeypatch: pytest.MonkeyPatch, precision: str, with_cudnn: bool) -> None:
    """At most 800 launches at batch 128, by our kernels and with a plan of cuDNN for each convolution.

    Of the 328 gradients none is added by itself, no weight is turned or cast alone, and no bias summed alone.
    """
    backend = CountingBackend(precision)
    if with_cudnn:
        install_cudnn(monkeypatch, backend)
    monkeypatch.setattr(assembly, "_try_sampler", lambda model, train: None)
    images = ArrayDataset(np.zeros((200, 32, 32, 3), np.uint8), None, name="black")
    trainer = assembly.make_trainer(CIFAR, backend, images)
    assert trainer.model.layout.size == 35_746_307
    with np.errstate(all="ignore"):
        for step in range(2):  # the second is recorded
            trainer.advance(step)
    (recorded,) = backend.recorded
    assert recorded == backend.launches.total() <= 800, backend.launches.most_common()
    by_cudnn = 10 if with_cudnn else 0  # dx of attention's maps at 16², each by the y of a transposed kernel
    convolutions = {"forward": ("y", 113 + by_cudnn), "dx": ("dx", 113 - by_cudnn), "dw": ("dw", 113)}
    for kernel, (wanted, count) in convolutions.items():
        plans = sum(backend.launches[f"cuDNN's {name}"] for name in (wanted, f"{wanted} + residual"))
        assert plans + backend.launches[f"convolution_{kernel}"] == count
        assert (plans > 70) == with_cudnn
    assert backend.launches["packed_parameters"] == 1
    assert backend.launches["sum_of_two"] == (3 if with_cudnn else 0)  # the gradients of the three halvings
    assert backend.launches[ELSE] <= 22 + by_cudnn  # the embedding of times, the loss, the transposes


SAMPLERS = ["ancestral", "ddim", "dpmpp-2m", "dpmpp-2m-sde", "euler", "heun", "unipc"]


@pytest.mark.parametrize("guidance", ["none", "cfg"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_of_a_sampler_waits_for_nothing(sampler: str, guidance: str) -> None:
    """After a step that is not recorded and one that is, none asks the device for a number or copies to it."""
    backend = CountingBackend("bf16")
    tables = {
        "network": {"channels": 8, "multipliers": [1, 1], "blocks": 1, "attention": [4]},
        "condition": {"dropout": 0.1},
        "training": {"loss": "hybrid"},
        "sampling": {"name": sampler, "steps": 6, "threshold": "dynamic" if guidance == "cfg" else "static"},
        "guidance": {"name": guidance, **({"scale": 3.0, "rescale": 0.5} if guidance == "cfg" else {})},
    }
    model = Model(Config.from_dict(tables), (4, 4, 1), ("a", "b"), backend)
    weights = backend.asarray(np.zeros(model.layout.size, np.float32))
    with np.errstate(all="ignore"):
        steps = model.sample(weights, np.arange(5), Asked(np.arange(5) % 2), 0, model.config.sampling)
        for _ in range(2):
            next(steps)
        TAPE.asked.clear()
        assert len(list(steps)) == 4
    assert not TAPE.asked


SHAPES = [(3, 3, 5, 40), (40,), (7,), (70, 33), (33,), (1, 1, 2, 1), (2, 1, 3, 4)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_laid_out_by_one_launch(precision: str) -> None:
    """As the reference reads them, in the order of the products that read them; vectors are views of the buffer."""
    make_shim("CPU, little shared memory")
    shim = ShimBackend(precision=precision)
    ops, size = load_operations(shim, training=True), sum(map(np.prod, SHAPES))
    buffer = np.random.default_rng(5).normal(size=size).astype(np.float32)
    found = ops.weights(buffer, SHAPES)
    assert shim.launched == ["packed_parameters"]
    dtype = ml_dtypes.bfloat16 if precision == "bf16" else np.float32
    for w, exact in zip(found, REFERENCE.weights(buffer, SHAPES), strict=True):
        if w.ndim == 1:
            assert np.shares_memory(w, buffer)
            np.testing.assert_array_equal(w, exact)
            continue
        assert w.dtype == dtype
        np.testing.assert_array_equal(w, exact.astype(dtype))
        assert np.moveaxis(w, -1, 0).flags.c_contiguous
    shim.launched.clear()
    ops.conv2d(np.ones((1, 4, 4, 5), dtype), found[0], found[1])
    ops.linear(np.ones((2, 70), dtype), found[3], found[4])
    assert shim.launched == ["convolution_forward"] * 2  # and nothing is copied for them


BACKWARDS: list[tuple[str, dict[str, Any]]] = [
    ("conv2d", {"n": 2, "h": 5, "w": 6, "c_in": 4, "c_out": 6, "kernel": 3, "stride": 1}),
    ("conv2d", {"n": 1, "h": 6, "w": 6, "c_in": 3, "c_out": 5, "kernel": 3, "stride": 2}),
    ("conv2d", {"n": 2, "h": 5, "w": 4, "c_in": 6, "c_out": 3, "kernel": 1, "stride": 1}),
    ("conv2d", {"n": 2, "h": 5, "w": 4, "c_in": 6, "c_out": 3, "kernel": 1, "stride": 2}),
    ("linear", {"leading": (3, 5), "c_in": 4, "c_out": 7}),
    ("group_norm", {"leading": (2, 3, 3), "groups": 2, "each": 4}),
    ("layer_norm", {"leading": (2, 3), "c": 8}),
    ("group_norm_silu", {"leading": (2, 3, 3), "groups": 2, "each": 4, "modulated": True}),
    ("group_norm_silu", {"leading": (2, 3, 3), "groups": 3, "each": 3, "modulated": False}),
]


@pytest.mark.parametrize("addends", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("operation", "shape"), BACKWARDS, ids=lambda v: v if isinstance(v, str) else "")
def test_backwards_store_and_add(
    monkeypatch: pytest.MonkeyPatch, operation: str, shape: dict[str, Any], dtype: Any, addends: int
) -> None:
    """Parameters' gradients lie in the places given, from end to end, and dx has what else reaches x.

    By kernels in float32, in parts as well; by the reference in float64.
    """
    monkeypatch.setattr(geometry, "SPLIT_STEPS", 1)
    make_shim("CPU, little shared memory")
    shim = ShimBackend()
    ops = load_operations(shim, training=True)
    case = make_case(operation, shape, seed=3).astype(dtype)
    y, saved = case.forward(ops)
    rng = np.random.default_rng(4)
    dy = rng.normal(size=y.shape).astype(dtype)
    added = tuple(rng.normal(size=(addends, *case.inputs["x"].shape)).astype(dtype))
    dx, *gradients = getattr(ops, f"{operation}_backward")(case.forward(ops)[1], dy)
    names = OPERATIONS[operation].parameters
    sizes = [case.inputs[name].size for name in names]
    room = np.full(sum(sizes) + 2, np.nan, dtype)
    into = tuple(
        room[start : start + size].reshape(case.inputs[name].shape)
        for name, size, start in zip(names, sizes, (1, 1 + sizes[0]), strict=True)
    )
    stored = getattr(ops, f"{operation}_backward")(saved, dy, into=into, added=added)
    within = 2 if "norm" in operation else 1  # addends that the kernel itself adds
    assert shim.launched.count("sum_of_two") == (max(0, addends - within) if dtype == np.float32 else 0)
    assert (stored[1], stored[2]) == (into[0], into[1]) or (stored[1] is into[0] and stored[2] is into[1])
    np.testing.assert_array_equal(into[0], gradients[0])
    np.testing.assert_array_equal(into[1], gradients[1])
    assert np.isnan(room[[0, -1]]).all()
    eps = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(stored[0], dx + sum(added), rtol=eps, atol=eps * (1 + addends))


class Counting:
    """Two layers in a row that may share their parameters, on operations that store gradients or do not."""

    def __init__(self, ops: Operations, shared: bool) -> None:
        self.ops = ops
        self.layers = [Linear("a", 6, 6), Linear("a" if shared else "b", 6, 6)]
        self.norm = GroupNormSiLU("norm", 6)
        once = self.layers[:1] if shared else self.layers
        self.layout = Layout(p for layer in (*once, self.norm) for p in layer.parameters)

    def gradients(self, zero: bool) -> np.ndarray:
        rng = np.random.default_rng(0)
        buffer = rng.normal(size=self.layout.size).astype(np.float32)
        x, dy, other = rng.normal(size=(3, 5, 6)).astype(np.float32)
        gradient = np.zeros_like(buffer)
        views = self.layout.views(gradient, np)
        dw = ZeroGradients(views) if zero else views
        for _ in range(2):  # the second pass adds to the first
            run = Pass(self.ops, self.layout.views(buffer, np), dw)
            h = x
            for layer in self.layers:
                h = layer.forward(run, h)
            self.norm.forward(run, h)
            dh = self.norm.backward(run, dy, other)
            for layer in reversed(self.layers):
                dh = layer.backward(run, dh)
            run.dw["norm/shift"] += 1  # as a network may that adds by itself
        return np.concatenate([gradient, dh.ravel()])


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_add_up_wherever_they_are_written(shared: bool) -> None:
    """Two passes, parameters used once or twice, each added to by hand too: as where nothing is written in place."""
    make_shim("CPU, little shared memory")
    expected = Counting(REFERENCE, shared).gradients(zero=False)
    for backend in (load_backend("numpy"), ShimBackend()):
        for zero in (False, True):
            found = Counting(load_operations(backend, training=True), shared).gradients(zero)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 5, 4096])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sums_of_gradients(precision: str, size: int) -> None:
    """Each number is the sum rounded once, also of views that no pack may be read from."""
    make_shim("CPU, little shared memory")
    shim = ShimBackend(precision=precision)
    ops, rng = load_operations(shim), np.random.default_rng(8)
    a, b = rng.normal(size=(2, size + 1)).astype(shim.storage)
    for first, other in ((a[:-1], b[:-1]), (a[1:], b[:-1])):
        exact = first.astype(np.float64) + other.astype(np.float64)
        np.testing.assert_array_equal(ops._sum_of_two(first, other), exact.astype(np.float32).astype(shim.storage))
    assert set(shim.launched) == {"sum_of_two"}


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_norms_of_views_that_lie_askew(precision: str, offset: int) -> None:
    """Of one sample with one pixel, cut from others at an odd channel: contiguous, but no pack of four may be read."""
    make_shim("CPU, little shared memory")
    dtype = ml_dtypes.bfloat16 if precision == "bf16" else np.float32
    ops, rng = load_operations(ShimBackend(precision=precision), training=True), np.random.default_rng(6)

    def askew(shape: tuple[int, ...]) -> np.ndarray:
        room = np.zeros(np.prod(shape, dtype=int) + 8, dtype)
        start = offset + (-room.ctypes.data // dtype(0).itemsize) % 4
        view = room[start : start + room.size - 8].reshape(shape)
        view[...] = rng.normal(size=shape)
        return view

    x, dy, added, more = (askew((1, 1, 1, 16)) for _ in range(4))
    scale, shift = np.ones(16, np.float32), np.zeros(16, np.float32)
    y, saved = ops.group_norm_silu(x, scale, shift, 4)
    dx, *_ = ops.group_norm_silu_backward(saved, dy, added=(added, more))
    wide = [a.astype(np.float64) for a in (x, dy, added, more)]
    y_exact, kept = REFERENCE.group_norm_silu(wide[0], scale, shift, 4)
    dx_exact = REFERENCE.group_norm_silu_backward(kept, wide[1])[0] + wide[2] + wide[3]
    unit = 2.0**-8 if precision == "bf16" else 2.0**-20
    for found, exact in ((y, y_exact), (dx, dx_exact)):
        np.testing.assert_allclose(found.astype(np.float64), exact, rtol=unit, atol=16 * 2.0**-23 * np.abs(exact).max())
