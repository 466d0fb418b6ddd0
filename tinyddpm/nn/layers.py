"""Layers: operations tied to their parameters, and the pass that carries residuals from forward to backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tinyddpm.backend import Array
from tinyddpm.nn.network import DropoutNoise
from tinyddpm.nn.parameters import ONES, ZEROS, Gradients, Init, Parameter, Parts, Weights, ZeroGradients, fan_average
from tinyddpm.ops import Operations, Saved
from tinyddpm.ops.activation import Dropout
from tinyddpm.ops.normalisation import EPS


@dataclass
class Pass:
    """The state of one pass through a network; layers have none. The residuals of a forward lie on its stack.

    Forward pushes, backward pops in the opposite order, so a backward reads as its forward upside down and each
    residual is released as soon as it has been used.

    Attributes:
        ops: the operations.
        w: parameters by path.
        dw: gradients by path, added to in place.
        noise: dropout masks; None for no dropout.
        stack: the residuals.
        told: further inputs of blocks, by name: "time", the embedded time, (N, dim), and others that a network sets.
        dtold: the gradients of these inputs, by name; each block's backward adds its own.
    """

    ops: Operations
    w: Weights
    dw: Gradients = field(default_factory=dict)
    noise: DropoutNoise | None = None
    stack: list[Saved] = field(default_factory=list)
    told: dict[str, Array] = field(default_factory=dict)
    dtold: dict[str, Array] = field(default_factory=dict)

    def do(self, operation: Callable[..., tuple[Array, Saved]], *inputs: Any) -> Array:
        """Run a forward operation and push its residuals."""
        y, saved = operation(*inputs)
        if self.ops.training:
            self.stack.append(saved)
        return y

    def undo(self, backward: Callable[[Saved, Array], Any], dy: Array) -> Any:
        """Run the backward of the operation whose residuals are on top, and pop them."""
        return backward(self.stack.pop(), dy)

    def gathered(self, name: str) -> tuple[Array, ...]:
        """Return the sum of the gradients of `told[name]` so far, as a tuple of one; empty before the first."""
        return (self.dtold[name],) if name in self.dtold else ()


class Layer(Parts):
    """A layer with a weight and a bias or a scale and a shift: two parameters under one path."""

    names: tuple[str, str]

    def __init__(self, path: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], inits: tuple[Init, Init]) -> None:
        self.paths = tuple(f"{path}/{name}" for name in self.names)
        self.declared = tuple(map(Parameter, self.paths, shapes, inits))

    def _weights(self, run: Pass) -> tuple[Array, Array]:
        first, second = self.paths
        return run.w[first], run.w[second]

    def _undo(self, run: Pass, backward: Callable[..., Any], dy: Array, added: tuple[Array, ...]) -> Any:
        """Run a backward, add the parameters' gradients to `run.dw`, and return dx plus the gradients in `added`.

        Further gradients of the backward are returned after dx. Operations with `stores` add `added` themselves, and
        write the parameters' gradients in place where these are still zero.
        """
        saved = run.stack.pop()
        if run.ops.stores:
            into = run.dw.taken(self.paths) if isinstance(run.dw, ZeroGradients) else None
            dx, first, second, *others = backward(saved, dy, into=into, added=added)
        else:
            into, (dx, first, second, *others) = None, backward(saved, dy)
            for other in added:
                dx = dx + other
        if into is None:
            for path, gradient in zip(self.paths, (first, second), strict=True):
                run.dw[path] += gradient
        return (dx, *others) if others else dx


class Conv(Layer):
    """A convolution with `kernel`×`kernel` weights w and a bias b."""

    names = ("w", "b")

    def __init__(self, path: str, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, scale: float = 1.0) -> None:
        super().__init__(path, ((kernel, kernel, c_in, c_out), (c_out,)), (fan_average(scale), ZEROS))
        self.stride = stride

    def forward(self, run: Pass, x: Array, residual: Array | None = None) -> Array:
        """(N, H, W, c_in) -> (N, H/stride, W/stride, c_out), with a residual of that shape added if given."""
        return run.do(run.ops.conv2d, x, *self._weights(run), self.stride, residual)

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx, to which other gradients of x are added; a residual's gradient is dy."""
        dx: Array = self._undo(run, run.ops.conv2d_backward, dy, added)
        return dx


class Linear(Layer):
    """A dense layer over the last axis: w and b."""

    names = ("w", "b")

    def __init__(self, path: str, c_in: int, c_out: int, scale: float = 1.0) -> None:
        super().__init__(path, ((c_in, c_out), (c_out,)), (fan_average(scale), ZEROS))

    def forward(self, run: Pass, x: Array, residual: Array | None = None) -> Array:
        """(..., c_in) -> (..., c_out), with a residual of that shape added if given."""
        return run.do(run.ops.linear, x, *self._weights(run), residual)

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx, to which other gradients of x are added; a residual's gradient is dy."""
        dx: Array = self._undo(run, run.ops.linear_backward, dy, added)
        return dx


@dataclass(frozen=True)
class Norms:
    """The number of groups of group norms, and `eps`, which is added to each group's variance.

    The number of groups is the largest divisor of the channels that is at most `most` and leaves at least `least`
    channels to each group: 32 from 128 channels on, as in DDPM, and fewer below (EDM's rule), where groups of one or
    two channels would lose the signal.
    """

    most: int = 32
    least: int = 4
    eps: float = EPS

    def groups(self, channels: int) -> int:
        """Return the number of groups for this number of channels."""
        most = max(1, min(self.most, channels // self.least))
        return next(g for g in range(most, 0, -1) if channels % g == 0)


EDM_NORMS = Norms()


class GroupNorm(Layer):
    """Group norm with a scale and a shift per channel."""

    names = ("scale", "shift")

    def __init__(self, path: str, channels: int, norms: Norms = EDM_NORMS) -> None:
        super().__init__(path, ((channels,), (channels,)), (ONES, ZEROS))
        self.groups, self.eps = norms.groups(channels), norms.eps

    def forward(self, run: Pass, x: Array) -> Array:
        """(N, ..., channels) -> the same shape, standardised by groups."""
        return run.do(run.ops.group_norm, x, *self._weights(run), self.groups, self.eps)

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx, to which other gradients of x are added."""
        dx: Array = self._undo(run, run.ops.group_norm_backward, dy, added)
        return dx


class GroupNormSiLU(GroupNorm):
    """Group norm, an optional modulation by scale and shift, (N, channels) each, SiLU, and optional dropout."""

    def forward(self, run: Pass, x: Array, modulation: tuple[Array, ...] = (), dropout: Dropout | None = None) -> Array:
        """(N, ..., channels) -> the same shape."""
        return run.do(run.ops.group_norm_silu, x, *self._weights(run), self.groups, modulation, dropout, self.eps)

    def modulated_backward(self, run: Pass, dy: Array, *added: Array) -> tuple[Array, tuple[Array, ...]]:
        """Return dx, to which other gradients of x are added, and the gradients of the modulation."""
        dx, dmodulation = self._undo(run, run.ops.group_norm_silu_backward, dy, added)
        return dx, dmodulation

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx, to which other gradients of x are added."""
        return self.modulated_backward(run, dy, *added)[0]


class LayerNorm(Layer):
    """Layer norm over the last axis with a scale and a shift per channel."""

    names = ("scale", "shift")

    def __init__(self, path: str, channels: int) -> None:
        super().__init__(path, ((channels,), (channels,)), (ONES, ZEROS))

    def forward(self, run: Pass, x: Array) -> Array:
        """(..., channels) -> the same shape, standardised."""
        return run.do(run.ops.layer_norm, x, *self._weights(run))

    def backward(self, run: Pass, dy: Array, *added: Array) -> Array:
        """Return dx, to which other gradients of x are added."""
        dx: Array = self._undo(run, run.ops.layer_norm_backward, dy, added)
        return dx


class Embedding(Parts):
    """A learned vector per class: `table`, (classes, dim)."""

    def __init__(self, path: str, classes: int, dim: int) -> None:
        self.table = Parameter(f"{path}/table", (classes, dim), Init("normal", 1.0))

    def forward(self, run: Pass, index: Array) -> Array:
        """(N,) integers -> (N, dim)."""
        return run.do(run.ops.embedding, run.w[self.table.path], index)

    def backward(self, run: Pass, dy: Array) -> None:
        """Add the table's gradient to `run.dw`; an index has none."""
        run.dw[self.table.path] += run.undo(run.ops.embedding_backward, dy)
