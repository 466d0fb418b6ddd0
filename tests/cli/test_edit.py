"""`tinyddpm edit`, as a user meets it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.command_line import MOONS, ONE_LEVEL, SIX_STEPS, fails, run, says
from tinyddpm.cli import main
from tinyddpm.data import open_dataset
from tinyddpm.figures.marks import read_mark

pytestmark = pytest.mark.slow

DIGITS = open_dataset("digits").read(np.arange(20))


def edited(*arguments: str, env: dict[str, str] | None = None) -> np.ndarray:
    """The images that an edit writes into a folder of its own."""
    out = f"out-{len(list(Path().iterdir()))}"
    written = says("edit", *arguments, "--npz", "--out", out, env=env).splitlines()
    assert written == [f"wrote {out}/edits.npz", f"wrote {out}/grid.png"]
    return np.load(f"{out}/edits.npz")["images"]


def trained_on(data: list[str], folder: Path) -> str:
    says("train", "--out", folder, *data, *SIX_STEPS, *ONE_LEVEL)
    return str(folder)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained_on([], tmp_path_factory.mktemp("edit") / "by-class")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return trained_on(["--no-labels"], tmp_path_factory.mktemp("edit") / "plain")


@pytest.fixture
def here(here: Path) -> Path:
    """A folder with a mask, whose right half is white, and the digit 4 as a file."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(DIGITS[4, :, :, 0]).save("four.png")
    return here


@pytest.mark.parametrize("command", ["interpolate", "from", "inpaint", "enlarge"])
def test_every_option_has_help(command: str) -> None:
    assert run("edit", command, "--help").exit_code == 0
    parameters = main.get_command(None, "edit").commands[command].params
    assert all(parameter.help for parameter in parameters if parameter.param_type_name == "option")
    assert len({parameter.name for parameter in parameters}) == len(parameters)


def test_known_pixels_come_back_and_others_are_painted(by_class: str, here: Path) -> None:
    images = edited("inpaint", by_class, "digits:3", "digits:4", "--mask", "mask.png", "--count", "3", "--jump", "4")
    assert images.shape == (6, 8, 8, 1)
    for row, digit in ((images[:3], DIGITS[3]), (images[3:], DIGITS[4])):
        assert np.array_equal(row[:, :, :4], np.repeat(digit[None, :, :4], 3, axis=0))
        assert all((image[:, 4:] != digit[:, 4:]).any() for image in row)
    assert len({image.tobytes() for image in images}) == 6


def test_inpainting_shows_the_open_image_first(by_class: str, here: Path) -> None:
    """At 6 pixels for one and a gap of 2: the kept half as it is, the open one grey."""
    edited("inpaint", by_class, "digits:3", "--mask", "mask.png", "--count", "2", "--resamplings", "1")
    (picture,) = Path().glob("out-*/grid.png")
    first = np.asarray(Image.open(picture))[2:50:6, 2:50:6]
    assert np.array_equal(first[:, :4], DIGITS[3, :, :4, 0])
    assert (first[:, 4:] == 127).all()


def test_no_strength_keeps_the_image_and_full_strength_forgets_it(plain: str, here: Path) -> None:
    """A file will do where there are no classes. At full strength two images come to the same draws, nearly."""
    weak = edited("from", plain, "four.png", "--strength", "1e-6", "--count", "2")
    assert np.abs(weak.astype(int) - DIGITS[4]).max() < 40  # the first step of 20, by a network that knows nothing
    strong = [edited("from", plain, image, "--strength", "1", "--count", "2") for image in ("digits:3", "four.png")]
    apart = np.abs(strong[0].astype(int) - strong[1])
    assert apart.mean() < np.abs(DIGITS[3].astype(int) - DIGITS[4]).mean() / 5


def test_images_in_a_row_do_not_depend_on_the_batch(by_class: str, here: Path) -> None:
    """The same seed gives the same edits, whatever the batch, to the rounding of a grey level; another seed others."""
    for command in (["from"], ["inpaint", "--mask", "mask.png", "--resamplings", "2"]):
        arguments = [*command, by_class, "digits:3", "digits:5", "--count", "3"]
        whole, cut = edited(*arguments), edited(*arguments, "--batch-size", "2")
        assert np.abs(whole.astype(int) - cut).max() <= 1
        assert not np.array_equal(whole, edited(*arguments, "--seed", "1"))


def test_classes_are_the_images_own_unless_they_are_given(by_class: str, here: Path) -> None:
    arguments = ["from", by_class, "digits:3", "--count", "2"]
    own = edited(*arguments)
    assert np.array_equal(own, edited(*arguments, "--labels", "3"))
    assert not np.array_equal(own, edited(*arguments, "--labels", "8"))
    assert edited("from", by_class, "four.png", "--labels", "4", "--count", "1").shape == (1, 8, 8, 1)
    assert "give the classes of the images with --labels" in fails("edit", "from", by_class, "four.png")
    assert "unknown class '11'" in fails("edit", "from", by_class, "four.png", "--labels", "11")


@pytest.mark.parametrize("how", [[], ["--strength", "0.5"]])
def test_interpolation_is_smooth_and_ends_where_the_batches_do(by_class: str, here: Path, how: list[str]) -> None:
    """The grid holds the two images beside what is between them; cut into batches it is the same to a grey level."""
    images = edited("interpolate", by_class, "digits:3", "digits:5", *how)
    assert images.shape == (9, 8, 8, 1)
    steps = np.abs(np.diff(images.astype(int), axis=0)).mean((1, 2, 3))
    assert steps.max() < np.abs(images[-1].astype(int) - images[0]).mean()
    cut = edited("interpolate", by_class, "digits:3", "digits:5", *how, "--batch-size", "4")
    assert np.abs(images.astype(int) - cut).max() <= 1
    picture = np.asarray(Image.open(next(Path().glob("out-*/grid.png"))))
    assert picture.shape == (52, 11 * 50 + 2)
    assert np.array_equal(picture[2:50:6, 2:50:6], DIGITS[3, :, :, 0])
    assert np.array_equal(picture[2:50:6, 502:550:6], DIGITS[5, :, :, 0])


def test_between_two_classes_is_one_noise(by_class: str, here: Path) -> None:
    """At the ends, bit by bit, what `sample` draws of either by the same seed."""
    for more in ([], ["--sampler", "ddim", "--sample-steps", "7"]):
        images = edited("interpolate", by_class, "--labels", "3,8", "--count", "4", "--seed", "5", *more)
        assert images.shape == (4, 8, 8, 1)
        for label, end in (("3", images[0]), ("8", images[-1])):
            out = f"alone-{len(list(Path().iterdir()))}"
            alone = ["--labels", label, "--count", "4", "--seed", "5", "--npz", "--out", out, *more]
            assert run("sample", by_class, *alone).exit_code == 0
            assert np.array_equal(np.load(f"{out}/samples.npz")["images"][0], end)
    assert "two images, not 1: give two, or none" in fails("edit", "interpolate", by_class, "digits:3")
    assert "two images, not 3: give two, or none" in fails("edit", "interpolate", by_class, *["digits:3"] * 3)
    for said, count in (([], 0), (["--labels", "3"], 1), (["--labels", "3,4,5"], 3)):
        line = fails("edit", "interpolate", by_class, *said)
        assert f"takes two prompts or classes, not {count}: give --prompt A --prompt B, or two --labels" in line
    assert "--strength is for two" in fails("edit", "interpolate", by_class, "--labels", "3,4", "--strength", "0.5")
    assert "trained without captions" in fails("edit", "interpolate", by_class, "--prompt", "a", "--prompt", "b")


def test_edits_say_what_made_them(by_class: str, here: Path) -> None:
    """As they were named; each single image its own; twice the same bytes."""

    def made(*arguments: str) -> dict[str, Any]:
        for out in ("one", "two"):
            assert run("edit", *arguments, "--seed", "4", "--npz", "--singles", "--out", out).exit_code == 0
        names = sorted(path.name for path in Path("one").iterdir())
        assert [Path("one", name).read_bytes() for name in names] == [Path("two", name).read_bytes() for name in names]
        marks = [read_mark(Path("one", name)) for name in names]
        assert marks[-2] == marks[-1]  # edits.npz, grid.png
        for i, mark in enumerate(marks[:-2]):
            assert mark == {**marks[-1], "samples": [marks[-1]["samples"][i]]}
        for out in ("one", "two"):
            shutil.rmtree(out)
        return dict(marks[-1])

    mark = made("from", by_class, "digits:3", "four.png", "--labels", "8,9", "--count", "2", "--sampler", "ddim")
    digest = hashlib.sha256(Path(by_class, "checkpoint.h5").read_bytes()).hexdigest()
    assert mark["made_by"] == "tinyddpm edit from"
    assert mark["checkpoint"] == {"step": 6, "sha256": digest, "weights": "average"}
    assert mark["edit"] == {"strength": 0.5}
    assert mark["seed"] == 4
    assert mark["sampling"] == {"name": "ddim", "steps": 20, "threshold": "static", "percentile": 0.995}
    rows = [("digits:3", "8"), ("digits:3", "8"), ("four.png", "9"), ("four.png", "9")]
    assert mark["samples"] == [{"number": i, "image": image, "class": name} for i, (image, name) in enumerate(rows)]

    mark = made("inpaint", by_class, "digits:3", "--mask", "mask.png", "--count", "2", "--jump", "4", "--fit", "--raw")
    assert mark["edit"] == {"mask": "mask.png", "jump": 4, "resamplings": 10, "fit": True}
    assert mark["checkpoint"]["weights"] == "raw"
    mark = made("interpolate", by_class, "digits:3", "digits:5", "--count", "3")
    assert mark["edit"] == {"ends": [{"image": "digits:3", "class": "3"}, {"image": "digits:5", "class": "5"}]}
    assert mark["sampling"] == {"name": "ddim", "steps": 20, "threshold": "static", "percentile": 0.995, "eta": 0}
    assert mark["samples"] == [{"number": i, "share": i / 2} for i in range(3)]
    mark = made("interpolate", by_class, "digits:3", "digits:5", "--count", "2", "--strength", "0.3")
    assert mark["edit"]["strength"] == 0.3
    assert mark["sampling"]["name"] == "ancestral"
    mark = made("interpolate", by_class, "--labels", "3,8", "--count", "2")
    assert mark["edit"] == {"ends": [{"class": "3"}, {"class": "8"}]}


def test_sampling_is_chosen_as_for_sample(by_class: str, here: Path) -> None:
    fast = ["from", by_class, "digits:3", "--count", "1", "--sample-steps", "5"]
    drawn = [edited(*fast, *more).tobytes() for more in ([], ["--sampler", "ddim"], ["--spacing", "quadratic"])]
    assert len(set(drawn)) == 3
    assert "without --strength the sampler is DDIM" in fails(
        "edit", "interpolate", by_class, "digits:3", "digits:5", "--sampler", "heun"
    )
    assert "did you mean 'ddim'" in fails("edit", *fast, "--sampler", "dim")
    assert edited(*fast[:3], env={"TINYDDPM_STRENGTH": "0.2", "TINYDDPM_COUNT": "3"}).shape == (3, 8, 8, 1)


def test_other_sizes_are_fitted_on_request(plain: str, here: Path) -> None:
    Image.fromarray(DIGITS[4, :, :, 0]).resize((24, 16)).save("wide.png")
    assert "wide.png is 16x24, and the model draws 8x8: give --fit" in fails("edit", "from", plain, "wide.png")
    assert edited("from", plain, "wide.png", "--fit", "--count", "1").shape == (1, 8, 8, 1)
    assert "fashion-mini:2 is 28x28, and the model draws 8x8" in fails("edit", "from", plain, "fashion-mini:2")
    assert edited("from", plain, "fashion-mini:2", "--fit", "--count", "1").shape == (1, 8, 8, 1)


def test_nothing_is_overwritten(plain: str, here: Path) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("precious")
    quick = ["edit", "from", plain, "four.png", "--count", "1", "--strength", "0.1"]
    assert "full is not empty" in fails(*quick, "--out", "full")
    assert run(*quick, "--singles").stdout.splitlines() == ["wrote edits/grid.png", "wrote edits/000000.png"]
    assert run(*quick).stdout.splitlines() == ["wrote edits-2/grid.png"]


def test_bad_input_is_one_line(plain: str, here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    Path("text.png").write_text("this is text")
    Image.new("L", (8, 8), 255).save("white.png")
    Image.new("L", (8, 8), 0).save("black.png")
    Image.new("L", (6, 8), 255).save("narrow.png")
    grey = np.zeros((8, 8), np.uint8)
    grey[2, 5] = 128
    Image.fromarray(grey).save("grey.png")
    np.save("colour.npy", np.zeros((2, 8, 8, 3), np.uint8))

    def inpainting(mask: str, image: str = "four.png") -> str:
        return fails("edit", "inpaint", plain, image, "--mask", mask)

    assert "the mask narrow.png is 8x6, and the model draws 8x8" in inpainting("narrow.png")
    assert "the mask grey.png is not black and white: row 2, column 5 is 128 of 255" in inpainting("grey.png")
    assert "the mask black.png is all black" in inpainting("black.png")
    assert "there is no mask nowhere.png" in inpainting("nowhere.png")
    assert "text.png is no image" in inpainting("text.png")
    assert "text.png is no image" in inpainting("white.png", "text.png")
    assert "there is no image nowhere.png" in inpainting("white.png", "nowhere.png")
    assert "there is no number 1797, the last is 1796" in inpainting("white.png", "digits:1797")
    assert "did you mean 'digits'" in inpainting("white.png", "digit:3")
    assert "moons: 20000 points, 2 classes: edit is for images" in inpainting("white.png", "moons:3")
    assert "colour.npy:1 has 3 channels, and the model draws 1" in inpainting("white.png", "colour.npy:1")
    for strength in ("0", "1.5", "nan"):
        line = fails("edit", "from", plain, "four.png", "--strength", strength)
        assert f"strength is {float(strength)}: give a share of the chain" in line
    assert "leave --labels out" in fails("edit", "from", plain, "four.png", "--labels", "4")
    assert "21 sampling steps on a chain of 20" in fails("edit", "from", plain, "four.png", "--sample-steps", "21")
    assert "nowhere" in fails("edit", "from", "nowhere", "four.png")
    assert fails("edit", "interpolate", plain, "four.png")
    assert fails("edit", "inpaint", plain, "four.png")
    points = tmp_path_factory.mktemp("points") / "run"
    moons = [*MOONS, *SIX_STEPS]
    assert run("train", "--out", str(points), *moons).exit_code == 0
    assert "draws samples of shape (2,): edit is for images" in fails("edit", "from", str(points), "four.png")
    assert not list(Path().glob("edits*"))
