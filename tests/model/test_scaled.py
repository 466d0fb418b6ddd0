"""A network that is shown x_t at a scale: what it predicts, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest

from tinyddpm.backend import load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.model.config import preset
from tinyddpm.model.model import Model
from tinyddpm.model.scaled import ScaledInput
from tinyddpm.nn import Layout, Told, Widths, make_network
from tinyddpm.ops import Operations
from tinyddpm.testing import check_projection, random_weights

NUMPY = load_backend("numpy")


def test_it_is_the_network_of_the_scaled_input(rng: np.random.Generator) -> None:
    """Its output is that of scale_t x_t, and dx and the parameters' gradients are those of the composition."""
    network = make_network("mlp", (2,), Widths(), 2, {"width": 8, "depth": 1})
    process = GaussianProcess(NUMPY, np.full(5, 0.1), dtype=np.float64)
    scale = np.linspace(0.5, 2, 5)
    scaled, ops = ScaledInput(network, process.table(scale)), Operations(NUMPY, training=True)
    w, t = random_weights(Layout(network.parameters), 0), np.array([0, 4, 2])
    x, dout = rng.standard_normal((2, 3, 2))
    out, saved = scaled.forward(ops, w, x, t, Told())
    np.testing.assert_array_equal(out, network.forward(ops, w, scale[t][:, None] * x, t, Told())[0])
    dw = {path: np.zeros_like(value) for path, value in w.items()}
    dx, _ = scaled.backward(saved, dw, dout)
    check_projection(lambda x: scaled.forward(ops, w, x, t, Told())[0], x, dout, dx, rng)


def test_a_model_shows_its_network_edms_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the scale is not 1 everywhere."""
    made = []
    monkeypatch.setattr(
        "tinyddpm.model.model.ScaledInput", lambda *arguments: made.append(1) or ScaledInput(*arguments)
    )
    config = preset("toy").config.updated({"weighting": {"name": "uniform"}})
    for predict, options, wrapped in (("edm", {}, True), ("edm", {"sigma_data": 1.0}, False), ("eps", {}, False)):
        changed = config.updated({"training": {"predict": predict}, "parametrisation": options})
        made.clear()
        Model(changed, (2,), (), NUMPY)
        assert bool(made) == wrapped
