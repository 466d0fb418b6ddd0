"""The kit for conditions passes what keeps the contract, and names what does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from helpers.conditions import Columns, Picture, Words
from tinyddpm.conditions import Asked, Condition, Given, Known, Wish
from tinyddpm.conditions.label import Label
from tinyddpm.nn import Gradients, Parameter, Told, Weights, Widths
from tinyddpm.ops import Operations, Saved
from tinyddpm.testing import check_condition

RNG = np.random.default_rng(4)
KNOWN = Columns(
    np.arange(3),
    RNG.standard_normal((3, 8, 8, 3), np.float32),
    RNG.standard_normal((3, 5, 3), np.float32),
    np.asarray([5, 2, 1]),
)


def test_label_keeps_the_contract() -> None:
    check_condition("label", Asked(np.asarray([2, 0, 1, 1])))


@pytest.mark.parametrize("factory", [Picture, Words])
def test_images_and_tokens_keep_it(factory: Callable[..., Condition]) -> None:
    check_condition(factory, KNOWN)


class Narrow(Label):
    def __init__(self, sample_shape: Any, classes: int, width: int, null: bool) -> None:
        super().__init__(sample_shape, classes, width, null)
        self.gives = Widths(vector=3)


class Twice(Label):
    @property
    def parameters(self) -> Sequence[Parameter]:
        return [*super().parameters, *super().parameters]


class Silent(Label):
    def __init__(self, sample_shape: Any, classes: int, width: int, null: bool) -> None:
        super().__init__(sample_shape, classes, width, null)
        self.null = {}


class NullOfOtherShape(Label):
    def __init__(self, sample_shape: Any, classes: int, width: int, null: bool) -> None:
        super().__init__(sample_shape, classes, width, null)
        self.null = {name: np.asarray([value]) for name, value in self.null.items()}


class Overwrites(Label):
    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        dw["time/label/table"][...] = 0.0
        super().backward(saved, dw, dtold)


class Doubles(Label):
    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        super().backward(saved, dw, Told(vector=2 * dtold.vector))


class Keeps(Label):
    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        told, saved = super().forward(ops, w, given)
        return told, saved or self


class Mixes(Label):
    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        told, saved = super().forward(ops, w, given)
        return Told(vector=told.vector + ops.xp.mean(told.vector, axis=0)), saved


class Remembers(Label):
    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        told, saved = super().forward(ops, w, given)
        if ops.training:
            self.saved = saved
        return told, True if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        super().backward(self.saved, dw, dtold)


class Trains(Label):
    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        told, saved = super().forward(ops, w, given)
        return (Told(vector=2 * told.vector) if ops.training else told), saved


class Widens(Label):
    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        told, saved = super().forward(ops, w, given)
        return Told(vector=ops.xp.astype(told.vector, ops.xp.float64)), saved


class WritesWeights(Label):
    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        w["time/label/table"][0, ...] = 0.0
        return super().forward(ops, w, given)


class WritesGradient(Label):
    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        vector = dtold.vector
        vector *= 1.0
        super().backward(saved, dw, dtold)


class Numbers(Words):
    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        told, saved = super().forward(ops, w, given)
        return told._replace(mask=ops.xp.astype(told.mask, ops.xp.int64)), saved


class Speechless(Words):
    def words(self, known: Columns) -> list[str]:
        return ["one"]


class AsksForOther(Label):
    def asked(self, wish: Wish, shown: Known | None = None) -> Asked:
        return Asked(np.arange(2))

    def read(self, known: Known) -> Mapping[str, np.ndarray]:
        return super().read(known) if len(known.labels) > 2 else {}


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (Narrow, "gives says vector of width 3, but forward returns 6"),
        (Twice, "condition 'Twice': .*time/label/table"),
        (Silent, r"its null has the columns \[\], it reads \['label'\]"),
        (NullOfOtherShape, r"the null of label has shape \(1,\), one sample's is \(\)"),
        (Overwrites, "gradient of time/label/table is not added in place"),
        (Doubles, "gradient of time/label/table: projection"),
        (Keeps, "forward keeps residuals"),
        (Mixes, "the vector told of a sample depends on the batch"),
        (Remembers, "gradient of time/label/table differs after another forward"),
        (Trains, "the vector told changes with ops.training"),
        (Widens, "vector is float64 for float32 weights"),
        (WritesWeights, "forward with read-only columns and weights fails on numpy: ValueError"),
        (WritesGradient, "backward with a read-only dtold fails on numpy: ValueError"),
        (Numbers, "the mask is int64"),
        (Speechless, r"it has 1 words for \[3\] samples"),
        (AsksForOther, r"for an empty wish it reads \[\], not \['label'\]"),
    ],
)
def test_a_broken_condition_is_named(broken: Callable[..., Condition], line: str) -> None:
    with pytest.raises(AssertionError, match=line):
        check_condition(broken, KNOWN)
