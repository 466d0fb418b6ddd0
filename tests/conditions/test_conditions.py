"""Conditions: what is told, where their parameters lie, what does not fit, and the null that training draws."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyddpm
from helpers.conditions import Picture, Words
from helpers.networks import SKETCHES
from helpers.runs import DIGITS
from tinyddpm import registry
from tinyddpm.backend import Backend, load_backend
from tinyddpm.conditions import OF_CLASSES, Asked, check_fit, make_condition
from tinyddpm.conditions.label import Label
from tinyddpm.data import open_dataset
from tinyddpm.errors import ConfigError
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model
from tinyddpm.nn import Layout, Told, Widths, make_network
from tinyddpm.ops import load_operations
from tinyddpm.testing import random_weights
from tinyddpm.training.assembly import make_trainer

NUMPY = load_backend("numpy")
SETTINGS = DIGITS.updated(
    {
        "data": {"labels": True},
        "network": {"channels": 4, "attention": [], "dropout": 0.0},
        "training": {"batch_size": 6},
    }
)


def model(dropout: float = 0.0, **tables: Any) -> Model:
    config = SETTINGS.updated({"condition": {"dropout": dropout}, **tables})
    return Model(config, (8, 8, 1), tuple("0123456789") if config.data.labels else (), NUMPY)


def test_a_label_is_a_row_of_its_table() -> None:
    """The null is the row after those of the classes, which is there only where it may be given."""
    for null in (False, True):
        label = Label((2,), 3, 4, null)
        assert [(p.path, p.shape) for p in label.parameters] == [("time/label/table", (3 + null, 4))]
    w = {"time/label/table": np.arange(16.0).reshape(4, 4)}
    told, _ = label.forward(load_operations(NUMPY), w, {"label": np.append([2, 0], label.null["label"])})
    np.testing.assert_array_equal(told.vector, w["time/label/table"][[2, 0, 3]])


@pytest.mark.parametrize(
    ("labels", "line"),
    [(None, "no class is given"), ([0, -1], "label -1 is no class"), ([3, 1], "give a number from 0 to 2")],
)
def test_what_is_no_class_is_refused(labels: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Label((2,), 3, 4, False).read(Asked(None if labels is None else np.asarray(labels)))


def test_parameters_of_one_folder_lie_side_by_side() -> None:
    """Those of a label after those of the time, before the rest of the network: where they have always been."""
    paths = Layout(model().network.parameters).paths
    at = paths.index("time/label/table")
    assert paths[at - 1 : at + 2] == ["time/dense_2/b", "time/label/table", "conv_in/w"]


def test_what_does_not_fit_is_one_line() -> None:
    """A part that a network does not take, a width that it does not have, and a condition without its data."""
    words = Words((2,), 0, 8, False)
    takes = make_network("mlp", (2,), words.gives, 2, {"width": 8}).takes
    with pytest.raises(
        ConfigError, match=r"^condition 'words' gives tokens of width 4, network 'mlp' takes no tokens:"
    ):
        check_fit("mlp", takes, "words", words.gives)
    with pytest.raises(ConfigError, match="gives vector of width 3, network 'mlp' takes vector of width 8:"):
        check_fit("mlp", takes, "own", Widths(vector=3))
    check_fit("mlp", takes, "own", Widths(vector=8))
    with pytest.raises(ConfigError, match="condition 'label' needs classes: give --labels"):
        make_condition("label", (2,), 0, 8, False, {})
    with pytest.raises(ConfigError, match="size"):
        make_condition("label", (2,), 3, 8, False, {"size": 3})


def test_a_model_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda g, name: Words if name == "words" else load(g, name))
    points = {"data": {"labels": False}, "network": {"name": "mlp", "width": 8}, "condition": {"name": "words"}}
    with pytest.raises(ConfigError, match="'words' gives tokens of width 4, network 'mlp' takes no tokens"):
        Model(Config.from_dict(points), (2,), (), NUMPY)
    with pytest.raises(ConfigError, match="nothing is conditioned on"):
        model(data={"labels": False}, condition={"dropout": 0.1})
    with pytest.raises(ConfigError, match=r"condition.dropout is 1.5: it must lie in \[0, 1\]"):
        model(1.5)


def test_nothing_is_said_to_a_share_of_samples(other_backend: Backend) -> None:
    """The share is the rate, within 5 standard errors; which samples they are does not depend on batch or backend."""
    ours, n = model(0.3), 20_000
    given = ours.asked(Asked(np.arange(n) % 10))
    told = ours.partly_nothing(given, NUMPY.random(7), 4, np.arange(n))["label"]
    silent = told == 10
    assert abs(silent.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n)
    np.testing.assert_array_equal(told[~silent], (np.arange(n) % 10)[~silent])

    theirs = Model(ours.config, (8, 8, 1), tuple("0123456789"), other_backend)
    some = np.arange(100, 120)
    part = theirs.partly_nothing(theirs.asked(Asked(some % 10)), other_backend.random(7), 4, some)["label"]
    np.testing.assert_array_equal(other_backend.to_numpy(part), told[some])
    other_step = ours.partly_nothing(given, NUMPY.random(7), 5, np.arange(n))["label"]
    assert np.any((other_step == 10) != silent)


def test_columns_of_any_shape_have_a_null(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda g, name: Picture if name == "picture" else load(g, name))
    ours = model(condition={"name": "picture", "dropout": 0.5, "channels": 2})
    pictures = 1 + np.random.default_rng(0).random((6, 8, 8, 2))
    found = ours.partly_nothing({"picture": pictures}, NUMPY.random(1), 0, np.arange(6))["picture"]
    silent = ~np.any(found, axis=(1, 2, 3))
    assert 0 < silent.sum() < 6
    np.testing.assert_array_equal(found[~silent], pictures[~silent])
    assert ours.nothing(2)["picture"].shape == (2, 8, 8, 2)


def test_nothing_can_be_asked_only_of_what_has_learned_it() -> None:
    np.testing.assert_array_equal(model(0.1).nothing(3)["label"], [10, 10, 10])
    for without in (model(), model(data={"labels": False})):
        with pytest.raises(ConfigError, match="train one with --condition-dropout"):
            without.nothing(3)


def test_the_null_is_trained() -> None:
    """Its row moves, and with rate 1 no other does; without dropout there is no such row."""
    config = SETTINGS.updated({"condition": {"dropout": 1.0}})
    trainer = make_trainer(config, NUMPY, open_dataset("digits"))
    layout = trainer.model.layout
    before = layout.views(trainer.weights.copy(), np)["time/label/table"]
    trainer.weights[...] = np.random.default_rng(0).normal(0, 0.1, layout.size)
    before = layout.views(trainer.weights.copy(), np)["time/label/table"]
    trainer.train_step()
    moved = np.any(layout.views(trainer.weights, np)["time/label/table"] != before, axis=1)
    np.testing.assert_array_equal(moved, [False] * 10 + [True])
    assert make_trainer(SETTINGS, NUMPY, open_dataset("digits")).model.layout.size == layout.size - 16


@pytest.mark.parametrize("name", SKETCHES)
def test_an_untold_network_is_one_told_a_zero_vector(name: str) -> None:
    sketch = SKETCHES[name]
    network = make_network(sketch.name, sketch.shape, Widths(), sketch.out_channels, sketch.options)
    w = random_weights(network, 0)
    x, t, ops = np.random.default_rng(1).normal(size=(2, *sketch.shape)), np.asarray([4, 7]), load_operations(NUMPY)
    untold, _ = network.forward(ops, w, x, t, Told())
    told, _ = network.forward(ops, w, x, t, Told(vector=np.zeros((2, network.takes.vector))))
    np.testing.assert_array_equal(told, untold)


@pytest.mark.slow
def test_no_other_room_knows_the_label_by_name() -> None:
    """Data sets have labels, and the command line --labels; the condition's name is its own room's.

    The word in `data/captions.py` is the name of a column in a folder's metadata, in `data/table.py` of one in a table,
    in `report/sections.py` and `report/book/pages.py` an element of HTML.
    """
    root = Path(tinyddpm.__file__).parent
    columns = {root / "data" / "captions.py", root / "data" / "table.py"}
    others = columns | {root / "report" / "sections.py", root / "report" / "book" / "pages.py"}
    named = {
        path.relative_to(root).parts[0]
        for path in set(root.rglob("*.py")) - others
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == OF_CLASSES
    }
    assert named == {"conditions"}
