"""The conformance kit for conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from tinyddpm.backend import Backend, Random, load_backend
from tinyddpm.conditions import Asked, Condition, Known, Wish
from tinyddpm.errors import ConfigError
from tinyddpm.nn import Layout, Told
from tinyddpm.ops import Saved, load_operations
from tinyddpm.testing.gradients import HostArray, check_projection, check_zero, direction, read_only
from tinyddpm.testing.networks import random_weights
from tinyddpm.testing.plugin import blamed, resolve

SEED = 20
WIDTH = 6
"""Width of the vector that conditions are asked to give."""


def check_condition(
    factory: str | Callable[..., Condition],
    known: Known,
    sample_shape: tuple[int, ...] = (8, 8, 2),
    classes: int = 3,
    exempt: Sequence[str] = (),
    **options: Any,
) -> None:
    """Check that a condition keeps its contract, built without a null and with one.

    In float64 on NumPy, with read-only columns and weights:

    - The columns that it reads have a row for each sample, and its null has the same columns, shapes and types.
    - The columns that it makes of samples (`observed`, if it has that) have the names, shapes and types of those that
      it reads, are read unchanged, and do not depend on the batch of a sample, with random numbers or without.
    - The condition for an empty wish can be read, and has words for each sample or for none.
    - `Told`, also for the null, has the parts and widths that `gives` says, and does not depend on a sample's batch.
    - The gradient of every parameter agrees with central differences at rtol 1e-6, and is added to the buffer.
    - `Told` is the same with training and without. Residuals are kept in `saved` alone, and none without training.

    Then with float32 weights, for which `Told` and gradients are float32, and on array-api-strict, where it is
    installed, against the float64 results.

    Args:
        factory: its registered name, or the callable `(sample_shape, classes, width, null, **options) -> Condition`.
        known: samples for it to read, so many that they use all of its parameters.
        sample_shape: shape of one sample.
        classes: number of classes, 0 for none.
        exempt: patterns (fnmatch) of parameter paths whose gradient is truly zero, and is checked to be.
        options: options of the condition.

    Raises:
        AssertionError: the condition breaks its contract; the line names the parameter path or the property.
    """
    build, what = resolve("conditions", factory, arguments=4)
    for null in (False, True):
        condition = build(sample_shape, classes, WIDTH, null, **options)
        columns = read_only({name: np.asarray(column) for name, column in condition.read(known).items()})
        _check_observed(condition, columns, sample_shape, what)
        _check_asked(condition, known, columns, what)
        if null:
            columns = _with_null(columns, condition.null, what)
        _check_told(_Runner(condition, load_backend("numpy"), what), columns, exempt)


class _Runner:
    """A condition on one backend, with random weights. Errors that it raises become an AssertionError with the call."""

    def __init__(self, condition: Condition, backend: Backend, what: str, dtype: Any = np.float64) -> None:
        self.condition, self.backend, self.what, self.dtype = condition, backend, what, dtype
        try:
            self.layout = Layout(condition.parameters)
        except ConfigError as error:
            raise AssertionError(f"{what}: {error}") from error
        self.w = read_only({path: w.astype(dtype) for path, w in random_weights(condition, SEED).items()})

    def forward(
        self, columns: Mapping[str, HostArray], training: bool = False, changed: Mapping[str, HostArray] | None = None
    ) -> tuple[dict[str, HostArray], Saved]:
        """Return the parts of `Told` by name, on the host, and the residuals; `changed` replaces weights by path."""
        asarray = self.backend.asarray
        w = {path: asarray(array) for path, array in {**self.w, **(changed or {})}.items()}
        given = {name: asarray(column) for name, column in columns.items()}
        with blamed(f"{self.what}: forward with read-only columns and weights", self.backend):
            told, saved = self.condition.forward(load_operations(self.backend, training), w, given)
        return {name: self.backend.to_numpy(a) for name, a in told._asdict().items() if a is not None}, saved

    def gradients(
        self, columns: Mapping[str, HostArray], dtold: Mapping[str, HostArray], start: float = 0.0
    ) -> dict[str, HostArray]:
        """Return the gradient buffer after a forward and a backward; see `backward`."""
        return self.backward(self.forward(columns, training=True)[1], dtold, start)

    def backward(self, saved: Saved, dtold: Mapping[str, HostArray], start: float = 0.0) -> dict[str, HostArray]:
        """Return the gradient buffer after a backward, by path; all its elements were `start` before."""
        buffer = self.backend.asarray(np.full(self.layout.size, start, self.dtype))
        views = self.layout.views(buffer, self.backend.xp)
        there = Told(**{n: self.backend.asarray(a) for n, a in dtold.items()})
        with blamed(f"{self.what}: backward with a read-only dtold", self.backend):
            self.condition.backward(saved, dict(views), there)
        return {path: self.backend.to_numpy(view) for path, view in views.items()}


def _check_observed(
    condition: Condition, columns: Mapping[str, HostArray], sample_shape: tuple[int, ...], what: str
) -> None:
    """Check the columns that a condition makes of samples, if it has the method `observed`."""
    observed = getattr(condition, "observed", None)
    if observed is None:
        return
    numbers, rng = np.asarray([7, 0, 2**32 - 1]), np.random.default_rng(SEED)
    x_0 = read_only({"x_0": rng.uniform(-1, 1, (3, *sample_shape)).astype(np.float32)})["x_0"]
    found = observed(np, x_0)
    for name, column in columns.items():
        assert name in found, f"{what}: it reads {sorted(columns)}, but makes {sorted(found)} of samples"
        assert found[name].shape == (3, *column.shape[1:]), (
            f"{what}: the {name} that it makes of samples have shape {found[name].shape[1:]}, those that it reads "
            f"{column.shape[1:]}"
        )
        assert found[name].dtype == column.dtype, (
            f"{what}: the {name} that it makes of samples are {found[name].dtype}, those that it reads {column.dtype}"
        )
    again = condition.read(Asked(None, found))
    for name in columns:
        assert np.array_equal(again[name], found[name]), (
            f"{what}: the {name} that it makes of samples is changed by reading"
        )
    for random in (None, Random(np, SEED)):
        whole = observed(np, x_0, random, 3, numbers)
        for i, number in enumerate(numbers):
            alone = observed(np, x_0[i : i + 1], random, 3, np.asarray([number]))
            for name, column in whole.items():
                assert np.array_equal(alone[name], column[i : i + 1]), (
                    f"{what}: the {name} that it makes of a sample depends on the batch"
                )


def _check_asked(condition: Condition, known: Known, columns: Mapping[str, HostArray], what: str) -> None:
    """Check the condition for an empty wish."""
    asked = condition.asked(Wish(), known)
    found = condition.read(asked)
    assert set(found) == set(columns), f"{what}: for an empty wish it reads {sorted(found)}, not {sorted(columns)}"
    words = condition.words(asked)
    rows = {len(column) for column in found.values()}
    assert words is None or {len(words)} == rows, f"{what}: it has {len(words or ())} words for {sorted(rows)} samples"


def _with_null(columns: dict[str, HostArray], null: Mapping[str, HostArray], what: str) -> dict[str, HostArray]:
    """Return the columns with the null as a further row; check the null's names, shapes and types."""
    assert set(null) == set(columns), f"{what}: its null has the columns {sorted(null)}, it reads {sorted(columns)}"
    for name, column in columns.items():
        value = np.asarray(null[name])
        assert value.shape == column.shape[1:], (
            f"{what}: the null of {name} has shape {value.shape}, one sample's is {column.shape[1:]}"
        )
        assert np.can_cast(value.dtype, column.dtype, "same_kind"), (
            f"{what}: the null of {name} is {value.dtype}, the column {column.dtype}"
        )
    return read_only(
        {name: np.concatenate([column, null[name][None].astype(column.dtype)]) for name, column in columns.items()}
    )


def _check_told(runner: _Runner, columns: dict[str, HostArray], exempt: Sequence[str]) -> None:
    """Check `Told` and the gradients for these columns; see `check_condition`."""
    what, n = runner.what, {len(column) for column in columns.values()}
    assert len(n) == 1, f"{what}: its columns have {sorted(n)} rows, they must have one a sample"
    told, saved = runner.forward(columns)
    assert saved is None, f"{what}: forward keeps residuals (saved is not None) without training"
    for part, array in runner.forward(columns, training=True)[0].items():
        assert np.array_equal(array, told[part]), f"{what}: the {part} told changes with ops.training"
    for part, width in runner.condition.gives._asdict().items():
        found = told[part].shape[-1] if part in told else 0
        assert found == width, f"{what}: gives says {part} of width {width}, but forward returns {found}"
        if part in told:
            assert len(told[part]) == n.copy().pop(), f"{what}: {part} has {len(told[part])} rows for {n} samples"
    if "mask" in told:
        assert told["mask"].dtype == bool, f"{what}: the mask is {told['mask'].dtype}, it must be boolean"
        assert told["mask"].shape == told["tokens"].shape[:2], f"{what}: the mask does not have the tokens' shape"
    _check_samples_apart(runner, columns, told)
    rng = np.random.default_rng(SEED)
    dtold = read_only({part: direction(array.shape, rng) for part, array in told.items() if part != "mask"})
    _check_gradients(runner, columns, dtold, exempt, rng)
    _check_stateless(runner, columns, dtold)
    _check_float32(runner, columns, dtold)
    _check_standard(runner, columns, told, dtold)


def _check_samples_apart(runner: _Runner, columns: dict[str, HostArray], told: dict[str, HostArray]) -> None:
    """Check that `Told` of a sample does not depend on the other samples of a batch."""
    for i in range(len(next(iter(columns.values())))):
        alone, _ = runner.forward({name: column[i : i + 1] for name, column in columns.items()})
        for part, array in alone.items():
            same = np.allclose(array, told[part][i : i + 1], rtol=1e-10, atol=1e-10)
            assert same, f"{runner.what}: the {part} told of a sample depends on the batch"


def _check_gradients(
    runner: _Runner,
    columns: dict[str, HostArray],
    dtold: dict[str, HostArray],
    exempt: Sequence[str],
    rng: np.random.Generator,
) -> None:
    """Check the gradient of each path: by central differences, and that it is added in place."""
    dw, onto = runner.gradients(columns, dtold), runner.gradients(columns, dtold, start=1.0)

    def flat(parts: Mapping[str, HostArray]) -> HostArray:
        return np.concatenate([parts[part].ravel() for part in dtold])

    for path, gradient in dw.items():

        def value(w: HostArray, path: str = path) -> HostArray:
            return flat(runner.forward(columns, changed={path: w})[0])

        check = check_zero if any(fnmatchcase(path, pattern) for pattern in exempt) else check_projection
        check(value, runner.w[path], flat(dtold), gradient, rng, name=path)
        added = np.allclose(onto[path], 1.0 + gradient, rtol=1e-12, atol=1e-12)
        assert added, f"gradient of {path} is not added in place to what dw holds: write dw[path] += gradient"


def _check_stateless(runner: _Runner, columns: dict[str, HostArray], dtold: dict[str, HostArray]) -> None:
    """Check that the gradients are the same after the forward of other samples."""
    apart, (_, saved) = runner.gradients(columns, dtold), runner.forward(columns, training=True)
    runner.forward({name: column[::-1] for name, column in columns.items()}, training=True)
    for path, gradient in runner.backward(saved, dtold).items():
        assert np.array_equal(gradient, apart[path]), (
            f"{runner.what}: gradient of {path} differs after another forward: keep residuals in saved, not on self"
        )


def _check_float32(runner: _Runner, columns: dict[str, HostArray], dtold: dict[str, HostArray]) -> None:
    """Check that float32 weights give float32."""
    single = _Runner(runner.condition, runner.backend, runner.what, np.float32)
    told, saved = single.forward(columns, training=True)
    for part in dtold:
        assert told[part].dtype == np.float32, f"{runner.what}: {part} is {told[part].dtype} for float32 weights"
    single.backward(saved, {part: array.astype(np.float32) for part, array in dtold.items()})


def _check_standard(
    runner: _Runner, columns: dict[str, HostArray], told: dict[str, HostArray], dtold: dict[str, HostArray]
) -> None:
    """Check that the condition needs only the array API standard, if array-api-strict is installed."""
    try:
        import array_api_strict
    except ImportError:
        return
    strict = _Runner(runner.condition, Backend(array_api_strict), runner.what)
    same = {**strict.forward(columns)[0], **strict.gradients(columns, dtold)}
    for name, array in {**told, **runner.gradients(columns, dtold)}.items():
        assert np.allclose(same[name], array, rtol=1e-9, atol=1e-9), (
            f"{runner.what}: {name} differs on array-api-strict"
        )
