"""`tinyddpm edit enlarge`, as a user meets it, and the cascade from words to a larger picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyddpm
from helpers.command_line import ONE_LEVEL, SIX_STEPS, fails, says
from tinyddpm.data import open_dataset
from tinyddpm.errors import ConfigError
from tinyddpm.ops.images import shrunk

pytestmark = pytest.mark.slow

SMALL = [*SIX_STEPS, *ONE_LEVEL, "--sample-count", "2", "--schedule", "cosine"]
DIGITS = shrunk(open_dataset("digits").read(np.arange(6)), 2)


def enlarged(*arguments: object) -> np.ndarray:
    """What an edit writes into a folder of its own."""
    out = f"out-{len(list(Path().iterdir()))}"
    says("edit", "enlarge", *arguments, "--npz", "--out", out)
    with np.load(f"{out}/edits.npz") as arrays:
        return arrays["images"]


def rms(images: np.ndarray, small: np.ndarray) -> float:
    """In grey levels, of images shrunk again to what they were made of."""
    return float(np.sqrt(np.mean((shrunk(images, 2).astype(float) - small) ** 2)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("enlarge") / "run"
    says("train", "--no-labels", "--condition", "image", "--condition-dropout", "0.1", "--out", folder, *SMALL)
    return folder


@pytest.fixture
def here(here: Path) -> Path:
    """A folder with the small digits as an archive, and the second as a file."""
    np.savez("low.npz", images=DIGITS)
    Image.fromarray(DIGITS[1, :, :, 0]).save("one.png")
    return here


def test_a_run_draws_pictures_of_what_it_held_out(model: Path) -> None:
    assert Image.open(model / "samples.png").size[0] > 0
    assert 'name = "image"' in says("info", model)
    assert "total" in says("nll", model, "--split", "held-out", "--count", "2", "--times", "2")


def test_what_is_enlarged_shrinks_to_what_was_given(model: Path, here: Path) -> None:
    """Each of all pictures, twice; without --exact, and by a network that knows nothing, not."""
    images = enlarged(model, "low.npz", "--count", "2")
    assert images.shape == (12, 8, 8, 1)
    assert rms(images, np.repeat(DIGITS, 2, axis=0)) < 1
    assert not np.array_equal(images[0], images[1])
    assert rms(enlarged(model, "low.npz", "--no-exact"), DIGITS) > 5
    assert rms(enlarged(model, "low.npz", "--guidance", "2", "--sampler", "ddim", "--steps", "3"), DIGITS) < 1


def test_a_picture_may_be_named_in_every_way(model: Path, here: Path) -> None:
    """A file, one of a data set and a place in all of them are the same sample number 0."""
    one = enlarged(model, "one.png")
    assert np.array_equal(one, enlarged(model, "low.npz:1"))
    assert enlarged(model, "one.png", "low.npz:2", "low.npz").shape == (8, 8, 8, 1)
    assert enlarged(model, "digits:3", "--fit").shape == (1, 8, 8, 1)


def test_the_picture_begins_with_nearest_and_bicubic(model: Path, here: Path) -> None:
    """At 6 pixels for one and a gap of 2."""
    says("edit", "enlarge", model, "one.png", "--count", "2", "--out", "out")
    picture = np.asarray(Image.open("out/grid.png"))
    assert picture.shape[:2] == (52, 202)
    tiles = [picture[2:50:6, start : start + 48 : 6] for start in (2, 52)]
    assert np.array_equal(tiles[0], np.repeat(np.repeat(DIGITS[1, :, :, 0], 2, axis=0), 2, axis=1))
    channel = Image.fromarray(DIGITS[1, :, :, 0].astype(np.float32))
    smooth = np.clip(np.round(channel.resize((8, 8), Image.Resampling.BICUBIC)), 0, 255)
    assert np.abs(tiles[1].astype(float) - smooth).max() <= 1


def test_noise_is_put_on_and_told(model: Path, here: Path) -> None:
    """With noise it is exact only where that is asked for, and each draw has noise of its own."""
    noisy = enlarged(model, "one.png", "low.npz:1", "--augment", "0.1")
    assert rms(noisy, DIGITS[[1, 1]]) > 5
    assert not np.array_equal(noisy[0], noisy[1])
    assert rms(enlarged(model, "one.png", "--augment", "0.1", "--exact"), DIGITS[1]) < 1
    said = fails("edit", "enlarge", model, "one.png", "--augment", "0.5")
    assert "--augment is 0.5: the model was trained with noise from 0 to 0.2" in said


def test_what_cannot_be_enlarged_is_one_line(model: Path, here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = tmp_path_factory.mktemp("plain") / "run"
    says("train", "--no-labels", "--out", plain, *SMALL)
    assert "not trained to enlarge pictures: train one with --condition image" in fails(
        "edit", "enlarge", plain, "one.png"
    )
    assert "digits:3 is 8x8, and the model enlarges 4x4: give --fit" in fails("edit", "enlarge", model, "digits:3")
    assert "trained without captions: leave --prompt out" in fails(
        "edit", "enlarge", model, "one.png", "--prompt", "red"
    )
    assert "give it some by `tinyddpm edit enlarge`" in fails("sample", model)
    with pytest.raises(ConfigError, match="trained without pictures to enlarge: leave images out"):
        tinyddpm.load(plain).sample(1, images=DIGITS[:1])


def test_the_python_face_enlarges_too(model: Path, here: Path) -> None:
    """It draws what the command does without --exact."""
    expected = enlarged(model, "low.npz", "--no-exact")
    assert np.array_equal(tinyddpm.load(model).sample(6, images=DIGITS), expected)
    with pytest.raises(ConfigError, match="6 images for 2 samples"):
        tinyddpm.load(model).sample(2, images=DIGITS)


def test_from_words_to_a_larger_picture_in_two_commands(model: Path, here: Path) -> None:
    """A model draws 4x4 pictures of captions, another enlarges them."""
    captions = np.asarray([f"a {name}" for name in ("zero", "one", "two", "three", "four", "five")] * 4)
    np.savez("named.npz", images=np.concatenate([DIGITS] * 4), captions=captions)
    words = ["--condition", "text", "--set", "condition.token_width=8", "--set", "condition.heads=2"]
    says(
        "train",
        "--preset",
        "small",
        "--data",
        "named.npz",
        "--image-size",
        "4x4",
        *words,
        "--out",
        "words",
        *SMALL,
    )
    says(
        "sample",
        "words",
        "--prompt",
        "a two",
        "--prompt",
        "a one",
        "--count",
        "3",
        "--singles",
        "--npz",
        "--out",
        "low",
    )
    singles = enlarged(model, *sorted(Path("low").glob("0*.png")))
    with np.load("low/samples.npz") as drawn:
        assert rms(singles, drawn["images"]) < 1
    assert np.array_equal(enlarged(model, "low/samples.npz"), singles)
