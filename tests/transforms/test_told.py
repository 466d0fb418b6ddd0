"""What transforms did is told the network, in training alone: its gradient, where it is zero, what it is good for."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from helpers.runs import DIGITS
from tinyddpm.backend import Backend, load_backend
from tinyddpm.conditions import TRANSFORMS, Asked, Transformed, Unconditional
from tinyddpm.conditions.label import Label
from tinyddpm.conditions.transformed import MAP
from tinyddpm.data.base import ArrayDataset
from tinyddpm.errors import ConfigError, RegistryError
from tinyddpm.model.checkpoint import plugins_of
from tinyddpm.model.config import Config
from tinyddpm.model.model import Model
from tinyddpm.model.sampling import draw
from tinyddpm.nn import Network, Told, Widths, make_network
from tinyddpm.ops import load_operations
from tinyddpm.testing import check_projection
from tinyddpm.training.assembly import make_trainer
from tinyddpm.training.trainer import Trainer

NUMPY = load_backend("numpy")
N, K, WIDTH, CLASSES = 5, 3, 6, 4

SETTINGS = DIGITS.updated(
    {
        "data": {"source": "noise", "labels": True, "tell_transforms": True, "validation": 5},
        "transforms": {"shift": {"most": 1, "p": 0.6}, "colour": {"p": 0.6}},
        "network": {"channels": 4, "attention": [], "dropout": 0.1},
        "condition": {"dropout": 0.2},
        "training": {"batch_size": 12, "ema": 0.5},
    }
)


def trainer(settings: Config = SETTINGS, backend: Backend = NUMPY, **changes: Any) -> Trainer:
    rng = np.random.default_rng(0)
    data = ArrayDataset(rng.integers(0, 256, (40, 4, 4, 3), np.uint8), rng.integers(0, CLASSES, 40), name="noise")
    return make_trainer(settings.updated(changes), backend, data)


@pytest.mark.parametrize(
    "condition", [Unconditional(), Label((4, 4, 3), CLASSES, WIDTH, False)], ids=["alone", "label"]
)
def test_the_gradient_is_torchs_and_that_of_differences(condition: Any, rng: np.random.Generator) -> None:
    """Of the vector, by random projection at 1e-6, and against Torch's autograd at 1e-12; onto what is there."""
    told = Transformed(condition, K, WIDTH)
    w = {parameter.path: rng.normal(size=parameter.shape) for parameter in told.parameters}
    assert list(w)[-1] == MAP == "time/transforms/w"
    given = {TRANSFORMS: rng.normal(size=(N, K))}
    if condition.parameters:
        given["label"] = rng.integers(0, CLASSES, N)
    dvector = rng.normal(size=(N, WIDTH))
    ops = load_operations(NUMPY, training=True)
    _, saved = told.forward(ops, w, given)
    dw = {path: np.full_like(value, 2.0) for path, value in w.items()}
    told.backward(saved, dw, Told(vector=dvector))

    theirs = {path: torch.tensor(value, requires_grad=True) for path, value in w.items()}
    vector = torch.as_tensor(given[TRANSFORMS]) @ theirs[MAP]
    if condition.parameters:
        vector = vector + theirs["time/label/table"][torch.as_tensor(given["label"])]
    vector.backward(torch.as_tensor(dvector))
    for path, value in w.items():

        def of(changed: Any, path: str = path) -> Any:
            return told.forward(load_operations(NUMPY), {**w, path: changed}, given)[0].vector

        np.testing.assert_allclose(of(value), vector.detach().numpy(), rtol=1e-12)
        np.testing.assert_allclose(dw[path] - 2.0, theirs[path].grad.numpy(), rtol=1e-12, atol=1e-12)
        check_projection(of, value, dvector, dw[path] - 2.0, rng, path)


def test_without_numbers_the_map_has_no_gradient(rng: np.random.Generator) -> None:
    """As in the likelihood by the flow: the condition's gradient is as if there were no transforms."""
    label = Label((4, 4, 3), CLASSES, WIDTH, False)
    told, ops = Transformed(label, K, WIDTH), load_operations(NUMPY, training=True)
    w = {parameter.path: rng.normal(size=parameter.shape) for parameter in told.parameters}
    given, dtold = {"label": rng.integers(0, CLASSES, N)}, Told(vector=rng.normal(size=(N, WIDTH)))
    both = []
    for condition in (told, label):
        dw = {path: np.full_like(value, 2.0) for path, value in w.items()}
        condition.backward(condition.forward(ops, w, given)[1], dw, dtold)
        both.append(dw)
    assert (both[0][MAP] == 2.0).all()
    np.testing.assert_array_equal(both[0]["time/label/table"], both[1]["time/label/table"])


def test_nothing_done_is_nothing_told() -> None:
    """Numbers that are zero, and none at all, add nothing: the network says the same, bit for bit."""
    model = trainer().model
    ops, rng = load_operations(NUMPY), np.random.default_rng(1)
    w = {
        path: rng.normal(0, 0.4, shape).astype(np.float32)
        for path, shape in zip(model.layout.paths, model.layout.shapes, strict=True)
    }
    x, t, label = rng.normal(size=(3, 4, 4, 3)).astype(np.float32), np.asarray([0, 5, 19]), np.asarray([0, 1, 2])
    numbers = np.zeros((3, model.transforms.numbers), np.float32)
    plain, _ = model.network.forward(ops, w, x, t, {"label": label})
    zero, _ = model.network.forward(ops, w, x, t, {"label": label, TRANSFORMS: numbers})
    some, _ = model.network.forward(ops, w, x, t, {"label": label, TRANSFORMS: numbers + 0.5})
    np.testing.assert_array_equal(zero, plain)
    assert np.abs(some - plain).max() > 1e-3


def test_what_is_told_is_what_was_done() -> None:
    """The numbers of the training step are those of its transforms, with nothing of them in the condition's null."""
    run = trainer()
    model, seen = run.model, []
    forward = model.network.forward

    def spying(ops: Any, w: Any, x: Any, t: Any, given: Any, noise: Any = None) -> Any:
        seen.append(given)
        return forward(ops, w, x, t, given, noise)

    model.network.forward = spying  # type: ignore[method-assign]
    run.train_step()
    (given,) = seen
    assert set(given) == {"label", TRANSFORMS}
    assert CLASSES in given["label"], "a class that is left out is drawn among twelve at this rate"
    slots, x_0 = np.arange(12), np.zeros((12, 4, 4, 3), np.float32)
    _, wanted = model.transforms(NUMPY.random(0), 0, slots, x_0)
    np.testing.assert_array_equal(given[TRANSFORMS], wanted)
    assert wanted.shape == (12, 7)
    seen.clear()
    run.validation_loss()
    assert all(TRANSFORMS not in given for given in seen)


def test_validation_sees_the_data_as_they_are() -> None:
    """With the same weights the held-out loss is that of a run without transforms, bit for bit, told or not."""
    told, untold = trainer(), trainer(data={"tell_transforms": False})
    plain = trainer(replace(SETTINGS, transforms={}), data={"tell_transforms": False})
    rng = np.random.default_rng(2)
    for run in (plain, untold, told):
        rng = np.random.default_rng(2)
        for path, view in run.model.layout.views(run.state.ema, np).items():
            view[...] = rng.normal(0, 0.1, view.shape) if path != MAP else 5.0
    losses = [run.validation_loss() for run in (plain, untold, told)]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("guidance", ["none", "cfg"])
def test_samples_are_drawn_as_without(guidance: str) -> None:
    """A model that was told draws what the same weights without the map draw, also when it is guided."""
    drawn = []
    for run in (trainer(), trainer(data={"tell_transforms": False})):
        rng = np.random.default_rng(2)
        weights = np.zeros(run.model.layout.size, np.float32)
        for path, view in run.model.layout.views(weights, np).items():
            view[...] = rng.normal(0, 0.1, view.shape) if path != MAP else 5.0
        config = run.config.updated({"guidance": {"name": guidance}})
        asked = Asked(np.arange(4))
        drawn.append(
            draw(
                run.model, weights, np.arange(4), asked, seed=1, sampling=config.sampling, guidance=config.guidance,
                batch_size=3,
            ).values
        )  # fmt: skip
    np.testing.assert_array_equal(*drawn)


ONE = DIGITS.updated(
    {
        "data": {"source": "one", "tell_transforms": True},
        "transforms": {"shift": {"most": 1, "p": 1.0}},
        "network": {"channels": 16, "multipliers": [1], "attention": [], "dropout": 0.0},
        "training": {"steps": 400, "batch_size": 16, "learning_rate": 3e-3, "warmup": 10, "ema": 0.98, "predict": "v"},
        "sampling": {"steps": 10},
    }
)


@pytest.mark.slow
def test_a_model_that_is_told_draws_nothing_of_the_shifts() -> None:
    """A picture that is always shifted, by one of nine shifts of which one is none. Of 200 samples of the model that
    was told by which, nine in ten are nearest to the picture as it is. Of those of the model that was not, a ninth,
    within what chance exceeds once in a thousand times of a model that draws each as often: 9 to 38 of 200.
    """
    picture = np.full((4, 4, 1), 30, np.uint8)
    picture[1, 1] = picture[1, 2] = picture[2, 1] = 230
    data = ArrayDataset(np.repeat(picture[None], 20, axis=0), name="one")
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="reflect").astype(float)
    shifts = [padded[1 - down :, 1 - right :][:4, :4] for down, right in product((0, 1, -1), repeat=2)]
    unshifted = {}
    for told in (True, False):
        config = ONE.updated({"data": {"tell_transforms": told}})
        run = make_trainer(config, NUMPY, data)
        for _ in range(400):
            run.train_step()
        options: dict[str, Any] = {"seed": 1, "sampling": config.sampling, "batch_size": 100}
        samples = draw(run.model, run.ema, np.arange(200), Asked(None), **options).values
        distances = [[np.abs(sample - shifted).mean() for shifted in shifts] for sample in samples]
        unshifted[told] = int((np.argmin(distances, axis=1) == 0).sum())
    assert unshifted[True] >= 180
    assert 9 <= unshifted[False] <= 38


def test_drawing_needs_a_transform_only_where_it_was_told() -> None:
    """A checkpoint names those, with the package that they are from; others may be gone by then."""
    found = [plugin["name"] for plugin in plugins_of(SETTINGS) if plugin["group"] == "transforms"]
    assert found == ["shift", "colour"]
    gone = SETTINGS.updated({"data": {"tell_transforms": False}, "transforms": {"gone": {}}})
    assert not [plugin for plugin in plugins_of(gone) if plugin["group"] == "transforms"]
    Model(gone, (4, 4, 3), ("a", "b"), NUMPY)
    with pytest.raises(RegistryError, match="unknown transform 'gone'"):
        Model(gone.updated({"data": {"tell_transforms": True}}), (4, 4, 3), ("a", "b"), NUMPY)


@pytest.mark.parametrize(
    ("name", "precision", "near"), [("numba", "fp32", 1e-5), ("torch", "fp32", 1e-5), ("torch", "bf16", 0.02)]
)
def test_other_backends_train_the_same(name: str, precision: str, near: float) -> None:
    """Four steps: the loss and the map's gradient to rounding, which is that of Adam's mean after one step."""
    pytest.importorskip(name)
    runs = [trainer(), trainer(backend=load_backend(name, precision=precision))]
    maps = []
    for step in range(4):
        losses = [run.train_step().loss for run in runs]
        assert losses[1] == pytest.approx(losses[0], rel=near)
        if step == 0:
            maps = [run.model.layout.views(run.checkpoint({}).adam_m, np)[MAP] for run in runs]
    assert np.abs(maps[0]).max() > 0
    np.testing.assert_allclose(maps[1], maps[0], rtol=0, atol=10 * near * np.abs(maps[0]).max())


def test_there_must_be_something_to_tell() -> None:
    with pytest.raises(
        ConfigError, match=r"^there are no transforms to tell of: give some, such as --transform shift$"
    ):
        trainer(replace(SETTINGS, transforms={}))


def test_a_network_must_be_able_to_hear_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(*arguments: Any) -> Network:
        network = make_network(*arguments)
        network.takes = Widths()
        return network

    monkeypatch.setattr("tinyddpm.model.model.make_network", deaf)
    line = r"^network 'unet' takes no vector, so it cannot be told of transforms: leave --tell-transforms out$"
    with pytest.raises(ConfigError, match=line):
        trainer(data={"labels": False}, condition={"dropout": 0.0})


def test_images_are_not_mirrored_twice() -> None:
    with pytest.raises(
        ConfigError, match=r"data\.flip mirrors images, and so does the transform 'flip': give --no-flip"
    ):
        trainer(transforms={"flip": {}}, data={"flip": True})
