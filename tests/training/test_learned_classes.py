"""What a run learns of its data: its classes where there are any, unless something else is said."""

from __future__ import annotations

import tomllib
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tinyddpm
from helpers.runs import loaded
from tinyddpm.backend import load_backend
from tinyddpm.data.base import ArrayDataset
from tinyddpm.model.config import Config, preset, presets
from tinyddpm.model.model import classes_learned
from tinyddpm.progress import Progress
from tinyddpm.training.run import resume, start

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")

TINY: dict[str, Any] = {
    "network": {"name": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []},
    "schedule": {"name": "cosine", "timesteps": 4},
    "training": {"steps": 2, "batch_size": 4},
    "sampling": {"count": 4},
}


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder of two classes, with a caption beside each image."""
    for number, name in enumerate(["cat", "dog"] * 6):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "photos" / name / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
        path.with_suffix(".txt").write_text(f"a {name}")
    return tmp_path / "photos"


def trained(photos: Path, **tables: Any) -> tuple[tuple[str, ...], Any, list[str]]:
    """The classes of the checkpoint, what its configuration says of them, and what was said."""
    out, folder = StringIO(), photos.parent / "run"
    data = {"source": str(photos), **tables.pop("data", {})}
    start(Config.from_dict({**TINY, "data": data, **tables}), NUMPY, folder, Progress(out))
    checkpoint = loaded(folder)
    written = tomllib.loads((folder / "config.toml").read_text())
    assert written["data"]["labels"] == checkpoint.config["data"]["labels"]
    return checkpoint.classes, written["data"]["labels"], out.getvalue().splitlines()


@pytest.mark.parametrize(
    ("tables", "classes", "line"),
    [
        ({}, ("cat", "dog"), "learns: eps of images 8x8x1 by class (2: cat, dog)"),
        ({"condition": {"name": "label"}}, ("cat", "dog"), "learns: eps of images 8x8x1 by class (2: cat, dog)"),
        (
            {"data": {"labels": False}, "training": {**TINY["training"], "predict": "v"}},
            (),
            "learns: v of images 8x8x1, without the 2 classes",
        ),
        ({"condition": {"name": "text", "token_width": 8}}, (), "learns: eps of images 8x8x1 by text, without the 2"),
        (
            {"condition": {"name": "text", "token_width": 8}, "data": {"labels": True}},
            ("cat", "dog"),
            "learns: eps of images 8x8x1 by text",
        ),
        (
            {"training": {**TINY["training"], "loss": "hybrid"}},
            ("cat", "dog"),
            "learns: eps and the variance of images 8x8x1 by class (2: cat, dog)",
        ),
    ],
)
def test_a_class_folder_is_learned_by_class_unless_something_else_is_said(
    photos: Path, tables: dict[str, Any], classes: tuple[str, ...], line: str
) -> None:
    learned, written, said = trained(photos, **tables)
    assert learned == classes
    assert written is bool(classes)
    (place,) = [i for i, each in enumerate(said) if each.startswith("learns: ")]
    assert said[place].startswith(line)
    assert not [each for each in said[:place] if "loss" in each]


def test_images_without_classes_are_learned_without(photos: Path) -> None:
    classes, written, said = trained(photos / "cat")
    assert (classes, written) == ((), False)
    assert "learns: eps of images 8x8x1" in said


def test_a_run_that_did_not_learn_classes_goes_on_without_them(photos: Path) -> None:
    """Its settings say so, whatever is usual."""
    trained(photos, data={"labels": False})
    folder = photos.parent / "run"
    resume(folder, Progress(StringIO()), steps=3)
    assert loaded(folder).classes == ()


@pytest.mark.parametrize(("labels", "learned"), [(None, True), (True, True), (False, False)])
def test_the_python_face_learns_a_data_set_by_class_alike(
    tmp_path: Path, rng: np.random.Generator, labels: bool | None, learned: bool
) -> None:
    images = rng.integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)
    dataset = ArrayDataset(images, np.arange(12) % 3, ("a", "b", "c"), name="letters")
    tables = {"network": TINY["network"], "schedule": TINY["schedule"], "sampling": TINY["sampling"]}
    model = tinyddpm.train(
        dataset, labels=labels, out=tmp_path / "run", progress=False, steps=1, batch_size=4, **tables
    )
    assert model.classes == (("a", "b", "c") if learned else ())


def test_presets_keep_what_they_learn() -> None:
    """Those of the papers are without classes, as theirs are; of the toys, whose modes differ in weight, too."""
    learned = {name: classes_learned(preset(name).config, ("a", "b")) == ("a", "b") for name in presets()}
    for name in ("digits", "fashion-mini", "small"):
        assert learned[name], name
    for name in ("cifar10", "cifar10-improved", "emoji", "enlarge-fashion", "toy"):
        assert not learned[name], name
