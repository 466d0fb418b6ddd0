"""The contract of conditions, which `label` and every plugin implement, and a network with its condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from tinyddpm import registry
from tinyddpm.backend import Array
from tinyddpm.errors import ConfigError
from tinyddpm.nn import DropoutNoise, Gradients, Network, Parameter, Told, Weights, Widths
from tinyddpm.ops import Operations, Saved

OF_CLASSES = "label"
"""The default condition of a model that learns classes."""

HostArray: TypeAlias = np.ndarray[Any, Any]

Given: TypeAlias = Mapping[str, Array]
"""The columns that a condition has read for N samples, by name, (N, ...) on the device. Rows can be cut and joined."""


class Known(Protocol):
    """The data that conditions read, from a data set or from a request for samples.

    Attributes:
        labels: (n,) integers, None without classes.
        columns: other data of each sample, by name, each of n rows; see `tinyddpm.data.base.Dataset`.
    """

    labels: HostArray | None
    columns: Mapping[str, HostArray]


@dataclass
class Asked:
    """A request for n samples: `labels`, (n,) integers, None without classes, and `columns` of n rows by name."""

    labels: HostArray | None
    columns: Mapping[str, HostArray] = field(default_factory=dict)


class Wish(NamedTuple):
    """A user's request in the user's own terms. Samples are drawn for its k entries in turn. A part not given is None.

    Attributes:
        labels: (k,) numbers of classes.
        prompts: k captions.
        embeddings: columns that another project's encoder made, each of k rows.
        images: small pictures to enlarge, uint8 (k, h, w, C).
    """

    labels: HostArray | None = None
    prompts: Sequence[str] | None = None
    embeddings: Mapping[str, HostArray] | None = None
    images: HostArray | None = None

    @property
    def said(self) -> bool:
        """Whether any part is given."""
        return any(part is not None for part in self)


ASKED_BY = {
    "labels": ("classes", "--labels"),
    "prompts": ("captions", "--prompt"),
    "embeddings": ("embeddings", "--embeddings"),
    "images": ("pictures to enlarge", "images"),
}
"""For each part of a wish: the data that a model must have been trained with, and the option that gives the part."""


class Telling(Protocol):
    """A function from columns to a network's `Told`, with parameters, a hand-derived backward and no state."""

    @property
    def parameters(self) -> Sequence[Parameter]:
        """Its parameters, in the order of the flat buffer."""
        ...

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return the network's `Told` for N samples, and the residuals (None when `ops.training` is False)."""
        ...

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Add the gradients of the parameters to `dw` in place, and use up `saved`."""
        ...


class Condition(Telling, Protocol):
    """A kind of information that samples are conditioned on: how it is read, and how a network receives it.

    An entry of group `tinyddpm.conditions` is a callable
    `(sample_shape, classes, width, null, **options) -> Condition`:

    - sample_shape: (H, W, C) of one image, or (D,) of one point;
    - classes: the number of classes of the data, 0 for none;
    - width: width of the vector that the network takes;
    - null: whether the null is used; parameters that only the null needs are declared only then;
    - options: keyword-only, all with defaults; ConfigError for a bad one, before anything is computed.

    If options depend on the training data, such as the words of its captions, the callable has a function
    `learned(known, **options) -> options` as an attribute. It is called once, before a run's model is built, and the
    options that it returns are recorded in the configuration.

    If the columns are made from the samples themselves, such as smaller pictures of them, the condition has a method
    `observed(xp, x_0, random=None, step=0, samples=()) -> Given`. It makes the columns of `read` from x_0,
    (N, *sample_shape), on the device; then no columns of a data set are read. Each training step calls it anew:
    `random`, `step` and `samples` name the random numbers that it may draw, see `Random`. Without `random` there are
    none.

    Attributes:
        gives: widths of the parts of `Told` that it makes; 0 for the others.
        null: the columns for one sample without information, by name, each without the axis of samples. Empty if it was
            built without a null and would need parameters for one.
    """

    gives: Widths
    null: Mapping[str, HostArray]

    def read(self, known: Known) -> Mapping[str, HostArray]:
        """Return the columns of all samples in `known`, each (n, ...), on the host.

        Raises:
            ConfigError: the data that it reads are missing or out of range.
        """
        ...

    def asked(self, wish: Wish, shown: Known | None = None) -> Known:
        """Return the request, in this condition's columns, that fulfils a user's wish.

        Args:
            wish: the user's request.
            shown: some samples of the data, whose columns are requested if the wish is empty, as for a run's pictures.

        Raises:
            ConfigError: the wish has a part that this condition does not read, or is empty where it must not be.
        """
        ...

    def words(self, known: Known) -> Sequence[str] | None:
        """Return a text to write beside each sample of this request; None for no texts."""
        ...


class Unconditional:
    """The condition of a model without one: it reads no columns and gives a network nothing."""

    gives = Widths()
    null: Mapping[str, HostArray] = {}
    parameters: Sequence[Parameter] = ()

    def read(self, known: Known) -> Mapping[str, HostArray]:
        """Return no columns."""
        return {}

    def asked(self, wish: Wish, shown: Known | None = None) -> Asked:
        """Return an empty request.

        Raises:
            ConfigError: the wish is not empty.
        """
        refuse_others(wish)
        return Asked(None)

    def words(self, known: Known) -> None:
        """Return None: there are no texts."""

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return an empty `Told`."""
        return Told(), None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Do nothing: there are no parameters."""


class Conditioned:
    """A network with its condition: a function of x_t, t and the condition's columns.

    Args:
        network: the network, which receives the condition's `Told`.
        condition: makes the `Told` of the columns.
        name: name of the network in error messages.

    Attributes:
        parameters: those of both; parameters whose paths begin with the same folder are adjacent.
    """

    def __init__(self, network: Network, condition: Telling, name: str = "given") -> None:
        self._network, self._condition, self._name = network, condition, name
        folders: dict[str, list[Parameter]] = {}
        for parameter in (*network.parameters, *condition.parameters):
            folders.setdefault(parameter.path.partition("/")[0], []).append(parameter)
        self.parameters = [parameter for inside in folders.values() for parameter in inside]

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, given: Given, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the prediction, and the residuals of both (None when `ops.training` is False); see `Network`.

        Raises:
            ConfigError: the network returns another type than x's, or another shape apart from the channels.
        """
        told, saved_condition = self._condition.forward(ops, w, given)
        out, saved = self._network.forward(ops, w, x, t, told, noise)
        if out.shape[:-1] != x.shape[:-1] or out.dtype != x.dtype:  # it might be trained without a word
            raise ConfigError(
                f"network {self._name!r} with its condition returns {out.dtype} of shape {tuple(out.shape)} for"
                f" {x.dtype} of shape {tuple(x.shape)}: make it keep the type and all axes but the last"
            )
        return out, (saved, saved_condition) if ops.training else None

    def backward(self, saved: Saved, dw: Gradients, dout: Array) -> Array:
        """Add the gradients of all parameters to `dw` in place, use up `saved`, and return dx."""
        saved_network, saved_condition = saved
        dx, dtold = self._network.backward(saved_network, dw, dout)
        self._condition.backward(saved_condition, dw, dtold)
        return dx


def make_condition(
    name: str, sample_shape: tuple[int, ...], classes: int, width: int, null: bool, options: Mapping[str, Any]
) -> Condition:
    """Return the condition registered as `name`; for the arguments see `Condition`.

    Raises:
        RegistryError: no such condition, or its plugin is broken.
        ConfigError: an option is unknown or out of range, or the data lack what the condition needs.
    """
    condition: Condition = registry.build("conditions", name, (sample_shape, classes, width, null), options)
    contract = ("gives", "null", "parameters", "read", "asked", "words", "forward", "backward")
    registry.require("conditions", name, condition, contract)
    return condition


def refuse_others(wish: Wish, reads: str = "") -> None:
    """Check that a wish has no part except the one that a condition reads.

    Raises:
        ConfigError: it has another part.
    """
    for part, (what, option) in ASKED_BY.items():
        if part != reads and getattr(wish, part) is not None:
            raise ConfigError(f"the model was trained without {what}: leave {option} out")


def some(known: Known, rows: HostArray | slice) -> Asked:
    """Return the labels and columns of some rows."""
    labels = None if known.labels is None else known.labels[rows]
    return Asked(labels, {name: column[rows] for name, column in known.columns.items()})


def count(known: Known) -> int:
    """Return the number of rows of labels and columns, 0 without any."""
    return max([0 if known.labels is None else len(known.labels), *map(len, known.columns.values())])


def in_turn(known: Known, numbers: HostArray) -> Asked:
    """Return the rows for samples of these numbers, (N,), in turn: sample i has row i modulo the number of rows."""
    return some(known, numbers % max(1, count(known)))


def learned_options(name: str, known: Known, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a condition, with those that it learns from the training data; see `Condition`.

    Raises:
        RegistryError: no such condition, or its plugin is broken.
        ConfigError: an option is unknown, or the data lack what the condition needs.
    """
    learn = getattr(registry.checked("conditions", name, options), "learned", None)
    return learn(known, **options) if learn else options


def check_fit(network: str, takes: Widths, condition: str, gives: Widths) -> None:
    """Check that a network takes the parts that a condition gives, in their widths.

    Args:
        network: name of the network in the message.
        takes: widths of the parts that it takes.
        condition: name of the condition in the message.
        gives: widths of the parts that it gives.

    Raises:
        ConfigError: a part is given that the network does not take in this width.
    """
    for part, given in gives._asdict().items():
        taken = getattr(takes, part)
        if given and given != taken:
            wants = f"{part} of width {taken}" if taken else f"no {part}"
            raise ConfigError(
                f"condition {condition!r} gives {part} of width {given}, network {network!r} takes {wants}: "
                "choose another of the two"
            )
