"""Tiny networks that together use every option, with random weights for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers.comparison import HostArray
from tinyddpm.backend import Backend
from tinyddpm.conditions import Conditioned, Unconditional, make_condition
from tinyddpm.nn import DropoutNoise, Layout, Network, Widths, make_network
from tinyddpm.ops import Saved, load_operations
from tinyddpm.testing import random_weights, read_only


@dataclass(frozen=True)
class Sketch:
    """The description of a network: name, shapes, options, and classes of its condition, 0 for none."""

    name: str
    shape: tuple[int, ...]
    classes: int
    out_channels: int
    options: dict[str, Any]

    def build(self, **changed: Any) -> Conditioned:
        """Return the network with its condition, with some options changed."""

        def declared(told: Widths) -> Network:
            return make_network(self.name, self.shape, told, self.out_channels, {**self.options, **changed})

        if not self.classes:
            return Conditioned(declared(Widths()), Unconditional())
        width = declared(Widths()).takes.vector
        condition = make_condition("label", self.shape, self.classes, width, False, {})
        return Conditioned(declared(condition.gives), condition)


SKETCHES = {
    # Time added, one head, attention on the lower level, one channel, no dropout.
    "unet-addition": Sketch(
        "unet",
        (4, 4, 1),
        0,
        1,
        {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (2,), "heads": 1, "dropout": 0.0},
    ),
    # Adaptive norms, classes, two heads, attention on both levels, not square, more channels out than in, dropout.
    "unet-adaptive": Sketch(
        "unet",
        (2, 6, 3),
        4,
        6,
        {
            "channels": 4,
            "multipliers": (2, 1),
            "blocks": 2,
            "attention": (6, 3),
            "heads": 2,
            "adaptive": True,
            "dropout": 0.3,
        },
    ),
    # Three levels, attention in the middle alone, classes and dropout with time added.
    "unet-deep": Sketch(
        "unet",
        (4, 8, 2),
        3,
        2,
        {"channels": 4, "multipliers": (1, 2, 3), "blocks": 1, "attention": (), "heads": 4, "dropout": 0.5},
    ),
    "unet-flat": Sketch(
        "unet", (3, 5, 3), 0, 3, {"channels": 4, "multipliers": (2,), "blocks": 1, "attention": (5,), "dropout": 0.0}
    ),
    # All that other projects have otherwise: heads by their width, groups, eps, halving and frequencies.
    "unet-variants": Sketch(
        "unet",
        (4, 8, 2),
        3,
        2,
        {
            "channels": 8,
            "multipliers": (1, 2),
            "blocks": 1,
            "attention": (4,),
            "head_channels": 4,
            "dropout": 0.2,
            "groups": 4,
            "norm_eps": 0.1,
            "halving": "around",
            "frequency_shift": 0.0,
        },
    ),
    # Levels joined by residual blocks, with scale and shift, dropout, and times that are scaled and of their own width.
    "unet-blocks": Sketch(
        "unet",
        (4, 8, 2),
        0,
        2,
        {
            "channels": 8,
            "multipliers": (1, 2, 1),
            "blocks": 1,
            "attention": (4,),
            "heads": 2,
            "adaptive": True,
            "dropout": 0.2,
            "time_scale": 0.25,
            "time_channels": 6,
            "resampling": "blocks",
        },
    ),
    "mlp": Sketch("mlp", (2,), 0, 2, {"width": 6, "depth": 2}),
    "mlp-classes": Sketch("mlp", (3,), 5, 4, {"width": 4, "depth": 1}),
}
"""Networks, named after the option that they test."""

UNETS = [name for name, sketch in SKETCHES.items() if sketch.name == "unet"]


class Setting:
    """A network with random weights, a batch, and the gradient that reaches its prediction, all read-only.

    Attributes:
        network: the network under test.
        layout: the layout of its parameters.
        weights: its weights by path.
        x, t, cond, dout: the batch; no two samples have the same time.
    """

    def __init__(self, sketch: Sketch, n: int = 2, seed: int = 1, **changed: Any) -> None:
        rng = np.random.default_rng(seed)
        self.network = sketch.build(**changed)
        self.layout = Layout(self.network.parameters)
        self.weights = read_only(random_weights(self.layout, seed))
        self.x = rng.normal(size=(n, *sketch.shape))
        self.t = rng.permutation(1000)[:n]
        self.cond = {"label": rng.permutation(sketch.classes)[:n]} if sketch.classes else {}
        self.dout = rng.normal(size=(n, *sketch.shape[:-1], sketch.out_channels))
        for array in (self.x, self.t, self.dout, *self.cond.values()):
            array.flags.writeable = False

    def noise(self, backend: Backend, step: int = 3) -> DropoutNoise:
        """Return the dropout masks of a training step."""
        return DropoutNoise(backend.random(8), step, np.arange(len(self.x)))

    def forward(
        self,
        backend: Backend,
        training: bool = True,
        noise: bool = True,
        x: HostArray | None = None,
        weights: Mapping[str, HostArray] | None = None,
        recompute: bool = False,
    ) -> tuple[Any, Saved]:
        """Return the prediction and the residuals; `x` and `weights` replace those of the setting."""
        weights = {**self.weights, **(weights or {})}
        return self.network.forward(
            load_operations(backend, training, recompute),
            {path: backend.asarray(w) for path, w in weights.items()},
            backend.asarray(self.x if x is None else x),
            backend.asarray(self.t),
            {kind: backend.asarray(values) for kind, values in self.cond.items()},
            self.noise(backend) if noise else None,
        )

    def backward(self, backend: Backend, saved: Saved, buffer: Any) -> Any:
        """Add the gradients to a flat `buffer` and return dx."""
        dw = self.layout.views(buffer, backend.xp)
        return self.network.backward(saved, dw, backend.asarray(self.dout))

    def gradients(self, backend: Backend, recompute: bool = False) -> tuple[HostArray, dict[str, HostArray], HostArray]:
        """Return the prediction, the gradients by path, read from the flat buffer, and dx, on the host."""
        out, saved = self.forward(backend, recompute=recompute)
        buffer = self.no_gradients(backend)
        dx = self.backward(backend, saved, buffer)
        dw = self.layout.views(backend.to_numpy(buffer), np)
        return backend.to_numpy(out), dw, backend.to_numpy(dx)

    def no_gradients(self, backend: Backend) -> Any:
        """Return a flat float64 buffer of zeros."""
        return backend.asarray(np.zeros(self.layout.size))


def is_key_bias(path: str) -> bool:
    """Return whether `path` is the bias of attention's keys, whose gradient is zero.

    It adds the same number, q · b, to all scores of a query, which does not change their softmax.
    """
    return path.endswith("/k/b")
