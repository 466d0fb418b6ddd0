"""The flat buffer: its layout, its views, and the laws of its initial values."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from math import erf, log, prod, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.networks import SKETCHES
from tinyddpm.backend import Backend
from tinyddpm.errors import ConfigError
from tinyddpm.nn import Layout, Parameter, Parts
from tinyddpm.nn.parameters import ONES, ZEROS, Init, ZeroGradients, fan_average

SIGMAS = 5.0
"""Moments may be off by this many standard errors: one right test in 1.7 million fails."""


def parameters(*shapes: tuple[int, ...]) -> list[Parameter]:
    return [Parameter(f"layer_{i}/w", shape, ZEROS) for i, shape in enumerate(shapes)]


@given(shapes=st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), max_size=6))
def test_views_tile_the_buffer(numpy_backend: Backend, shapes: list[tuple[int, ...]]) -> None:
    """For any shapes: every element of the buffer is in exactly one view, in order, and written through it."""
    layout = Layout(parameters(*shapes))
    assert layout.size == sum(prod(shape) for shape in shapes)
    buffer = np.zeros(layout.size, np.float32)
    views = layout.views(buffer, numpy_backend.xp)
    for number, (path, view) in enumerate(views.items(), start=1):
        assert path == f"layer_{number - 1}/w"
        view += number
    assert [view.shape for view in views.values()] == shapes
    np.testing.assert_array_equal(buffer, np.repeat(np.arange(len(shapes)) + 1, [prod(shape) for shape in shapes]))


def test_views_are_views_on_every_backend(other_backend: Backend) -> None:
    """What is added in place to a view is in the buffer."""
    buffer = other_backend.asarray(np.zeros(10))
    views = Layout(parameters((2, 3), (4,))).views(buffer, other_backend.xp)
    views["layer_1/w"] += 1.0
    np.testing.assert_array_equal(other_backend.to_numpy(buffer), [0] * 6 + [1] * 4)


@pytest.mark.parametrize(
    "paths",
    [
        [""],
        ["/w"],
        ["w/"],
        ["a//w"],
        ["A/w"],
        ["a.b/w"],
        ["a b"],
        ["../w"],
        ["w\n"],
        ["é"],
        ["a/w", "b/w", "a/w"],
        ["a", "a/w"],
        ["a/b/w", "a"],
        ["a/b/c/w", "a/b"],
    ],
)
def test_bad_paths_are_refused(paths: list[str]) -> None:
    """They would not be names of HDF5 data sets, or would be two at once. The error is one line with the path."""
    with pytest.raises(ConfigError) as error:
        Layout([Parameter(path, (1,), ZEROS) for path in paths])
    assert any(repr(path) in str(error.value) for path in paths)
    assert "\n" not in str(error.value)


def test_paths_may_share_a_beginning() -> None:
    """`a/w` beside `a_b/w` and `a/w_2` is no conflict."""
    assert Layout([Parameter(path, (2,), ONES) for path in ("a/w", "a_b/w", "a/w_2", "w")]).size == 8


def test_gradients_that_are_being_written_are_waited_for_before_they_are_read() -> None:
    """From when they are handed out to be written to; those that are still zero are not waited for."""
    waits: list[str] = []
    dw = ZeroGradients({name: np.zeros(2) for name in "abc"}, lambda: waits.append("waited"))
    dw["a"] += 1
    assert dw.taken(("b", "c")) is not None
    assert waits == []
    dw["c"] += 1
    assert waits == ["waited"]
    assert dw.taken(("b",)) is None


def test_constants_are_exact() -> None:
    layout = Layout(
        [Parameter("a", (5,), ZEROS), Parameter("b", (2, 2), ONES), Parameter("c", (), Init("constant", 0.5))]
    )
    buffer = layout.initialise(seed=1)
    assert buffer.dtype == np.float32
    np.testing.assert_array_equal(buffer, [0] * 5 + [1] * 4 + [0.5])


@pytest.mark.parametrize(
    ("shape", "scale", "variance"),
    [
        ((3, 3, 32, 96), 1.0, 1 / (9 * 64)),  # fan-in 9 · 32, fan-out 9 · 96: their mean is 9 · 64
        ((3, 3, 64, 64), 1e-10, 1e-10 / (9 * 64)),
        ((128, 512), 1.0, 1 / 320),
        ((96, 32), 2.5, 2.5 / 64),
    ],
)
def test_uniform_has_the_fan_average_variance(shape: tuple[int, ...], scale: float, variance: float) -> None:
    """Mean 0 and variance scale / fan-average within 5 standard errors; the law is uniform, by `check_time`.

    The variance of n squares of a uniform number of variance v is 4/5 v² / n.
    """
    buffer = Layout([Parameter("layer/w", shape, fan_average(scale))]).initialise(seed=3).astype(np.float64)
    n = prod(shape)
    assert abs(np.mean(buffer)) <= SIGMAS * sqrt(variance / n)
    assert abs(np.mean(buffer**2) - variance) <= SIGMAS * variance * sqrt(0.8 / n)
    bound = sqrt(3 * variance)
    check_time(buffer, np.clip((np.sort(buffer) + bound) / (2 * bound), 0, 1))


def test_normal_has_its_deviation() -> None:
    """Mean 0 and standard deviation `value` within 5 standard errors; the law is normal, by `check_time`.

    The variance of n squares of a normal number of variance v is 2 v² / n.
    """
    n, deviation = 40_000, 0.7
    buffer = (
        Layout([Parameter("table", (n // 10, 10), Init("normal", deviation))]).initialise(seed=3).astype(np.float64)
    )
    assert abs(np.mean(buffer)) <= SIGMAS * deviation / sqrt(n)
    assert abs(np.mean(buffer**2) - deviation**2) <= SIGMAS * deviation**2 * sqrt(2 / n)
    check_time(buffer, np.asarray([(1 + erf(x / deviation / sqrt(2))) / 2 for x in np.sort(buffer)]))


def check_time(values: np.ndarray, distribution: np.ndarray) -> None:
    """Compare the empirical distribution of independent `values` with `distribution`, the exact one at sorted values.

    By the Dvoretzky-Kiefer-Wolfowitz inequality they are nowhere more than √(ln(2 / α) / 2n) apart, with confidence
    1 − α; α is 1e-6.
    """
    n = values.size
    steps = np.arange(n + 1) / n
    apart = max(np.max(steps[1:] - distribution), np.max(distribution - steps[:-1]))
    assert apart <= sqrt(log(2 / 1e-6) / (2 * n)), f"the distributions are {apart:.3g} apart"


def test_initialise_depends_on_seed_and_path_alone(numpy_backend: Backend) -> None:
    """The same seed gives the same bits; another parameter in front changes nothing; seeds and paths are independent.

    Independent numbers correlate by less than 5 / √n, except once in 1.7 million.
    """
    ours = [Parameter("a/w", (50, 40), fan_average()), Parameter("b/w", (50, 40), fan_average())]
    label = Parameter("label/table", (7, 3), Init("normal", 1.0))

    def values(parameters: list[Parameter], seed: int) -> dict[str, np.ndarray]:
        layout = Layout(parameters)
        return layout.views(layout.initialise(seed), numpy_backend.xp)

    first, again, more, other = values(ours, 1), values(ours, 1), values([label, *ours[::-1]], 1), values(ours, 2)
    for path in first:
        np.testing.assert_array_equal(again[path], first[path])
        np.testing.assert_array_equal(more[path], first[path])
    for one, two in ((first["a/w"], first["b/w"]), (first["a/w"], other["a/w"])):
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) <= SIGMAS / sqrt(one.size)


DECLARED = {
    "unet-addition": (144, "460868dec92dc7f1"),
    "unet-adaptive": (261, "d8f35e9ee8d3e766"),
    "unet-deep": (155, "caddcd753ce6ec12"),
    "unet-flat": (106, "ca0949ab214f2a3c"),
    "unet-variants": (145, "95639e596365d59c"),
    "unet-blocks": (216, "fafe71b8751b54d4"),
    "mlp": (20, "c9b060e401798f00"),
    "mlp-classes": (15, "20ffefa2e62df3c7"),
}
"""How many parameters each network declares, and the start of the SHA-256 of what `fingerprint` reads of them."""


def fingerprint(parameters: Sequence[Parameter]) -> tuple[int, str]:
    lines = [f"{p.path} {p.shape} {p.init.law} {p.init.value}" for p in parameters]
    return len(lines), sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", SKETCHES)
def test_the_order_of_parameters_stays(name: str) -> None:
    """Paths, shapes, laws and their order are those of all checkpoints and flat buffers so far."""
    assert fingerprint(SKETCHES[name].build().parameters) == DECLARED[name]


def test_parts_are_walked_in_the_order_they_are_set_in() -> None:
    """Lists, tuples and parts of parts too; what is no part is passed over."""

    class Part(Parts):
        def __init__(self, name: str, *inner: object) -> None:
            self.options, self.inner, self.none = {"width": 3}, inner, None
            self.own = Parameter(name, (2,), ZEROS)

    whole = Part("a", Part("b", [Part("c"), (Part("d"), 7)]), "text", Part("e"))
    assert [parameter.path for parameter in whole.parameters] == ["c", "d", "b", "e", "a"]


@pytest.mark.parametrize("name", SKETCHES)
def test_networks_declare_valid_parameters(name: str) -> None:
    """Paths are unique and well-formed, and initial values finite, with every bias 0 and every scale 1."""
    network = SKETCHES[name].build()
    layout = Layout(network.parameters)
    buffer = layout.initialise(seed=0)
    assert np.isfinite(buffer).all()
    for path, view in layout.views(buffer, np).items():
        kind = path.rpartition("/")[2]
        constant = {"b": 0.0, "shift": 0.0, "scale": 1.0}.get(kind)
        assert np.all(view == constant) if constant is not None else np.all(view != 0), path
