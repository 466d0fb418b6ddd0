"""The kit for backends passes what keeps the contract, and names what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.strict import StrictBackend
from tinyddpm.backend import Array, Backend, Purpose, Random
from tinyddpm.backend.numpy_backend import NumpyBackend
from tinyddpm.errors import BackendError
from tinyddpm.ops import Operations, Saved
from tinyddpm.ops.noising import Noised
from tinyddpm.ops.optimisation import Descent
from tinyddpm.testing import check_backend

HostArray = np.ndarray[Any, Any]


@pytest.mark.parametrize("name", ["numpy", "numba", "torch", pytest.param("cupy", marks=pytest.mark.gpu)])
def test_the_built_in_backends_keep_the_contract(name: str) -> None:
    try:
        check_backend(name)
    except BackendError as error:
        pytest.skip(str(error))


class Strict(StrictBackend):
    def __init__(self, device: str | None = None) -> None:
        super().__init__()


def test_the_reference_keeps_it_on_array_api_strict() -> None:
    check_backend(Strict)


class Narrow(NumpyBackend):
    def to_numpy(self, array: Array) -> HostArray:
        return np.asarray(array, np.float32)


class NoUpload(NumpyBackend):
    def upload(self, array: Array, values: HostArray) -> None:
        pass


class Wordy(NumpyBackend):
    def describe(self) -> str:
        return "numpy\non two lines"


class OtherNumbers(NumpyBackend):
    def random(self, seed: int) -> Random:
        return Random(self.xp, seed + 1, self.device)


class Rough(Random):
    def normal(self, purpose: Purpose, step: int, samples: Any, shape: tuple[int, ...], layer: int = 0) -> Array:
        return super().normal(purpose, step, samples, shape, layer) * 1.001


class Endless(Random):
    def bits(self, purpose: Purpose, step: int, samples: Any, shape: tuple[int, ...], layer: int = 0) -> Array:
        return super().bits(purpose, max(step, 0), samples, shape, layer)


class AnyStep(NumpyBackend):
    def random(self, seed: int) -> Random:
        return Endless(self.xp, seed, self.device)


class RoughNumbers(NumpyBackend):
    def random(self, seed: int) -> Random:
        return Rough(self.xp, seed, self.device)


class WrongGradient(Operations):
    def upsample_backward(self, saved: Saved, dy: Array) -> Array:
        return super().upsample_backward(saved, dy) * 1.001


class WrongResult(Operations):
    def concat(self, a: Array, b: Array) -> tuple[Array, Saved]:
        y, saved = super().concat(a, b)
        return y * 1.001, saved


class Widens(Operations):
    def upsample(self, x: Array) -> tuple[Array, Saved]:
        return super().upsample(self.xp.astype(x, self.xp.float64))


class Writes(Operations):
    def upsample(self, x: Array) -> tuple[Array, Saved]:
        result = super().upsample(x)
        x *= 1.5
        return result


class Keeps(Operations):
    def add_vector(self, x: Array, v: Array) -> tuple[Array, Saved]:
        return super().add_vector(x, v)[0], ()


class ForgetsTheResidual(Operations):
    def linear(self, x: Array, w: Array, b: Array, residual: Array | None = None) -> tuple[Array, Saved]:
        return super().linear(x, w, b)


class CountsOnce(Operations):
    def embedding_backward(self, saved: Saved, dy: Array) -> Array:
        index, rows = saved
        dtable = self.xp.zeros((rows, dy.shape[1]), dtype=dy.dtype)
        dtable[index] += dy
        return dtable


class WrongBound(Operations):
    def gaussian_kl_backward(self, saved: Saved, dkl: Array) -> tuple[Array, Array]:
        dmean, dlog_variance = super().gaussian_kl_backward(saved, dkl)
        return dmean, -dlog_variance


class KeepsAll(Operations):
    def dropout(self, x: Array, dropout: Any) -> tuple[Array, Saved]:
        _, saved = super().dropout(x, dropout)
        return x, saved


class ForgetsTheModulation(Operations):
    def group_norm_silu_backward(self, saved: Saved, dy: Array) -> Any:
        *rest, dmodulation = super().group_norm_silu_backward(saved, dy)
        return *rest, tuple(0 * each for each in dmodulation)


class OtherFrequencies(Operations):
    def sinusoidal(self, t: Array, dim: int, dtype: Any, shift: float = 1.0) -> Array:
        return super().sinusoidal(t, dim, dtype)


class NoFlips(Operations):
    def noised(self, *batch: Any, flip: bool = False) -> Noised:
        return super().noised(*batch)


class ForgetsTheAverage(Operations):
    def adam(
        self, descent: Descent, factors: Array, gradient: Array, weights: Array, ema: Array, *moments: Array
    ) -> None:
        super().adam(descent, factors, gradient, weights, self.xp.asarray(ema, copy=True), *moments)


class AveragesThePast(Operations):
    def power_average(self, exponent: float, step: Array, factors: Array, weights: Array, average: Array) -> None:
        super().power_average(exponent, step - 1, factors, weights, average)


class StepsOnWhatIsNotFinite(Operations):
    def step_factors(self, descent: Descent, step: Array, rate: Array, loss: Array, lengths: Array) -> Array:
        return super().step_factors(descent, step, rate, self.xp.ones_like(loss), lengths)


class DecaysAll(Operations):
    def decay(self, descent: Descent, factors: Array, rate: Array, matrices: Array, weights: Array) -> None:
        super().decay(descent, factors, rate, self.xp.ones_like(matrices), weights)


def with_operations(operations: type[Operations]) -> type[Backend]:
    return type("Made", (NumpyBackend,), {"operations": f"{__name__}:{operations.__name__}"})


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (Narrow, "float64 values do not survive asarray and to_numpy"),
        (NoUpload, "upload does not write float32 values"),
        (Wordy, "describes itself as"),
        (OtherNumbers, "random bits are not the reference's"),
        (RoughNumbers, "normal numbers are not the reference's"),
        (AnyStep, "random numbers are drawn for step -1"),
        (with_operations(WrongGradient), "upsample: dx is off by 1.0e-03"),
        (with_operations(WrongResult), "concat: the result is off by 1.0e-03"),
        (with_operations(Widens), "upsample: the result is float64 for float32 inputs"),
        (with_operations(Writes), "upsample writes to its input x"),
        (with_operations(Keeps), "add_vector keeps residuals without training"),
        (with_operations(ForgetsTheResidual), "linear: the result is off by"),
        (with_operations(CountsOnce), "embedding, index: dtable is off by"),
        (with_operations(WrongBound), "gaussian_kl: dlog_variance is off by"),
        (with_operations(KeepsAll), "group_norm_silu, groups 2, dropout: the result is off by"),
        (with_operations(ForgetsTheModulation), "dropout: dscale of the modulation is off by 1.0e[+]00"),
        (with_operations(OtherFrequencies), "sinusoidal, shift 0, is not the reference's"),
        (with_operations(NoFlips), "noised gives another x_0 than the reference"),
        (with_operations(DecaysAll), "decay and adam give other weights than the reference where the loss is 0.5"),
        (with_operations(ForgetsTheAverage), "decay and adam give other ema than the reference where the loss is 0.5"),
        (with_operations(AveragesThePast), "power_average gives other average than the reference"),
        (
            with_operations(StepsOnWhatIsNotFinite),
            "step_factors has the wrong answer to whether a loss of nan is finite",
        ),
        (int, "is no subclass of tinyddpm.backend.Backend"),
        (lambda device: NumpyBackend(), "is no subclass of tinyddpm.backend.Backend"),
    ],
)
def test_a_broken_backend_is_named(broken: Any, line: str) -> None:
    with pytest.raises(AssertionError, match=line):
        check_backend(broken)
