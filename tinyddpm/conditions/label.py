"""Classes as a condition: a learned vector for each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinyddpm.conditions.base import Asked, Given, HostArray, Known, Wish, refuse_others
from tinyddpm.errors import ConfigError
from tinyddpm.nn import Gradients, Parts, Told, Weights, Widths
from tinyddpm.nn.layers import Embedding, Pass
from tinyddpm.ops import Operations, Saved


class Label(Parts):
    """A learned vector per class, which is added to the embedded time (ADM, section 3). The null is one row more (CFG).

    Args:
        sample_shape: unused.
        classes: number of classes.
        width: width of the vectors.
        null: whether there is a row for the null.

    Raises:
        ConfigError: there are no classes.
    """

    def __init__(self, sample_shape: tuple[int, ...], classes: int, width: int, null: bool) -> None:
        if not classes:
            raise ConfigError("condition 'label' needs classes: give --labels, and data that has them")
        self.classes = classes
        self.gives = Widths(vector=width)
        self.null: Mapping[str, HostArray] = {"label": np.asarray(classes)} if null else {}
        self.embedding = Embedding("time/label", classes + null, width)

    def read(self, known: Known) -> Mapping[str, HostArray]:
        """Return `label`, the class of each sample, (n,) int64.

        Raises:
            ConfigError: no classes are given, or one is not from 0 to `classes` − 1.
        """
        if known.labels is None:
            raise ConfigError(f"no class is given: give each sample one of the {self.classes} classes, by --labels")
        labels = np.asarray(known.labels)
        for label in (labels.min(), labels.max()) if labels.size else ():
            if not 0 <= label < self.classes:
                raise ConfigError(f"label {label} is no class: give a number from 0 to {self.classes - 1}")
        return {"label": labels.astype(np.int64)}

    def asked(self, wish: Wish, shown: Known | None = None) -> Asked:
        """Return the classes of the wish, or all classes if it is empty.

        Raises:
            ConfigError: the wish has another part.
        """
        refuse_others(wish, "labels")
        return Asked(np.arange(self.classes) if wish.labels is None else wish.labels)

    def words(self, known: Known) -> None:
        """Return None: pictures show each class as a column of its own."""

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return the vector of each sample's class."""
        run = Pass(ops, w)
        vector = self.embedding.forward(run, given["label"])
        return Told(vector=vector), run if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Add the table's gradient to `dw`; a class has none."""
        run: Pass = saved
        run.dw = dw
        self.embedding.backward(run, dtold.vector)
