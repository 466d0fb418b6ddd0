"""Blocks that are run again on the way back: the same bits as with their residuals kept, in a part of the memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from helpers.networks import SKETCHES, Setting
from tinyddpm.backend import Backend
from tinyddpm.model.config import preset
from tinyddpm.nn import DropoutNoise, Layout, Told, Widths, make_network
from tinyddpm.nn.layers import Pass
from tinyddpm.ops import load_operations


def assert_same_bits(setting: Setting, backend: Backend) -> None:
    out, dw, dx = setting.gradients(backend)
    out_again, dw_again, dx_again = setting.gradients(backend, recompute=True)
    np.testing.assert_array_equal(out_again, out)
    np.testing.assert_array_equal(dx_again, dx)
    for path, gradient in dw.items():
        np.testing.assert_array_equal(dw_again[path], gradient, err_msg=path)


@pytest.mark.parametrize("name", SKETCHES)
def test_gradients_have_the_same_bits(numpy_backend: Backend, name: str) -> None:
    """With dropout, attention, modulation and classes, in float64 and float32."""
    assert_same_bits(Setting(SKETCHES[name]), numpy_backend)
    single = Setting(SKETCHES[name])
    single.x, single.dout = single.x.astype(np.float32), single.dout.astype(np.float32)
    single.weights = {path: w.astype(np.float32) for path, w in single.weights.items()}
    assert_same_bits(single, numpy_backend)


@pytest.mark.slow
@pytest.mark.parametrize("name", SKETCHES)
def test_so_they_do_on_other_backends(other_backend: Backend, name: str) -> None:
    assert_same_bits(Setting(SKETCHES[name]), other_backend)


@pytest.mark.parametrize("name", SKETCHES)
def test_only_the_inputs_of_blocks_are_kept(numpy_backend: Backend, name: str) -> None:
    """Fewer residuals lie on the stack, which backward uses up; without training there are none."""
    setting = Setting(SKETCHES[name])
    assert setting.forward(numpy_backend, training=False)[1] is None
    (kept, _), (recomputed, _) = (setting.forward(numpy_backend, recompute=r)[1] for r in (False, True))
    assert isinstance(recomputed, Pass)
    assert len(recomputed.stack) < len(kept.stack)
    saved = setting.forward(numpy_backend, recompute=True)[1]
    setting.backward(numpy_backend, saved, setting.no_gradients(numpy_backend))
    assert saved[0].stack == []


@pytest.mark.slow
def test_memory_of_ddpms_network(numpy_backend: Backend) -> None:
    """What a forward of DDPM's CIFAR-10 network leaves behind is at most 0.6 of what it was, counted in bytes.

    And so is the most that there is at any time until backward is done, of a batch whose residuals outweigh gradients.
    """
    config, shape, n = preset("cifar10").config, preset("cifar10").sample_shape, 4
    network = make_network("unet", shape, Widths(), shape[-1], config.network.options)
    layout = Layout(network.parameters)
    w = layout.views(layout.initialise(seed=1), np)
    x, t = np.random.default_rng(1).standard_normal((n, *shape), np.float32), np.arange(n)
    dw = layout.views(np.zeros(layout.size, np.float32), np)
    left, most = {}, {}
    for recompute in (False, True):
        ops, noise = load_operations(numpy_backend, True, recompute), DropoutNoise(numpy_backend.random(1), 0, t)
        tracemalloc.start()
        out, saved = network.forward(ops, w, x, t, Told(), noise)
        left[recompute] = tracemalloc.get_traced_memory()[0]
        network.backward(saved, dw, out)
        most[recompute] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert left[True] <= 0.6 * left[False]
    assert most[True] <= 0.6 * most[False]
