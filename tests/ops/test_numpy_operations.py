"""NumPy's overrides against the reference operations, on random shapes and across the borders of their blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyddpm.backend import load_backend
from tinyddpm.ops import Operations, load_operations, numpy_operations, winograd
from tinyddpm.ops.numpy_operations import NumpyOperations

NUMPY = load_backend("numpy")
REFERENCE, OURS = Operations(NUMPY, training=True), NumpyOperations(NUMPY, training=True)


def close(ours: np.ndarray, reference: np.ndarray) -> None:
    """float32 results differ by rounding alone: by 2e-5 of the largest element, Winograd's transforms included."""
    assert ours.dtype == reference.dtype == np.float32
    assert ours.shape == reference.shape
    np.testing.assert_allclose(ours, reference, rtol=0, atol=2e-5 * max(1.0, np.abs(reference).max()))


@pytest.fixture(params=["small blocks", "blocks as shipped", "Winograd wherever it can"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks":
        monkeypatch.setattr(numpy_operations, "PATCHES", 20_000)
        monkeypatch.setattr(numpy_operations, "PIECE", 500)
    if request.param == "Winograd wherever it can":
        monkeypatch.setattr(winograd, "pays", lambda x, c_out: True)
        monkeypatch.setattr(winograd, "BLOCK_TILES", 4)
        monkeypatch.setattr(winograd, "BLOCK_ELEMENTS", 1)


def test_these_are_the_numpy_backends() -> None:
    assert type(load_operations(NUMPY)) is NumpyOperations


SIDES, CHANNELS = st.integers(1, 9), st.integers(1, 7)


@pytest.mark.usefixtures("blocks")
@given(
    n=st.integers(1, 9), h=SIDES, w=SIDES, c_in=CHANNELS, c_out=CHANNELS, kh=st.integers(1, 4), kw=st.integers(1, 4),
    stride=st.sampled_from([1, 2]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_convolution(n: int, h: int, w: int, c_in: int, c_out: int, kh: int, kw: int, stride: int, seed: int) -> None:
    """Over batch sizes, odd and even sides, channels, kernels of any size and both strides; several blocks and one."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, h, w, c_in), np.float32)
    weights, bias = rng.standard_normal((kh, kw, c_in, c_out), np.float32), rng.standard_normal(c_out, np.float32)
    y, saved = OURS.conv2d(x, weights, bias, stride)
    expected, expected_saved = REFERENCE.conv2d(x, weights, bias, stride)
    close(y, expected)
    dy = rng.standard_normal(y.shape, np.float32)
    for ours, reference in zip(
        OURS.conv2d_backward(saved, dy), REFERENCE.conv2d_backward(expected_saved, dy), strict=True
    ):
        close(ours, reference)


@pytest.mark.usefixtures("blocks")
@given(
    n=st.integers(1, 9), pixels=st.lists(SIDES, min_size=1, max_size=2), groups=st.integers(1, 4),
    of_each=st.integers(1, 4), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_group_norm(n: int, pixels: list[int], groups: int, of_each: int, seed: int) -> None:
    """Over batch sizes, images, rows of tokens, numbers of groups and channels; several blocks and one.

    ε is 1e-2: in a group of few, almost equal elements a smaller one makes the gradient a matter of rounding.
    """
    rng = np.random.default_rng(seed)
    c = groups * of_each
    x = 2 * rng.standard_normal((n, *pixels, c), np.float32) + 1
    scale, shift = rng.standard_normal((2, c), np.float32)
    y, saved = OURS.group_norm(x, scale, shift, groups, 1e-2)
    expected, expected_saved = REFERENCE.group_norm(x, scale, shift, groups, 1e-2)
    close(y, expected)
    dy = rng.standard_normal(y.shape, np.float32)
    for ours, reference in zip(
        OURS.group_norm_backward(saved, dy), REFERENCE.group_norm_backward(expected_saved, dy), strict=True
    ):
        close(ours, reference)


def test_networks_agree_over_two_hundred_steps() -> None:
    """A small U-Net trained by the reference and by the overrides: losses agree, to rounding's growth of 1e-3."""
    from tinyddpm.training.assembly import make_trainer, open_data
    from tinyddpm.training.config import Config

    config = Config.from_dict(
        {
            "network": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.1},
            "schedule": {"name": "cosine", "timesteps": 50},
            "training": {"batch_size": 16, "learning_rate": 1e-3, "warmup": 20},
        }
    )
    ours, reference = (make_trainer(config, NUMPY, open_data(config)) for _ in range(2))
    reference._training_ops = REFERENCE
    losses = [(ours.train_step().loss, reference.train_step().loss) for _ in range(200)]
    a, b = np.asarray(losses).T
    assert (a != b).any()
    np.testing.assert_allclose(a, b, rtol=1e-3)
