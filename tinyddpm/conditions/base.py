"""What a condition is: the protocol that `label` and every plugin implement, and a network with its condition."""

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
"""The condition of a model that learns classes, where none is named."""

HostArray: TypeAlias = np.ndarray[Any, Any]

Given: TypeAlias = Mapping[str, Array]
"""What a condition has read for N samples, on the device: columns by name, (N, ...). Rows can be cut and joined."""


class Known(Protocol):
    """What conditions read, of a data set or of what is asked for.

    Attributes:
        labels: (n,) integers, None without classes.
        columns: what else is known of each sample, by name, each of n rows; see `tinyddpm.data.base.Dataset`.
    """

    labels: HostArray | None
    columns: Mapping[str, HostArray]


@dataclass
class Asked:
    """What samples are asked for: `labels`, (n,) integers, None where no class is said, and `columns` of n rows."""

    labels: HostArray | None
    columns: Mapping[str, HostArray] = field(default_factory=dict)


class Wish(NamedTuple):
    """What a user asks for, in the user's own terms: samples go round through it. None for what is not said.

    Attributes:
        labels: (k,) numbers of classes.
        prompts: k captions.
        embeddings: columns that someone else's encoder made, each of k rows.
        images: small pictures to enlarge, uint8 (k, h, w, C).
    """

    labels: HostArray | None = None
    prompts: Sequence[str] | None = None
    embeddings: Mapping[str, HostArray] | None = None
    images: HostArray | None = None

    @property
    def said(self) -> bool:
        """Whether anything is."""
        return any(part is not None for part in self)


ASKED_BY = {
    "labels": ("classes", "--labels"),
    "prompts": ("captions", "--prompt"),
    "embeddings": ("embeddings", "--embeddings"),
    "images": ("pictures to enlarge", "images"),
}
"""What a model must have been trained with for each part of a wish, and the option that says it."""


class Telling(Protocol):
    """What tells a network of samples, with parameters and a hand-derived backward, and no state of its own."""

    @property
    def parameters(self) -> Sequence[Parameter]:
        """Its parameters, in the order of the flat buffer."""
        ...

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return what a network is told of N samples, and the residuals (None when `ops.training` is False)."""
        ...

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Add the gradients of the parameters to `dw` in place, and use up `saved`."""
        ...


class Condition(Telling, Protocol):
    """What samples are conditioned on.

    An entry of group `tinyddpm.conditions` is a callable
    `(sample_shape, classes, width, null, **options) -> Condition`:

    - sample_shape: (H, W, C) of one image, or (D,) of one point;
    - classes: the number of classes of the data, 0 for none;
    - width: of the vector that the network takes;
    - null: whether the null is ever given; parameters that the null alone needs are declared only then;
    - options: keyword-only, all with defaults; ConfigError for a bad one, before anything is computed.

    Where options depend on the training data, such as the words of its captions, the callable has a function
    `learned(known, **options) -> options` as an attribute. It is called once, before a run's model is built, and what
    it returns is recorded in the configuration.

    Where what is given is made of the samples themselves, such as smaller pictures of them, the condition has a method
    `observed(xp, x_0, random=None, step=0, samples=()) -> Given`. It makes the columns that `read` returns of x_0,
    (N, *sample_shape), on the device, and nothing is read of a data set. Each step of training asks it anew: `random`,
    `step` and `samples` then name the random numbers that it may draw, see `Random`. Without `random` it draws none.

    Attributes:
        gives: how wide the parts are that it tells a network; 0 for those that it does not.
        null: what is given for one sample of which nothing is said, by column, each without the axis of samples.
            Empty if it was built without a null and needs parameters for one.
    """

    gives: Widths
    null: Mapping[str, HostArray]

    def read(self, known: Known) -> Mapping[str, HostArray]:
        """Return the columns of all samples that `known` knows of, each (n, ...), on the host.

        Raises:
            ConfigError: they are not there, or out of range.
        """
        ...

    def asked(self, wish: Wish, shown: Known | None = None) -> Known:
        """Return what samples are asked for in turn when a user has this wish.

        Args:
            wish: what is said.
            shown: some samples of the data, whose like may be drawn where nothing is said, as a run does on its way.

        Raises:
            ConfigError: what is said is not what this condition reads, or nothing is said where that is not known.
        """
        ...

    def words(self, known: Known) -> Sequence[str] | None:
        """Return what to write beside each sample that was asked for so; None for nothing."""
        ...


class Unconditional:
    """The condition of a model without one: nothing is read, and nothing told."""

    gives = Widths()
    null: Mapping[str, HostArray] = {}
    parameters: Sequence[Parameter] = ()

    def read(self, known: Known) -> Mapping[str, HostArray]:
        """Return no columns."""
        return {}

    def asked(self, wish: Wish, shown: Known | None = None) -> Asked:
        """Return that nothing is asked for.

        Raises:
            ConfigError: something is.
        """
        refuse_others(wish)
        return Asked(None)

    def words(self, known: Known) -> None:
        """Return that nothing is to be written."""

    def forward(self, ops: Operations, w: Weights, given: Given) -> tuple[Told, Saved]:
        """Return that nothing is told."""
        return Told(), None

    def backward(self, saved: Saved, dw: Gradients, dtold: Told) -> None:
        """Do nothing: there are no parameters."""


class Conditioned:
    """A network with its condition: a function of x_t, t and what was given.

    Args:
        network: is told what the condition gives.
        condition: what the samples are conditioned on.

    Attributes:
        parameters: of both; those whose paths begin with the same folder lie side by side.
    """

    def __init__(self, network: Network, condition: Telling) -> None:
        self._network, self._condition = network, condition
        folders: dict[str, list[Parameter]] = {}
        for parameter in (*network.parameters, *condition.parameters):
            folders.setdefault(parameter.path.partition("/")[0], []).append(parameter)
        self.parameters = [parameter for inside in folders.values() for parameter in inside]

    def forward(
        self, ops: Operations, w: Weights, x: Array, t: Array, given: Given, noise: DropoutNoise | None = None
    ) -> tuple[Array, Saved]:
        """Return the prediction, and the residuals of both (None when `ops.training` is False); see `Network`."""
        told, saved_condition = self._condition.forward(ops, w, given)
        out, saved = self._network.forward(ops, w, x, t, told, noise)
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
        ConfigError: an option is unknown or out of range, or the data has not what it needs.
    """
    condition: Condition = registry.build("conditions", name, (sample_shape, classes, width, null), options)
    return condition


def refuse_others(wish: Wish, reads: str = "") -> None:
    """Refuse what is wished but for the part that a condition reads.

    Raises:
        ConfigError: there is such a part.
    """
    for part, (what, option) in ASKED_BY.items():
        if part != reads and getattr(wish, part) is not None:
            raise ConfigError(f"the model was trained without {what}: leave {option} out")


def some(known: Known, rows: HostArray | slice) -> Asked:
    """Return what is known of some rows."""
    labels = None if known.labels is None else known.labels[rows]
    return Asked(labels, {name: column[rows] for name, column in known.columns.items()})


def count(known: Known) -> int:
    """Return of how many samples something is known: 0 where nothing is."""
    return max([0 if known.labels is None else len(known.labels), *map(len, known.columns.values())])


def in_turn(known: Known, numbers: HostArray) -> Asked:
    """Return what the samples of these numbers are asked for: they go round through what is known."""
    return some(known, numbers % max(1, count(known)))


def learned_options(name: str, known: Known, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of a condition with what it learns from the training data; see `Condition`.

    Raises:
        RegistryError: no such condition, or its plugin is broken.
        ConfigError: an option is unknown, or the data has not what it needs.
    """
    learn = getattr(registry.checked("conditions", name, options), "learned", None)
    return learn(known, **options) if learn else options


def check_fit(network: str, takes: Widths, condition: str, gives: Widths) -> None:
    """Check that a network, called `network` in messages, takes what a condition gives.

    Raises:
        ConfigError: it does not.
    """
    for part, given in gives._asdict().items():
        taken = getattr(takes, part)
        if given and given != taken:
            wants = f"{part} of width {taken}" if taken else f"no {part}"
            raise ConfigError(
                f"condition {condition!r} gives {part} of width {given}, network {network!r} takes {wants}: "
                "choose another of the two"
            )
