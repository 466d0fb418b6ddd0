"""The CuPy backend itself at work, on a stand-in for CuPy: it trains and draws as the kernels do without it."""

from __future__ import annotations

import numpy as np
import pytest

from cuda.conftest import make_shim
from helpers import cupy_stand_in
from helpers.cuda_shim import ShimBackend
from helpers.runs import ADAPTIVE, PLANE, data_of
from tinyddpm.backend import load_backend
from tinyddpm.conditions import Asked
from tinyddpm.model.sampling import draw
from tinyddpm.training import feed
from tinyddpm.training.assembly import make_trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "graph", "whole"),
    [
        ("fp32", True, True),
        ("fp32", False, False),
        ("bf16", True, False),
        ("bf16", False, True),
    ],
)
def test_trains_and_draws(monkeypatch: pytest.MonkeyPatch, precision: str, graph: bool, whole: bool) -> None:
    """Points: four steps, a held-out loss and a few samples, bit for bit, and nothing outside of a scope."""
    make_shim("CPU, little shared memory")
    settings = PLANE.updated({"sampling": {"name": "ddim", "steps": 5}})
    cupy_stand_in.install(monkeypatch)
    if not whole:
        monkeypatch.setattr(feed, "SHARE", 0.0)
    found = []
    for backend in (load_backend("cupy", precision=precision, graph=graph), ShimBackend(232448, precision)):
        trainer = make_trainer(settings, backend, data_of(settings))
        results = [trainer.train_step() for _ in range(4)]
        options = {"seed": 0, "sampling": settings.sampling, "batch_size": 4}
        drawn = draw(trainer.model, trainer.ema, np.arange(6), Asked(np.zeros(6, int)), **options).values
        found.append((results, trainer.validation_loss(), drawn.tobytes(), trainer.checkpoint({}).ema.tobytes()))
        assert len(cupy_stand_in.Stream.current) == 1
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_network_of_every_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A U-Net with classes, attention, adaptive norms and dropout: three steps, bit for bit."""
    make_shim("CPU, little shared memory")
    cupy_stand_in.install(monkeypatch)
    ours, plain = (
        make_trainer(ADAPTIVE, backend, data_of(ADAPTIVE)) for backend in (load_backend("cupy"), ShimBackend(232448))
    )
    assert [ours.train_step() for _ in range(3)] == [plain.train_step() for _ in range(3)]


def test_says_what_it_is_and_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy_stand_in.install(monkeypatch)
    backend = load_backend("cupy", "cuda:0", "tf32")
    assert backend.describe() == (
        "cupy 14.0 on cuda:0 (Some card), CUDA 13.0, driver for CUDA 13.0, no cuDNN (own convolution kernels), tf32"
    )
    assert (backend.peak_memory(), backend.free_memory()) == (6 * 2**20, cupy_stand_in.MEMORY)
