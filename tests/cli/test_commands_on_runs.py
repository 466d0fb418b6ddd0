"""What a trained run is asked on the command line: samples and information; and input that is refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyddpm
from helpers.command_line import MOONS, NARROW, SIX_STEPS, fails, run
from tinyddpm.errors import CheckpointError, DrawingError
from tinyddpm.figures.images import save_png
from tinyddpm.figures.marks import checkpoint_of
from tinyddpm.model.checkpoint import read_checkpoint_header

SMALL = [*MOONS, *SIX_STEPS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    images = [*SIX_STEPS, *NARROW, "--sample-every", "3"]
    result = run("train", "--out", str(folder), *images)
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.slow
def test_sample_writes_all_kinds(trained: Path, here: Path) -> None:
    result = run("sample", str(trained), "--count", "7", "--first", "2", "--singles", "--npz", "--gif", "--film-strip")
    assert result.exit_code == 0, result.output
    names = ["samples.npz", "grid.png", "000002.png", "denoising.gif", "film-strip.png"]
    assert result.stdout.splitlines() == [f"wrote samples/{name}" for name in names]
    arrays = np.load("samples/samples.npz")
    assert arrays["images"].shape == (7, 8, 8, 1)
    assert arrays["images"].dtype == np.uint8
    assert arrays["labels"].tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert np.array_equal(np.asarray(Image.open("samples/000008.png")), arrays["images"][6, :, :, 0])
    assert Image.open("samples/denoising.gif").n_frames == 20


@pytest.mark.slow
def test_a_place_that_takes_no_files_is_refused_before_the_work(trained: Path, here: Path) -> None:
    """And not when hours of it are to be written."""
    pytest.importorskip("markdown_it")
    Path("file").touch()
    for command in (
        ["train"], ["sample", trained], ["edit", "from", trained, "digits:0"], ["nll", trained], ["evaluate", trained],
        ["figure", "denoising", trained], ["plot", trained], ["book"],
    ):  # fmt: skip
        line = fails(*command, "--out", "file/x.png")
        assert line.endswith("file is no folder; choose another place"), command
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.slow
def test_every_file_says_what_made_it(trained: Path, here: Path) -> None:
    """What a user gave, what it came to, and which checkpoint, by a hash that others compute; twice the same bytes."""
    options = ["--labels", "3,8", "--first", "2", "--count", "3", "--seed", "7", "--sample-steps", "5"]
    options += ["--sampler-option", "variance=large", "--spacing", "karras", "--spacing-option", "rho=5"]
    for out in ("a", "b"):
        kinds = ["--singles", "--npz", "--gif", "--film-strip"]
        assert run("sample", str(trained), *options, *kinds, "--out", out).exit_code == 0
    names = sorted(path.name for path in Path("a").iterdir())
    assert len(names) == 7
    for name in names:
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
    digest = hashlib.sha256((trained / "checkpoint.h5").read_bytes()).hexdigest()
    expected = {
        "made_by": "tinyddpm sample",
        "version": tinyddpm.__version__,
        "checkpoint": {"step": 6, "sha256": digest, "weights": "average"},
        "seed": 7,
        "backend": "numpy",
        "precision": "fp32",
        "sampling": {
            "name": "ancestral", "steps": 5, "threshold": "static", "percentile": 0.995, "variance": "large",
        },
        "spacing": {"name": "karras", "rho": 5},
        "guidance": {"name": "none"},
        "samples": [
            {"number": 2, "class": "3"}, {"number": 3, "class": "8"}, {"number": 4, "class": "3"},
        ],
    }  # fmt: skip
    for name in ("samples.npz", "grid.png", "denoising.gif", "film-strip.png"):
        assert json.loads(run("info", f"a/{name}", "--json").stdout) == expected
    assert json.loads(run("info", "a/000003.png", "--json").stdout) == {**expected, "samples": [expected["samples"][1]]}
    assert json.loads(run("info", str(trained), "--json", "--sha256").stdout)["sha256"] == digest
    lines = run("info", "a/grid.png").stdout.splitlines()
    assert lines[2] == f"checkpoint    step 6, sha256 {digest}, weights average"
    assert lines[-1] == "sample        number 4, class 3"
    assert "there is no file nowhere.png" in fails("info", "nowhere.png")


@pytest.mark.slow
def test_a_weaker_model_is_told_by_its_hash(trained: Path, here: Path) -> None:
    shutil.copytree(trained, "weak")
    guide = ["--guide", "auto", "--guidance", "2", "--guide-option", "weak=weak", "--count", "1", "--sample-steps", "2"]
    assert run("sample", str(trained), *guide).exit_code == 0
    digest = hashlib.sha256(Path("weak/checkpoint.h5").read_bytes()).hexdigest()
    guidance = json.loads(run("info", "samples/grid.png", "--json").stdout)["guidance"]
    assert guidance == {"name": "auto", "scale": 2.0, "weak": "weak", "weak_sha256": digest}
    assert "cannot read nowhere: No such file" in fails(
        "sample", str(trained), *guide[:4], "--guide-option", "weak=nowhere"
    )


@pytest.mark.slow
def test_a_checkpoint_replaced_while_it_is_read_is_noticed(trained: Path, here: Path) -> None:
    """As by a run that goes on: else the hash would be of other weights than those that drew."""
    shutil.copytree(trained, "r")
    loaded = read_checkpoint_header(Path("r/checkpoint.h5"))
    assert run("train", "--resume", "r", "--steps", "7").exit_code == 0
    with pytest.raises(CheckpointError, match="was replaced by its run while it was read: try again"):
        checkpoint_of(Path("r"), loaded, raw=False)


def test_what_a_foreign_file_says_does_not_act_on_the_terminal(here: Path) -> None:
    mark = {"made_by": "x\x1b[31m", "y\r": {"\n": "\x07"}, "samples": [{"prompt": "\x9b"}, 1, None]}
    save_png("a.png", np.zeros((4, 4, 1), np.uint8), mark)
    said = run("info", "a.png").stdout
    assert "".join(said.splitlines()).isprintable()
    assert len(said.split("\n")) == 6


@pytest.mark.slow
def test_sample_with_chosen_classes_steps_and_options(trained: Path, here: Path) -> None:
    options = ["--labels", "3, 8", "--sample-steps", "5", "--sampler-option", "variance=large", "--count", "4", "--npz"]
    assert run("sample", str(trained / "checkpoint.h5"), *options, "--out", "a").exit_code == 0
    assert np.load("a/samples.npz")["labels"].tolist() == [3, 8, 3, 8]
    assert "unknown class '11'" in fails("sample", str(trained), "--labels", "11")
    assert "variance is 'medium'" in fails("sample", str(trained), "--sampler-option", "variance=medium")
    assert "30 sampling steps on a chain of 20" in fails("sample", str(trained), "--sample-steps", "30")


@pytest.mark.slow
def test_sample_with_another_sampler_spacing_and_threshold(trained: Path, here: Path) -> None:
    """What is asked for changes the samples; what there is not is refused."""

    def drawn(*options: str) -> bytes:
        fast = f"--sampler dpmpp-2m-sde --sample-steps 5 --count 4 --npz --out out{len(options)}".split()
        assert run("sample", str(trained), *fast, *options).exit_code == 0
        return np.load(f"out{len(options)}/samples.npz")["images"].tobytes()

    spaced = ["--spacing", "karras"]
    dynamic = [*spaced, "--threshold", "dynamic", "--percentile", "0.9"]
    assert len({drawn(), drawn(*spaced), drawn(*dynamic)}) == 3
    assert "did you mean 'karras'" in fails("sample", str(trained), "--spacing", "karas")
    assert "did you mean 'dynamic'" in fails("sample", str(trained), "--threshold", "dinamic")
    assert "percentile is 99.5" in fails("sample", str(trained), "--percentile", "99.5")


@pytest.mark.slow
def test_nothing_is_overwritten(trained: Path, here: Path) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("precious")
    before = (trained / "checkpoint.h5").read_bytes()
    assert "out is not empty" in fails("sample", str(trained), "--out", "out", "--count", "1")
    assert "is not empty" in fails("train", *SMALL, "--out", "out")
    assert "is not empty" in fails("train", *SMALL, "--out", str(trained))
    assert fails("export", str(trained), "out") == "Error: out is not empty: choose another folder"
    assert Path("out/mine.txt").read_text() == "precious"
    assert (trained / "checkpoint.h5").read_bytes() == before
    run("sample", str(trained), "--count", "1", "--steps", "2")
    run("sample", str(trained), "--count", "1", "--sample-steps", "2")
    assert Path("samples/grid.png").exists()
    assert Path("samples-2/grid.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "folder", "work"),
    [
        (["sample"], "samples", "tinyddpm.model.sampling.draw"),
        (["edit", "from", "digits:3"], "edits", "tinyddpm.cli.editor.Editor.run"),
    ],
)
def test_a_folder_is_taken_before_the_work(
    words: list[str], folder: str, work: str, trained: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command at the same time takes another one; and where nothing is written, none is left."""

    def fail(*given: object, **options: object) -> None:
        assert Path(folder).is_dir()
        raise DrawingError("no sample")

    monkeypatch.setattr(work, fail)
    assert fails(*words[:2], str(trained), *words[2:]) == "Error: no sample"
    assert not [*here.iterdir()]


@pytest.mark.slow
def test_info_of_a_run(trained: Path) -> None:
    found = json.loads(run("info", str(trained), "--json").stdout)
    assert found["step"] == 6
    assert found["sample_shape"] == [8, 8, 1]
    assert found["classes"] == list("0123456789")
    assert {plugin["name"] for plugin in found["plugins"]} == {
        "unet",
        "cosine",
        "eps",
        "simple",
        "ancestral",
        "trailing",
    }
    text = run("info", str(trained)).stdout
    assert "sample_shape  8x8x1" in text
    assert ", objective simple (tinyddpm " in text
    assert ", weighting simple (tinyddpm " in text
    assert "[training]" in text


@pytest.mark.slow
def test_bad_input_is_one_line(here: Path, trained: Path) -> None:
    """The issue's list of what users get wrong: each says what is wrong and what to do."""
    Path("broken").mkdir()
    Path("broken/a.png").write_text("this is text")
    Path("empty").mkdir()
    Path("text.h5").write_text("not HDF5")
    whole = (trained / "checkpoint.h5").read_bytes()
    Path("cut.h5").write_bytes(whole[: len(whole) // 2])
    np.save("odd.npy", np.zeros((20, 28, 30), np.uint8))
    odd = ["--data", "odd.npy", "--batch-size", "4"]

    assert "broken/a.png" in fails("train", "--data", "broken")
    assert "empty" in fails("train", "--data", "empty")
    assert "text.h5" in fails("sample", "text.h5")
    assert "cut.h5" in fails("sample", "cut.h5")
    assert "nowhere" in fails("sample", "nowhere")
    assert "nowhere" in fails("info", "nowhere")
    for what in ("toy", str(trained / "samples.png")):
        assert "--sha256 is for a checkpoint" in fails("info", what, "--sha256")
    assert "timesteps is 1: it must be at least 2" in fails("train", *SMALL, "--timesteps", "1")
    assert "set --batch-size to at most" in fails("train", *SMALL, "--batch-size", "20000")
    assert "--image-size 24x24 or 32x32 would work" in fails("train", *odd)
    assert "did you mean 'digits'" in fails("train", "--data", "digit")
    assert "did you mean 'unet'" in fails("train", "--network", "unett")
    assert "did you mean 'cosine'" in fails("train", "--schedule", "cosin")
    assert "did you mean 'ancestral'" in fails("train", "--sampler", "ancestal", "--out", "x")
    assert "did you mean 'channels'" in fails("train", "--set", "network.chanels=3")
    assert "write TABLE.KEY=VALUE" in fails("train", "--set", "channels")
    assert "image size '32x' is not HxW" in fails("train", "--image-size", "32x")
    assert not Path("runs").exists()
    assert not Path("x").exists()
