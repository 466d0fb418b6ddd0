"""Recording: what a graph replays is what its function does, and a training step or a network can be recorded whole."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cuda.conftest import make_shim
from helpers.cuda_shim import ShimBackend
from helpers.cuda_tape import TapeBackend
from helpers.runs import ADAPTIVE, GUIDED, PICTURES, PLANE, config, data_of, known_of
from tinyddpm.backend import Backend, load_backend
from tinyddpm.backend.captured import Captured
from tinyddpm.conditions import Asked
from tinyddpm.data.batching import make_order
from tinyddpm.errors import TrainingError
from tinyddpm.model.sampling import draw
from tinyddpm.training import feed
from tinyddpm.training.assembly import make_trainer
from tinyddpm.training.device_step import DeviceStep

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")

CUT = GUIDED.updated({"training": {"accumulate": 2, "predict": "v"}, "weighting": {"name": "min-snr"}})
TEXT = {"name": "text", "dropout": 0.5, "token_width": 8, "depth": 1, "heads": 2, "length": 6, "words": ["red", "up"]}
CAPTIONS = PICTURES.updated({"data": {"labels": False}, "condition": TEXT})
TOKENS = CAPTIONS.updated(
    {
        "condition": {"name": "embeddings", "dropout": 0.5, "token_width": 8, "length": 3, "size": 2},
        "network": {"text": "concat"},
    }
)
SHOWN = CAPTIONS.updated({"condition": {"name": "image", "dropout": 0.5}})
TRANSFORMED = GUIDED.updated(
    {
        "data": {"flip": False, "tell_transforms": True, "balance": "weights"},
        "transforms": {"colour": {"p": 0.5}, "shift": {"most": 1, "p": 0.5}, "flip": {}, "crop": {"p": 0.5}},
        "training": {"accumulate": 2},
    }
)
RUNS = {
    "unet": PICTURES,
    "adaptive, hybrid": ADAPTIVE,
    "accumulated, v, weighted": CUT,
    "points": PLANE,
    "captions": CAPTIONS,
    "tokens": TOKENS,
    "pictures": SHOWN,
    "transformed, told": TRANSFORMED,
}
RECORDED = [*zip(RUNS, ("bf16", "tf32", "fp32", "bf16", "bf16", "fp32", "bf16", "bf16"), strict=True)]
"""Each kind of run, and each precision, is recorded."""


@pytest.fixture
def tape() -> TapeBackend:
    make_shim("CPU, little shared memory")
    return TapeBackend()


def test_the_tape_forgets_what_is_not_recorded(tape: TapeBackend) -> None:
    """A function that adds to a state is recorded without effect; what it takes from the host stays what it was."""
    state, calls = tape.asarray(np.zeros(3)), []

    def advance(x: Any) -> tuple[Any]:
        calls.append(1)
        nonlocal state
        state += x * len(calls)
        return (state * 2,)

    captured = tape.captured(advance)
    ones = tape.asarray(np.ones(3))
    sums = [np.asarray(captured(ones)[0])[0] for _ in range(4)]
    assert sums == [2, 6, 10, 14]  # once 1, then always 2
    assert len(calls) == 2
    np.testing.assert_array_equal(captured(3 * ones)[0], 26)


def test_results_are_the_callers_own_and_shapes_have_graphs_of_their_own(tape: TapeBackend) -> None:
    captured = tape.captured(lambda x: (x + 1,))
    short, long = tape.asarray(np.zeros(2)), tape.asarray(np.zeros(5))
    kept = [captured(x * 0 + k)[0] for k in range(5) for x in (short, long)]
    assert [(len(y), float(y[0])) for y in kept] == [(n, k + 1) for k in range(5) for n in (2, 5)]
    assert len(tape.recorded) == 2


@pytest.mark.parametrize(
    ("function", "what", "error"),
    [
        (lambda x: (x * float(x[0]),), "a number asked for", RuntimeError),
        (lambda x: (x @ x,), "a product by cuBLAS", NotImplementedError),
        (lambda x: (x if x[0] > 0 else -x,), "a truth asked for", RuntimeError),
    ],
)
def test_what_a_gpu_would_not_record(
    tape: TapeBackend, function: Callable[..., Any], what: str, error: type[RuntimeError]
) -> None:
    captured, x = tape.captured(function), tape.asarray(np.ones(2))
    captured(x)
    with pytest.raises(error, match=what) as raised:
        captured(x)
    assert raised.type is error


def test_recording_that_fails_is_tried_again(tape: TapeBackend) -> None:
    """No half of a recording is kept."""
    failing = [False, True, False, False]

    def function(x: Any) -> tuple[Any]:
        if failing.pop(0):
            raise MemoryError
        return (x + 1,)

    captured = Captured(tape._record, function)
    x = tape.asarray(np.ones(2))
    captured(x)
    with pytest.raises(MemoryError):
        captured(x)
    np.testing.assert_array_equal(captured(x)[0], 2)


def test_a_first_call_that_fails_is_made_again(tape: TapeBackend) -> None:
    """Nothing is recorded before a call has come to its end: kernels may not be compiled, nor algorithms chosen."""
    failing = [True, False, False]

    def function(x: Any) -> tuple[Any]:
        if failing.pop(0):
            raise MemoryError
        return (x + 1,)

    captured, x = tape.captured(function), tape.asarray(np.ones(2))
    with pytest.raises(MemoryError):
        captured(x)
    for recorded in ([], [1]):
        np.testing.assert_array_equal(captured(x)[0], 2)
        assert tape.recorded == recorded


@pytest.mark.parametrize(("name", "precision"), RECORDED)
def test_recorded_training_is_the_same_training(tape: TapeBackend, name: str, precision: str) -> None:
    """Three steps, the second recorded and replayed from then on: bit for bit those that are not recorded."""
    settings = RUNS[name]
    tape = TapeBackend(precision=precision)
    shim = ShimBackend(precision=precision)
    recorded, plain = (make_trainer(settings, backend, data_of(settings)) for backend in (tape, shim))
    results = [(recorded.train_step(), plain.train_step()) for _ in range(3)]
    assert [a for a, _ in results] == [b for _, b in results]
    assert len({a.loss for a, _ in results}) == 3
    for ours, theirs in zip(recorded.state.buffers, plain.state.buffers, strict=True):
        np.testing.assert_array_equal(tape.to_numpy(ours), theirs)
    assert len(tape.recorded) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_training_is_the_same_training(precision: str) -> None:
    """Recorded, with dropout, classes, adaptive norms and attention: three steps, bit for bit."""
    make_shim("CPU, little shared memory")
    plain, recomputed = ADAPTIVE, config(ADAPTIVE, recompute=True)
    tape, shim = TapeBackend(precision=precision), ShimBackend(precision=precision)
    ours, theirs = make_trainer(recomputed, tape, data_of(recomputed)), make_trainer(plain, shim, data_of(plain))
    assert [ours.train_step() for _ in range(3)] == [theirs.train_step() for _ in range(3)]
    np.testing.assert_array_equal(tape.to_numpy(ours.ema), shim.to_numpy(theirs.ema))
    assert len(tape.recorded) == 1


@pytest.mark.parametrize("name", RUNS)
def test_the_device_trains_as_the_host_does(name: str) -> None:
    """Six steps: losses within 1e-5 of NumPy's, gradients' norms within 1e-4, growth included. And resumed."""
    make_shim("CPU, little shared memory")
    settings, shim = RUNS[name], ShimBackend()
    ours, theirs = (make_trainer(settings, backend, data_of(settings)) for backend in (shim, NUMPY))
    assert isinstance(ours.advance, DeviceStep)
    for step in range(6):
        if step == 3:
            before, ours = ours, make_trainer(settings, shim, data_of(settings))
            ours.restore(before.checkpoint({}))
        a, b = ours.train_step(), theirs.train_step()
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)
        assert (a.step, a.learning_rate) == (b.step, b.learning_rate)


def test_bf16_trains_nearly_as_fp32_does() -> None:
    """Four steps from random weights: losses within 1 %, and float32 weights that move by less than bfloat16 tells."""
    make_shim("CPU, little shared memory")
    settings = config(PICTURES, learning_rate=1e-6, warmup=0)
    exact, mixed = (make_trainer(settings, ShimBackend(precision=p), data_of(settings)) for p in ("fp32", "bf16"))
    before = np.random.default_rng(2).uniform(0.05, 0.1, exact.weights.size).astype(np.float32)
    before *= np.random.default_rng(3).choice([-1, 1], before.size)
    exact.weights[...] = mixed.weights[...] = before
    for _ in range(4):
        a, b = exact.train_step(), mixed.train_step()
        assert a.loss == pytest.approx(b.loss, rel=1e-2)
        assert a.loss != b.loss
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=3e-2)
    assert mixed.weights.dtype == np.float32
    assert (mixed.weights != before).mean() > 0.9
    stored = mixed.model.backend.storage
    assert (mixed.weights.astype(stored) != before.astype(stored)).mean() < 0.05


def test_a_recording_goes_on_from_what_is_restored(tape: TapeBackend) -> None:
    """Back to the third step of five, the same recording does the last two again, bit for bit."""
    trainer = make_trainer(PLANE, tape, data_of(PLANE))
    for _ in range(3):
        trainer.train_step()
    kept = trainer.checkpoint({})
    kept.weights, kept.ema, kept.adam_m, kept.adam_v = (
        buffer.copy() for buffer in (kept.weights, kept.ema, kept.adam_m, kept.adam_v)
    )
    kept.averages = {name: buffer.copy() for name, buffer in kept.averages.items()}
    last = [trainer.train_step() for _ in range(2)]
    came_to = [tape.to_numpy(buffer).copy() for buffer in trainer.state.buffers]
    trainer.restore(kept)
    assert [trainer.train_step() for _ in range(2)] == last
    for ours, theirs in zip(trainer.state.buffers, came_to, strict=True):
        np.testing.assert_array_equal(tape.to_numpy(ours), theirs)
    assert len(tape.recorded) == 1


def test_a_hundred_steps_are_numpys() -> None:
    """Of the points' training: losses within 1e-4 all the way, rounding's growth included."""
    make_shim("CPU, little shared memory")
    settings = PLANE
    ours, theirs = (make_trainer(settings, backend, data_of(settings)) for backend in (ShimBackend(), NUMPY))
    losses = [(ours.train_step().loss, theirs.train_step().loss) for _ in range(100)]
    np.testing.assert_allclose(*np.transpose(losses), rtol=1e-4)


@pytest.mark.parametrize(("name", "precision"), RECORDED)
def test_recorded_sampling_draws_the_same(name: str, precision: str) -> None:
    """Two batches, of unequal size."""
    make_shim("CPU, little shared memory")
    settings = RUNS[name]
    tape, drawn = TapeBackend(precision=precision), []
    for backend in (tape, ShimBackend(precision=precision)):
        trainer = make_trainer(settings, backend, data_of(settings))
        weights = backend.asarray(np.random.default_rng(1).normal(0, 0.1, trainer.model.layout.size).astype(np.float32))
        numbers = np.arange(5)
        options = {"seed": 3, "sampling": settings.sampling, "batch_size": 3}
        asked = Asked(numbers % 4, known_of(numbers % 4))
        drawn.append(draw(trainer.model, weights, numbers, asked, **options).values)
    np.testing.assert_array_equal(*drawn)
    assert tape.recorded


def test_a_denoiser_takes_its_recording_along(tape: TapeBackend) -> None:
    """At once, and with it the memory on the card: nothing that refers to itself waits for the garbage collector."""
    model = make_trainer(PLANE, tape, data_of(PLANE)).model
    weights, asked = tape.asarray(np.zeros(model.layout.size, np.float32)), Asked(np.zeros(2, int))
    denoiser = model.network_denoiser(weights, asked)
    for _ in range(2):
        denoiser(tape.asarray(np.zeros((2, 2), np.float32)), 3)
    assert len(tape.recorded) == 1
    left = weakref.ref(denoiser), weakref.ref(denoiser._forward)
    gc.disable()
    del denoiser
    gone = [reference() is None for reference in left]
    gc.enable()
    assert gone == [True, True]


def test_a_data_set_that_does_not_fit_comes_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps, bit for bit, also from the middle of a run."""
    make_shim("CPU, little shared memory")
    settings = CUT
    whole = make_trainer(settings, ShimBackend(), data_of(settings))
    monkeypatch.setattr(feed, "SHARE", 0.0)
    cut = make_trainer(settings, ShimBackend(), data_of(settings))
    assert (whole.advance.feed.whole, cut.advance.feed.whole) == (True, False)
    assert cut.advance.feed.data.shape == (3, 4, 6, 1)
    for step in (0, 1, 2, 7, 8):
        whole.step = cut.step = step
        assert whole.train_step() == cut.train_step()
    np.testing.assert_array_equal(whole.weights, cut.weights)


def test_a_large_data_set_moves_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CHUNK", 100)
    settings = PICTURES
    dataset = data_of(settings)
    moved = feed.make_feed(ShimBackend(), dataset, make_order(dataset, 3, 0, "none"), slice(0, 3))
    assert moved.whole
    np.testing.assert_array_equal(moved.data, dataset.read(np.arange(23)))


@pytest.mark.parametrize("backend", [ShimBackend, TapeBackend])
def test_a_step_that_is_not_finite_changes_nothing(backend: Callable[[], Backend]) -> None:
    make_shim("CPU, little shared memory")
    settings = PLANE
    trainer = make_trainer(settings, backend(), data_of(settings))
    for _ in range(3):
        trainer.train_step()
    trainer.weights[0] = np.inf
    before = [np.array(buffer) for buffer in trainer.state.buffers]
    with pytest.raises(TrainingError, match="step 4"):
        trainer.train_step()
    for buffer, expected in zip(trainer.state.buffers, before, strict=True):
        np.testing.assert_array_equal(np.array(buffer), expected)
