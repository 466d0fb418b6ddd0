"""The kit for networks passes what keeps the contract, and names what does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from tinyddpm.backend import Array
from tinyddpm.nn import DropoutNoise, Gradients, Network, Parameter, Told, Weights, Widths
from tinyddpm.nn.blocks import Chain
from tinyddpm.nn.layers import Linear, Pass
from tinyddpm.nn.parameters import ZEROS
from tinyddpm.ops import Operations, Saved
from tinyddpm.testing import check_network, random_weights

SHAPE = (3,)


@pytest.mark.parametrize(("sample_shape", "out_channels"), [((2,), 2), ((5,), 1)])
def test_the_mlp_keeps_the_contract(sample_shape: tuple[int, ...], out_channels: int) -> None:
    check_network("mlp", sample_shape, out_channels, width=8, depth=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"adaptive": True, "heads": 2, "dropout": 0.0}, {"text": "concat"}],
    ids=["DDPM", "adaptive", "GLIDE"],
)
def test_the_unet_keeps_the_contract(options: dict[str, Any]) -> None:
    """Not square, and with more channels out than in. With other keys beside them, the bias of the pixels' counts."""
    small = {"channels": 4, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
    exempt = () if options.get("text") == "concat" else ("*/k/b",)
    check_network("unet", (4, 8, 1), 2, exempt=exempt, **small, **options)


class Good:
    """A dense layer, a multiplication by itself and by the step, and another: small, but not linear."""

    takes = Widths()

    def __init__(self, sample_shape: tuple[int, ...], told: Widths, out_channels: int) -> None:
        self.dense_1, self.dense_2 = Linear("dense_1", *sample_shape, 4), Linear("dense_2", 4, out_channels)
        self.parameters: Sequence[Parameter] = self.declare([*self.dense_1.parameters, *self.dense_2.parameters])

    def declare(self, parameters: list[Parameter]) -> list[Parameter]:
        return parameters

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        run = Pass(ops, w)
        h = self.dense_1.forward(run, x)
        if ops.training:
            run.stack.append((h, self.factor(ops, t, x)))
        h = h * h * self.factor(ops, t, x)
        return self.dense_2.forward(run, h), run if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        run: Pass = saved
        run.dw = dw
        dh = self.dense_2.backward(run, dout)
        h, factor = run.stack.pop()
        return self.dense_1.backward(run, 2 * dh * h * factor), Told()

    def factor(self, ops: Operations, t: Array, x: Array) -> Array:
        return 1 + ops.xp.astype(t, x.dtype)[:, None] / 1000


def test_a_small_good_network_passes() -> None:
    check_network(Good, SHAPE)


class Hears(Good):
    """Adds to its hidden layer a vector, and the sum of the tokens that are there."""

    takes = Widths(vector=4, tokens=5)

    def __init__(self, sample_shape: tuple[int, ...], told: Widths, out_channels: int) -> None:
        super().__init__(sample_shape, told, out_channels)
        self.takes = Widths(4, told.tokens)

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        out, saved = super().forward(ops, w, x, t, Told(), noise)
        if told.vector is not None:
            out = out + told.vector[:, : out.shape[1]] + ops.xp.sum(told.vector, axis=1, keepdims=True)
        if told.tokens is None:
            return out, saved
        there = ops.xp.astype(told.mask, x.dtype)[..., None]
        if saved:
            saved.told["there"] = there
        return out + ops.xp.sum(told.tokens * there, axis=(1, 2))[:, None], saved

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        dx, _ = super().backward(saved, dw, dout)
        if "there" not in saved.told:
            return dx, Told()
        xp, (n, c) = saved.ops.xp, dout.shape
        dsum = xp.sum(dout, axis=1, keepdims=True)
        dvector = xp.concat([dout, xp.zeros((n, 4 - c), dtype=dout.dtype)], axis=1) + dsum
        dtokens = dsum[..., None] * xp.broadcast_to(saved.told["there"], (n, 4, 5))
        return dx, Told(vector=dvector, tokens=dtokens)


def test_a_network_that_is_told_something_passes() -> None:
    check_network(Hears, SHAPE)


class ForgetsTheVector(Hears):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        dx, dtold = super().backward(saved, dw, dout)
        return dx, dtold._replace(vector=None)


class WrongTokens(Hears):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        dx, dtold = super().backward(saved, dw, dout)
        return dx, dtold._replace(tokens=1.001 * dtold.tokens)


class NoMask(Hears):
    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        if told.mask is not None:
            told = told._replace(mask=ops.xp.ones_like(told.mask))
        return super().forward(ops, w, x, t, told, noise)


class NeedsTelling(Hears):
    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, told: Told, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        return super().forward(ops, w, x, t, told._replace(vector=1 * told.vector), noise)


class NeedsTellingBackward(Hears):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        assert saved.told["there"] is not None
        return super().backward(saved, dw, dout)


class WrongUnlessTold(Hears):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        dx, dtold = super().backward(saved, dw, dout)
        dw["dense_1/b"] *= 1.0 if "there" in saved.told else 1.1
        return dx, dtold


class Timeless(Good):
    def factor(self, ops: Operations, t: Array, x: Array) -> Array:
        return super().factor(ops, ops.xp.zeros_like(t), x)


class OtherWidth(Hears):
    def __init__(self, sample_shape: tuple[int, ...], told: Widths, out_channels: int) -> None:
        super().__init__(sample_shape, told, out_channels)
        self.takes = Widths(4, 7)


class WrongGradient(Good):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        both = super().backward(saved, dw, dout)
        dw["dense_2/w"] *= 1.001
        return both


class WrongInput(Good):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        dx, dtold = super().backward(saved, dw, dout)
        return 2 * dx, dtold


class ForgottenGradient(Good):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        before = saved.ops.xp.asarray(dw["dense_1/b"], copy=True)
        both = super().backward(saved, dw, dout)
        dw["dense_1/b"][...] = before
        return both


class Overwriting(Good):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        for gradient in dw.values():
            gradient[...] = 0.0
        return super().backward(saved, dw, dout)


class Rebinding(Good):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        fresh = {path: saved.ops.xp.zeros_like(gradient) for path, gradient in dw.items()}
        both = super().backward(saved, fresh, dout)
        for path, gradient in fresh.items():
            dw[path] = dw[path] + gradient
        return both


class WritesInput(Good):
    def forward(self, ops: Operations, w: Weights, x: Array, *rest: Any, **others: Any) -> tuple[Array, Saved]:
        x *= 2
        return super().forward(ops, w, x, *rest, **others)


class WritesWeights(Good):
    def forward(self, ops: Operations, w: Weights, *rest: Any, **others: Any) -> tuple[Array, Saved]:
        w["dense_1/b"][...] = 0.0
        return super().forward(ops, w, *rest, **others)


class WritesGradient(Good):
    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        dout *= 1.0
        return super().backward(saved, dw, dout)


class Undeclared(Good):
    def declare(self, parameters: list[Parameter]) -> list[Parameter]:
        return parameters[:-1]


class Doubled(Good):
    def declare(self, parameters: list[Parameter]) -> list[Parameter]:
        return [*parameters, parameters[0]]


class Malformed(Good):
    def declare(self, parameters: list[Parameter]) -> list[Parameter]:
        return [*parameters, Parameter("Dense 3", (1,), ZEROS)]


class Unused(Good):
    def declare(self, parameters: list[Parameter]) -> list[Parameter]:
        return [*parameters, Parameter("spare/b", (4,), ZEROS)]


class KeepsResiduals(Good):
    def forward(self, ops: Operations, w: Weights, *rest: Any, **others: Any) -> tuple[Array, Saved]:
        out, saved = super().forward(ops, w, *rest, **others)
        return out, saved or Pass(ops, w)


class KeepsState(Good):
    last: ClassVar[list[Any]] = []

    def forward(self, ops: Operations, w: Weights, *rest: Any, **others: Any) -> tuple[Array, Saved]:
        out, saved = super().forward(ops, w, *rest, **others)
        self.last[:] = [saved]
        return out, saved

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        remembered = self.last[0] if self.last[0] and self.last[0].stack else saved
        return super().backward(remembered, dw, dout)


class Fickle(Good):
    """Multiplies by another number at every call of a block, which its backward remembers."""

    def __init__(self, sample_shape: tuple[int, ...], told: Widths, out_channels: int) -> None:
        super().__init__(sample_shape, told, out_channels)
        self.blocks = Chain(self.Block())

    class Block:
        def forward(self, run: Pass, x: Array) -> Array:
            number = run.told["number"] = run.told.get("number", 0) + 1
            run.stack.append(number)
            return number * x

        def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
            return run.stack.pop() * dy

    def forward(self, ops: Operations, w: Weights, x: Array, *rest: Any, **others: Any) -> tuple[Array, Saved]:
        first = Pass(ops, w)
        out, run = super().forward(ops, w, self.blocks.forward(first, x), *rest, **others)
        return out, (first, run) if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        first, run = saved
        dx, dtold = super().backward(run, dw, dout)
        return self.blocks.backward(first, dx), dtold


class MixesSamples(Good):
    """Adds the batch's mean of the predictions, which has a gradient of its own: dout plus its mean."""

    def forward(self, ops: Operations, *rest: Any, **others: Any) -> tuple[Array, Saved]:
        out, saved = super().forward(ops, *rest, **others)
        return out + ops.xp.mean(out, axis=0, keepdims=True), saved

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> tuple[Array, Told]:
        return super().backward(saved, dw, dout + saved.ops.xp.mean(dout, axis=0, keepdims=True))


class Widens(Good):
    def factor(self, ops: Operations, t: Array, x: Array) -> Array:
        return 1 + ops.xp.astype(t, ops.xp.float64)[:, None] / 1000


class NumpyAlone(Good):
    def factor(self, ops: Operations, t: Array, x: Array) -> Array:
        return 1 + t.astype(x.dtype)[:, None] / 1000


class WrongShape(Good):
    def __init__(self, sample_shape: tuple[int, ...], told: Widths, out_channels: int) -> None:
        super().__init__(sample_shape, told, out_channels + 1)


class Positional(Good):
    def __init__(self, sample_shape: tuple[int, ...], told: Widths, out_channels: int, width: int = 4) -> None:
        super().__init__(sample_shape, told, out_channels)


class NoDefault(Good):
    def __init__(self, sample_shape: tuple[int, ...], told: Widths, out_channels: int, *, width: int) -> None:
        super().__init__(sample_shape, told, out_channels)


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (WrongGradient, "gradient of dense_2/w: projection"),
        (WrongInput, "gradient of x: projection"),
        (ForgottenGradient, "gradient of dense_1/b is zero to rounding"),
        (ForgetsTheVector, "backward returns no gradient of the vector told"),
        (WrongTokens, "gradient of the tokens told: projection"),
        (NoMask, "tokens that the mask leaves out change the prediction"),
        (NeedsTelling, "told nothing: forward .* fails on numpy: TypeError"),
        (NeedsTellingBackward, "told nothing: backward .* fails on numpy: KeyError: 'there'"),
        (WrongUnlessTold, "told nothing: gradient of all parameters: projection"),
        (Timeless, "the prediction at t = 0 does not depend on t"),
        (OtherWidth, "takes tokens of width 7, but is offered 5"),
        (Unused, "gradient of spare/b is zero to rounding"),
        (Overwriting, "gradient of dense_1/w is not added in place"),
        (Rebinding, "gradient of .* is zero to rounding"),
        (WritesInput, "forward with read-only inputs and weights fails on numpy: ValueError"),
        (WritesWeights, "forward with read-only inputs and weights fails on numpy: ValueError"),
        (WritesGradient, "backward with a read-only dout fails on numpy: ValueError"),
        (Undeclared, "forward .* fails on numpy: KeyError: 'dense_2/b'"),
        (Doubled, "parameter path 'dense_1/w' is used twice"),
        (Malformed, "parameter path 'Dense 3' is malformed"),
        (KeepsResiduals, "forward keeps residuals"),
        (KeepsState, "differs when two passes are interleaved|fails on numpy"),
        (Fickle, "dx differs with ops.recompute"),
        (MixesSamples, "the prediction for a sample alone is off"),
        (Widens, "the prediction is float64 for float32 inputs"),
        (NumpyAlone, "fails on array_api_strict: AttributeError"),
        (WrongShape, r"is float64 \(3, 3\), it must be float64 of shape \(3, 2\)"),
        (Positional, "option width is not keyword-only"),
        (NoDefault, "option width has no default"),
    ],
)
def test_a_broken_network_is_named(broken: Callable[..., Network], line: str) -> None:
    with pytest.raises(AssertionError, match=line):
        check_network(broken, SHAPE)


def test_an_exempt_gradient_must_be_zero() -> None:
    with pytest.raises(AssertionError, match="gradient of dense_1/b is exempt as zero, but is"):
        check_network(Good, SHAPE, exempt=("*_1/b",))


def test_an_exempt_gradient_must_be_zero_numerically_too() -> None:
    """A backward that leaves a gradient out cannot be excused by exempting it."""
    with pytest.raises(AssertionError, match="gradient of dense_1/b is exempt as zero, but is 0, numerically"):
        check_network(ForgottenGradient, SHAPE, exempt=("*_1/b",))


def test_an_exempt_pattern_must_mean_a_parameter() -> None:
    with pytest.raises(AssertionError, match="no parameter path matches the exempt pattern 'dense_3/"):
        check_network(Good, SHAPE, exempt=("dense_3/*",))


def test_random_weights_leave_no_layer_at_zero() -> None:
    """Every element of every parameter, those that start constant included."""
    network = Good(SHAPE, Widths(), 2)
    w = random_weights(network)
    assert {path: array.shape for path, array in w.items()} == {p.path: p.shape for p in network.parameters}
    assert all(np.all(array != 0) for array in w.values())
