"""Models that are told words: what is learned when a run starts, what is drawn for a prompt, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import tinyddpm
from tinyddpm.cli import main
from tinyddpm.data.base import ArrayDataset
from tinyddpm.errors import ConfigError, TinyDDPMWarning
from tinyddpm.face import Trained
from tinyddpm.figures.marks import read_mark
from tinyddpm.model.checkpoint import read_checkpoint_header
from tinyddpm.model.load import CHECKPOINT

pytestmark = pytest.mark.slow

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SMALL: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "timesteps": 12,
    "schedule": "cosine",
    "sample_count": 4,
    "learning_rate": 2e-2,
    "warmup": 0,
    "ema": 0.0,
    "network": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.1},
    "condition": {"name": "text", "dropout": 0.2, "token_width": 16, "depth": 1, "heads": 2, "length": 12},
}


def squares(n: int = 40) -> ArrayDataset:
    """Return squares of a colour, large or small, and a caption for each."""
    rng, captions = np.random.default_rng(0), []
    images = np.zeros((n, 8, 8, 3), np.uint8)
    for image in images:
        colour, size = rng.choice([*COLOURS]), rng.choice(["large", "small"])
        margin = 1 if size == "large" else 3
        image[margin:-margin, margin:-margin] = COLOURS[colour]
        captions.append(f"{size} square: {colour}")
    return ArrayDataset(images, columns={"text": np.asarray(captions, object)}, name="squares")


def obeyed(text: str, folder: Path) -> float:
    """Return the share of pictures whose middle has the colour that was asked for, of the five kinds learned from."""
    kinds = [f"{size} square: {colour}" for size in ("small", "large") for colour in COLOURS][:5]
    images, captions = np.zeros((480, 8, 8, 3), np.uint8), [kinds[i % 5] for i in range(480)]
    for image, caption in zip(images, captions, strict=True):
        margin = 1 if caption.startswith("large") else 3
        image[margin:-margin, margin:-margin] = COLOURS[caption.rpartition(" ")[2]]
    model = tinyddpm.train(
        images, captions=captions, preset="small", out=folder, progress=False, steps=200, batch_size=32, timesteps=50,
        schedule="cosine", sample_count=1, learning_rate=3e-3, warmup=20, ema=0.98, flip=False,
        network={"channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.0, "text": text},
        condition={"name": "text", "dropout": 0.1, "token_width": 32, "depth": 1, "heads": 2, "length": 8},
    )  # fmt: skip
    drawn = model.sample(40, prompts=kinds, seed=1, guidance=3, sampler="ddim", steps=25)
    colour = np.argmax(drawn[:, 3:5, 3:5].mean(axis=(1, 2)), axis=1)
    wanted = np.asarray([[*COLOURS].index(kinds[i % 5].rpartition(" ")[2]) for i in range(40)])
    return float((colour == wanted).mean())


@pytest.mark.parametrize("text", ["cross", "concat"])
def test_words_are_obeyed(text: str, tmp_path: Path) -> None:
    """After 200 steps, four of five pictures at least have the colour of their prompt; chance has one of three."""
    assert obeyed(text, tmp_path / "run") >= 0.8


def trained(folder: Path, **changed: Any) -> Trained:
    return tinyddpm.train(squares(), preset="small", out=folder, progress=False, **{**SMALL, **changed})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts") / "run"
    trained(folder)
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Trained:
    return tinyddpm.load(run)


def test_the_words_learned_are_in_configuration_and_checkpoint(run: Path, model: Trained) -> None:
    """Those of the captions trained on; loading needs no data."""
    words = [":", "blue", "green", "large", "red", "small", "square"]
    assert model.config.condition.options["words"] == words
    assert read_checkpoint_header(run / CHECKPOINT).config["condition"]["words"] == words
    assert '"square"' in (run / "config.toml").read_text(encoding="utf-8")


def test_a_stopped_run_goes_on_bit_by_bit(run: Path, model: Trained, tmp_path: Path) -> None:
    trained(tmp_path / "short", steps=3)
    found = tinyddpm.resume(tmp_path / "short", squares(), steps=6, progress=False)
    np.testing.assert_array_equal(found._weights, model._weights)
    assert found.config.condition == model.config.condition


def test_samples_go_round_through_prompts(model: Trained) -> None:
    """Sample i is that of its prompt, whatever the others; another prompt is another picture."""
    drawn = model.sample(4, prompts=["small square: red", "large square: blue"])
    alone = model.sample(4, prompts="small square: red")
    np.testing.assert_array_equal(drawn[[0, 2]], alone[[0, 2]])
    assert not np.array_equal(drawn[[1, 3]], alone[[1, 3]])


@pytest.mark.filterwarnings("ignore::tinyddpm.errors.TinyDDPMWarning")
def test_guidance_of_words(model: Trained) -> None:
    """At scale 0 it is a model told nothing, at 1 one told the prompt, at 5 neither."""
    prompt = "large square: green"
    silent, told = model.sample(3), model.sample(3, prompts=prompt)
    np.testing.assert_array_equal(model.sample(3, prompts=prompt, guidance=0), silent)
    np.testing.assert_array_equal(model.sample(3, prompts=prompt, guidance=1), told)
    guided = model.sample(3, prompts=prompt, guidance=5)
    assert not np.array_equal(guided, told)
    assert not np.array_equal(silent, told)
    np.testing.assert_array_equal(model.sample(3, prompts=""), silent)


def test_what_is_not_said(model: Trained, tmp_path: Path) -> None:
    """Without a prompt the empty caption is drawn, and said to be; one line where it was never trained."""
    with pytest.warns(TinyDDPMWarning, match="no prompt is given: samples are drawn for the empty caption"):
        model.sample(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(1, prompts="red")
    always = trained(tmp_path / "r", steps=1, condition={**SMALL["condition"], "dropout": 0.0})
    with pytest.raises(ConfigError, match="the model draws from captions: give one with --prompt"):
        always.sample(1)


def test_what_a_model_was_not_trained_with_is_refused(model: Trained, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model was trained without classes: leave --labels out"):
        model.sample(2, labels=[0])
    with pytest.raises(ConfigError, match="3 prompts for 2 samples: give at most one each"):
        model.sample(2, prompts=["a", "b", "c"])
    images, captions = squares().read(np.arange(40)), squares().columns["text"].tolist()
    same = tinyddpm.train(images, captions=captions, preset="small", out=tmp_path / "d", progress=False, **SMALL)
    np.testing.assert_array_equal(same._weights, model._weights)
    plain = {**SMALL, "steps": 1, "condition": {}}
    without = tinyddpm.train(images, preset="small", out=tmp_path / "a", progress=False, **plain)
    labels = np.arange(40) % 3
    by_class = tinyddpm.train(images, labels=labels, preset="small", out=tmp_path / "b", progress=False, **plain)
    for other in (without, by_class):
        with pytest.raises(ConfigError, match="the model was trained without captions: leave --prompt out"):
            other.sample(2, prompts=["red"])
    with pytest.raises(ConfigError, match="there are no captions: give data with captions"):
        tinyddpm.train(images, preset="small", out=tmp_path / "c", progress=False, **SMALL)


def tinyddpm_says(*arguments: str | Path) -> str:
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_prompts_on_the_command_line(run: Path, model: Trained, tmp_path: Path) -> None:
    """From options and a file; the grid has a row a prompt, and the file of samples their words."""
    file = tmp_path / "prompts.txt"
    file.write_text("large square: blue\n\n  small square: green\n", encoding="utf-8")
    out = tmp_path / "out"
    said = tinyddpm_says(
        "sample", run, "--prompt", "red", "--prompts", file, "--count", "6", "--guidance", "2", "--npz", "--out", out
    )
    assert "note" not in said
    prompts = ["red", "large square: blue", "small square: green"]
    with np.load(out / "samples.npz") as drawn:
        assert drawn["captions"].tolist() == 2 * prompts
        np.testing.assert_array_equal(drawn["images"], model.sample(6, prompts=prompts, guidance=2))
    width, height = Image.open(out / "grid.png").size
    assert height == 3 * 50 + 2
    assert width > 2 * 50 + 2 + 50
    assert "note: no prompt is given" in tinyddpm_says("sample", run, "--count", "1", "--out", tmp_path / "silent")


def test_prompts_where_the_locale_is_ascii(run: Path, tmp_path: Path) -> None:
    """There Python hands on the bytes of an argument as halves of characters."""
    for name, prompt in (("as bytes", "la for\udcc3\udcaat"), ("as text", "la forêt")):
        done = CliRunner().invoke(
            main, ["sample", str(run), "--count", "2", "--prompt", prompt, "--out", f"{tmp_path / name}"]
        )
        assert done.exit_code == 0, done.output
    assert (tmp_path / "as bytes" / "grid.png").read_bytes() == (tmp_path / "as text" / "grid.png").read_bytes()
    done = CliRunner().invoke(main, ["sample", str(run), "--prompt", "half \ud83d"])
    assert done.stderr.endswith("Error: 'half \\ud83d' is no Unicode text: write it as UTF-8\n")


@pytest.mark.parametrize(
    ("text", "line"),
    [(None, "cannot read the prompts"), (b"\n \n", "there are no prompts in"), (b"\xff\xfe", "are no UTF-8 text")],
)
def test_a_bad_file_of_prompts_is_one_line(run: Path, tmp_path: Path, text: bytes | None, line: str) -> None:
    file = tmp_path / "prompts.txt"
    if text is not None:
        file.write_bytes(text)
    done = CliRunner().invoke(main, ["sample", str(run), "--prompts", str(file), "--out", str(tmp_path / "o")])
    assert done.exit_code == 1
    assert line in done.output
    assert done.output.count("\n") == 1


def test_an_image_is_led_to_a_prompt(run: Path, tmp_path: Path) -> None:
    """And between two prompts there is a way, from image to image or of one noise."""
    image = tmp_path / "a.png"
    Image.fromarray(squares().read(np.arange(1))[0]).save(image)
    pictures = []
    for prompt in ("small square: red", "large square: blue"):
        out = tmp_path / prompt[:5]
        tinyddpm_says("edit", "from", run, image, "--prompt", prompt, "--count", "2", "--out", out)
        pictures.append((out / "grid.png").read_bytes())
    assert pictures[0] != pictures[1]
    two = ["--prompt", "small square: red", "--prompt", "large square: blue"]
    tinyddpm_says("edit", "interpolate", run, image, image, *two, "--count", "3", "--out", tmp_path / "way")
    guided = ["--count", "4", "--guidance", "3", "--npz"]
    tinyddpm_says("edit", "interpolate", run, *two, *guided, "--out", tmp_path / "words")
    way = np.load(tmp_path / "words" / "edits.npz")["images"]
    for prompt, end in ((two[1], way[0]), (two[3], way[-1])):
        tinyddpm_says("sample", run, "--prompt", prompt, *guided, "--out", tmp_path / prompt)
        np.testing.assert_array_equal(np.load(tmp_path / prompt / "samples.npz")["images"][0], end)
    assert len({picture.tobytes() for picture in way}) == 4
    mark = read_mark(tmp_path / "words" / "grid.png")
    assert mark["edit"] == {"ends": [{"prompt": two[1]}, {"prompt": two[3]}]}
    assert mark["guidance"] == {"name": "cfg", "scale": 3.0}


def test_captions_from_a_file_to_pictures(tmp_path: Path) -> None:
    """By the command line alone: what a run would take, a run, its pictures, a likelihood, and samples by words."""
    data, run = squares(), tmp_path / "run"
    np.savez(tmp_path / "squares.npz", images=data.read(np.arange(40)), captions=data.columns["text"].astype(str))
    small = [
        "--set", "network.channels=8", "--set", "network.multipliers=[1, 2]", "--set", "network.attention=[4]",
        "--set", "condition.token_width=16", "--set", "condition.length=4", "--condition", "text",
        "--condition-dropout", "0.2", "--steps", "4", "--batch-size", "8", "--timesteps", "12", "--schedule", "cosine",
        "--sample-count", "4", "--image-size", "8x8", "--validate-every", "2", "--sample-every", "2",
    ]  # fmt: skip
    train = ["train", "--preset", "small", "--data", tmp_path / "squares.npz", *small]
    assert "parameters" in tinyddpm_says(*train, "--dry-run")
    said = tinyddpm_says(*train, "--out", run)
    cut = "captions are cut after 4 tokens, the longest has 5: --set condition.length=5"
    assert said.count(f"36 of 36 {cut}") == said.count(f"4 of 4 {cut}") == 1  # what is trained on, what is held out
    assert said.count(cut) == 2
    assert Image.open(run / "samples.png").size[0] > Image.open(run / "samples.png").size[1] / 4
    assert 'words = [":", "blue"' in tinyddpm_says("info", run)
    said = tinyddpm_says("nll", run, "--split", "train", "--count", "3", "--batch-size", "2", "--times", "2")
    assert "total" in said
    assert said.count("3 of 3 captions are cut") == said.count(" are cut") == 1
    prompts = ["--prompt", "red", "--prompt", "a red square, or a green one"]
    said = tinyddpm_says("sample", run, *prompts, "--count", "5", "--batch-size", "2", "--out", tmp_path / "out")
    assert said.count("2 of 5 captions are cut") == said.count(" are cut") == 1
    image = f"{tmp_path / 'squares.npz'}:3"
    said = tinyddpm_says("edit", "from", run, image, "--count", "3", "--batch-size", "2", "--out", tmp_path / "e")
    assert "note: no prompt" not in said
    assert said.count("1 of 1 captions are cut") == said.count(" are cut") == 1
