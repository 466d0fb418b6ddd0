"""What the trainer relies on: no state on the network, gradients that add up, samples that do not see each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from helpers.comparison import assert_close
from helpers.networks import SKETCHES, Setting, is_key_bias
from tinyddpm.backend import Backend
from tinyddpm.ops import load_operations

pytestmark = pytest.mark.parametrize("name", SKETCHES)


def test_backward_uses_up_its_residuals(numpy_backend: Backend, name: str) -> None:
    """Each is popped once: the stack that forward filled is empty. Without training there is none."""
    setting = Setting(SKETCHES[name])
    assert setting.forward(numpy_backend, training=False)[1] is None
    _, saved = setting.forward(numpy_backend)
    runs = [run for run in saved if run]
    assert len(runs) == 1 + bool(SKETCHES[name].classes)
    assert all(run.stack for run in runs)
    setting.backward(numpy_backend, saved, setting.no_gradients(numpy_backend))
    assert [run.stack for run in runs] == [[]] * len(runs)


def test_gradients_accumulate(numpy_backend: Backend, name: str) -> None:
    """Backward twice into one flat buffer leaves twice the gradient there, exactly."""
    setting = Setting(SKETCHES[name])
    once, twice = setting.no_gradients(numpy_backend), setting.no_gradients(numpy_backend)
    for buffer in (once, twice, twice):
        setting.backward(numpy_backend, setting.forward(numpy_backend)[1], buffer)
    for path, gradient in setting.layout.views(once, np).items():
        assert np.any(gradient) or is_key_bias(path)
    np.testing.assert_array_equal(twice, 2 * once)


def test_passes_may_interleave(numpy_backend: Backend, name: str) -> None:
    """Two forwards, then their backwards, first first: nothing is kept on the network in between."""
    one = Setting(SKETCHES[name], seed=1)
    other = Setting(SKETCHES[name], seed=2)
    other.network = one.network
    expected = one.gradients(numpy_backend), other.gradients(numpy_backend)

    out = [setting.forward(numpy_backend) for setting in (one, other)]
    for setting, (prediction, saved), (expected_out, expected_dw, expected_dx) in zip(
        (one, other), out, expected, strict=True
    ):
        buffer = setting.no_gradients(numpy_backend)
        dx = setting.backward(numpy_backend, saved, buffer)
        np.testing.assert_array_equal(prediction, expected_out)
        np.testing.assert_array_equal(dx, expected_dx)
        for path, gradient in setting.layout.views(buffer, np).items():
            np.testing.assert_array_equal(gradient, expected_dw[path], err_msg=path)


def test_threads_share_a_network(numpy_backend: Backend, name: str) -> None:
    """Two threads on two microbatches at a time find what each finds alone."""
    settings = [Setting(SKETCHES[name], seed=seed) for seed in (1, 2)]
    settings[1].network = settings[0].network
    expected = [setting.gradients(numpy_backend) for setting in settings]
    start = Barrier(2)

    def work(setting: Setting) -> list[Any]:
        start.wait()
        return [setting.gradients(numpy_backend) for _ in range(5)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, settings))
    for (out, dw, dx), rounds in zip(expected, found, strict=True):
        for out_thread, dw_thread, dx_thread in rounds:
            assert_close(out_thread, out, 1e-12, "prediction")
            assert_close(dx_thread, dx, 1e-12, "dx")
            for path in dw:
                assert_close(dw_thread[path], dw[path], 1e-12, path, floor=1e-3)


def test_samples_do_not_see_each_other(numpy_backend: Backend, name: str) -> None:
    """A sample alone is predicted as in a batch, to 1e-12; so is what reaches it backwards."""
    setting = Setting(SKETCHES[name], n=3)
    ops = load_operations(numpy_backend, training=True)
    out, saved = setting.forward(numpy_backend, noise=False)
    dx = setting.backward(numpy_backend, saved, setting.no_gradients(numpy_backend))
    for i in range(3):
        alone = slice(i, i + 1)
        cond = {kind: values[alone] for kind, values in setting.cond.items()}
        y, saved = setting.network.forward(ops, setting.weights, setting.x[alone], setting.t[alone], cond)
        assert_close(y, out[alone], 1e-12, f"sample {i}")
        dw = setting.layout.views(setting.no_gradients(numpy_backend), np)
        dx_alone = setting.network.backward(saved, dw, setting.dout[alone])
        assert_close(dx_alone, dx[alone], 1e-12, f"dx of sample {i}")


def test_time_and_label_matter(numpy_backend: Backend, name: str) -> None:
    """Another step or class of the first sample changes its prediction, and no other's."""
    setting = Setting(SKETCHES[name])
    out, _ = setting.forward(numpy_backend)
    setting.t = setting.t + np.asarray([1, 0])
    changes = [setting.forward(numpy_backend)[0]]
    if setting.cond:
        setting.t = setting.t - np.asarray([1, 0])
        setting.cond = {"label": (setting.cond["label"] + np.asarray([1, 0])) % SKETCHES[name].classes}
        changes.append(setting.forward(numpy_backend)[0])
    for changed in changes:
        assert np.max(np.abs(changed[0] - out[0])) > 1e-3
        np.testing.assert_array_equal(changed[1], out[1])


def test_computes_in_float32(numpy_backend: Backend, name: str) -> None:
    """float32 weights and images give float32 predictions and dx, those of float64 to 1e-4."""
    setting = Setting(SKETCHES[name])
    out, _, dx = setting.gradients(numpy_backend)
    single = Setting(SKETCHES[name])
    single.x, single.dout = single.x.astype(np.float32), single.dout.astype(np.float32)
    single.weights = {path: w.astype(np.float32) for path, w in single.weights.items()}
    out_single, _, dx_single = single.gradients(numpy_backend)
    assert_close(out_single, out.astype(np.float32), 1e-4, "prediction")
    assert_close(dx_single, dx.astype(np.float32), 1e-4, "dx")
