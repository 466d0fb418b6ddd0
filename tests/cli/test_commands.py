"""The command line, as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.command_line import MOONS, ONE_LEVEL, SIX_STEPS, TWO_STEPS, fails, run
from helpers.site import Site
from tinyddpm import registry
from tinyddpm.cli import COMMANDS, main
from tinyddpm.model.checkpoint import read_checkpoint_header

SMALL = [*MOONS, *SIX_STEPS]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    parameters = main.get_command(None, command).params
    assert all(getattr(parameter, "help", "") for parameter in parameters if parameter.param_type_name == "option")


LIGHT = [["-c", "import tinyddpm"], ["-m", "tinyddpm", "--help"], ["-m", "tinyddpm", "train", "--help"]]


@pytest.mark.parametrize("arguments", LIGHT)
def test_import_and_help_are_light(arguments: list[str]) -> None:
    """They import no array library, no h5py, no Pillow: read off the interpreter's own list of imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not imported & {"numpy", "h5py", "PIL", "torch", "cupy", "array_api_compat", "matplotlib"}
    assert "tinyddpm" in imported


@pytest.mark.slow
def test_train_writes_and_says_where(here: Path) -> None:
    result = run("train", *SMALL)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "trained 6 steps: runs/moons",
        "wrote runs/moons/samples.png",
        "wrote runs/moons/denoising.gif",
    ]
    assert Image.open("runs/moons/samples.png").size == (256, 256)
    again = run("train", *SMALL)
    assert again.stdout.startswith("trained 6 steps: runs/moons-2")
    data, learned, by, *_ = again.stderr.splitlines()
    assert data.startswith("data: moons")
    assert learned == "learns: eps of points 2, without the 2 classes"
    assert by.startswith("computed by: numpy ")


@pytest.mark.slow
@pytest.mark.parametrize("dimension", [1, 3])
def test_points_of_any_dimension_are_learned_and_drawn(here: Path, dimension: int) -> None:
    """To the end, with pictures where there are any; samples can always be kept as numbers."""
    np.save("x.npy", np.random.default_rng(0).normal(size=(60, dimension)))
    small = ["--preset", "toy", *SMALL, "--data", "x.npy"]
    wrote = run("train", *small, "--out", "r", "--sample-every", "3").stdout.splitlines()
    drawn = ["wrote r/samples.png", "wrote r/denoising.gif"] if dimension == 1 else []
    assert wrote == ["trained 6 steps: r", *drawn]
    assert run("sample", "r", "--count", "5", "--npz", "--out", "s").exit_code == 0
    assert np.load("s/samples.npz")["points"].shape == (5, dimension)
    assert Path("s/grid.png").exists() == (dimension == 1)
    assert run("nll", "r", "--split", "held-out", "--times", "4").exit_code == 0
    if dimension == 3:
        line = "Error: 3 dimensions cannot be shown as a picture: ask for --npz alone"
    else:
        line = "Error: the model draws points, and --singles and --film-strip are for images: leave them out"
        assert fails("sample", "r", "--film-strip") == line
    assert fails("sample", "r", "--npz", "--singles") == line
    assert not Path("samples").exists()


def test_dry_run_measures_and_writes_nothing(here: Path) -> None:
    result = run("train", *SMALL, "--dry-run")
    assert result.exit_code == 0
    lines = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert set(lines) == {"data", "learns", "parameters", "memory", "step", "whole"}
    assert lines["parameters"] == "1,442"  # counted by hand: time 272 + 272, in 48, block 816, out 34
    assert not list(here.iterdir())


@pytest.mark.slow
def test_memory_can_be_saved_and_resumed_without(here: Path) -> None:
    """A dry run says what it takes with --recompute; a run may be resumed with it or without."""
    assert "MiB at its peak" in run("train", *SMALL, "--recompute", "--dry-run").stdout
    run("train", *SMALL, "--out", "r", "--recompute")
    for flag, kept in (("--no-recompute", False), ("--recompute", True)):
        steps = "9" if kept else "8"
        assert run("train", "--resume", "r", "--steps", steps, flag).stdout.startswith(f"trained {steps} steps: r")
        assert json.loads(run("info", "r", "--json").stdout)["config"]["training"]["recompute"] is kept


@pytest.mark.slow
def test_how_image_files_are_read_is_said_by_flags(here: Path) -> None:
    """Frames, background and levels; a run keeps them, and what is no folder of image files has none but levels."""
    Path("masks").mkdir()
    for k in range(12):
        mask = Image.fromarray(np.eye(8, dtype=np.uint8) * np.uint8(k > 0))
        mask.save(f"masks/{k:02d}.tif", save_all=True, append_images=[mask])
    tiny = [
        "--preset", "small", "--data", "masks", "--out", "run", *TWO_STEPS, *ONE_LEVEL, "--image-size", "8x8",
    ]  # fmt: skip
    assert "the images are uint8 from 0 to 1" in fails("train", *tiny)
    flags = ["--levels", "0:1", "--frames", "all", "--background", "black"]
    result = run("train", *tiny, *flags)
    assert result.exit_code == 0, result.output
    assert "masks: 24 images 8x8x1" in result.output
    kept = read_checkpoint_header(Path("run/checkpoint.h5")).config["data"]
    assert {name: kept[name] for name in ("levels", "frames", "background")} == {
        "levels": "0:1", "frames": "all", "background": "black",
    }  # fmt: skip
    assert "unknown key 'frames'" in fails("train", "--data", "digits", "--frames", "all")


@pytest.mark.slow
def test_settings_come_from_preset_file_environment_and_flags(here: Path) -> None:
    """Each layer overrides the one before: file over preset, environment over file, flag over environment."""
    Path("c.toml").write_text("[training]\nbatch_size = 11\nwarmup = 7\nsteps = 3\n[network]\nwidth = 16\n")
    env = {"TINYDDPM_WARMUP": "8", "TINYDDPM_STEPS": "4"}
    result = run(
        "train", "--config", "c.toml", "--preset", "toy", "--steps", "2", "--timesteps", "20", "--out", "r", env=env
    )
    assert result.exit_code == 0, result.output
    config = json.loads(run("info", "r", "--json").stdout)["config"]
    assert config["network"] == {"name": "mlp", "width": 16, "depth": 3}
    assert [config["training"][key] for key in ("batch_size", "warmup", "steps")] == [11, 8, 2]


@pytest.mark.slow
def test_resume_goes_on(here: Path) -> None:
    run("train", *SMALL, "--out", "r")
    assert "--steps" in fails("train", "--resume", "r")
    assert "a run keeps training.batch_size (it was 16)" in fails("train", "--resume", "r", "--batch-size", "4")
    assert "so --set cannot be given" in fails("train", "--resume", "r", "--set", "network.channels=4")
    result = run("train", "--resume", "r", "--steps", "9")
    assert result.stdout.startswith("trained 9 steps: r")
    assert json.loads(run("info", "r", "--json").stdout)["step"] == 9


@pytest.mark.parametrize(
    ("preset", "parameters"), [("cifar10", 35_746_307), ("digits", None), ("toy", None), ("fashion-mnist", None)]
)
def test_info_of_presets(preset: str, parameters: int | None) -> None:
    found = json.loads(run("info", preset, "--json").stdout)
    assert found["step"] == 0
    assert found["parameters"] == (parameters or found["parameters"]) > 0
    assert f"{found['parameters']:,}" in run("info", preset).stdout


def test_plugins_lists_all_groups() -> None:
    found = json.loads(run("plugins", "--json").stdout)["plugins"]
    assert {entry["group"] for entry in found} == set(registry.GROUPS)
    assert not [entry for entry in found if entry["distribution"] == "tinyddpm" and entry["broken"]]
    text = run("plugins").stdout
    for name in ("linear", "unet", "ancestral", "digits", "numpy"):
        assert f"  {name} " in text


def test_plugins_tells_what_is_missing_or_registered_in_a_strange_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(registry, "strange_groups", lambda: ["a registers b: unknown entry-point group"])
    found = json.loads(run("plugins", "--json").stdout)
    assert {e["name"]: e["missing"] for e in found["plugins"] if e["group"] == "backends"}["torch"] == {
        "torch": "tinyddpm[torch]"
    }
    assert found["warnings"] == ["a registers b: unknown entry-point group"]
    text = run("plugins").stdout
    assert "needs torch, which is not installed: pip install 'tinyddpm[torch]'" in text
    assert "warning: a registers b" in text


@pytest.mark.slow
def test_options_reach_spacings_and_data_sets(here: Path) -> None:
    """From the command line to the times and points; what is wrong with them is one line."""
    options = ["--spacing", "karras", "--set", "spacing.rho=3", "--set", "data.noise=0.3"]
    assert run("train", *SMALL, *options, "--sample-steps", "4", "--out", "r").exit_code == 0
    config = json.loads(run("info", "r", "--json").stdout)["config"]
    assert config["spacing"] == {"name": "karras", "rho": 3}
    assert config["data"]["noise"] == 0.3
    drawn = []
    for more in ([], ["--spacing-option", "rho=1"], ["--spacing", "uniform"], ["--spacing", "karras"]):
        assert run("sample", "r", "--count", "3", "--npz", "--out", f"s{len(drawn)}", *more).exit_code == 0
        drawn.append(np.load(f"s{len(drawn)}/samples.npz")["points"].tobytes())
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3], "the same spacing keeps its options"
    assert "unknown option of spacing 'trailing' 'rho'" in fails("train", *SMALL, "--set", "spacing.rho=3")
    assert "rho is 0" in fails("train", *SMALL, "--spacing", "karras", "--set", "spacing.rho=0")
    assert "did you mean 'source'" in fails("train", *SMALL, "--set", "data.soruce=ring")
    assert "did you mean 'noise'" in fails("train", *SMALL, "--set", "data.nois=0.1")
    assert "noise is -1" in fails("train", *SMALL, "--set", "data.noise=-1")
    assert "network is a value already" in fails("train", *SMALL, "--set", "network=3", "--set", "network.width=4")


@pytest.mark.slow
def test_callbacks_are_chosen_on_the_command_line(here: Path) -> None:
    """A loss that must fall by 100 never does."""
    options = ["--callback", "early-stop", "--set", "callbacks.early-stop.patience=2", "--validate-every", "1"]
    result = run("train", *SMALL, *options, "--set", "callbacks.early-stop.least=100", "--out", "r")
    assert result.stdout.splitlines()[:2] == [
        "trained 3 steps: r",
        "callback 'early-stop' stopped it; go on with: tinyddpm train --resume r",
    ]
    assert json.loads(run("info", "r", "--json").stdout)["config"]["callbacks"] == {
        "early-stop": {"patience": 2, "least": 100}
    }
    assert "did you mean 'early-stop'" in fails("train", *SMALL, "--callback", "earlystop")
    assert "did you mean 'patience'" in fails("train", *SMALL, "--set", "callbacks.early-stop.patient=3")


PLUGIN = """
import click

@click.command()
@click.option("--size", default=3, help="How large.")
def greet(size):
    "Greet the world."
    click.echo("hello " * size)

PRESET = lambda: {"about": {"sample_shape": [2], "classes": 0}, "data": {"source": "ring"}, "network": {"name": "mlp"}}
"""


def test_a_plugin_brings_commands_and_presets(site: Site) -> None:
    """A broken command breaks only itself, and says why when it is named."""
    commands = {"greet": "made_up:greet", "broken": "made_up_too:command", "odd": "made_up:PRESET"}
    points = {"commands": commands, "presets": {"own": "made_up:PRESET"}}
    site.install("made-up", "1.0", points, made_up=PLUGIN, made_up_too="1 / 0")
    assert run("greet", "--size", "2").stdout == "hello hello \n"
    listed = run("--help").stdout
    assert listed.index("  bench ") < listed.index("  broken ") < listed.index("  greet     Greet the world.")
    assert "broken: `tinyddpm plugins` says why" in listed
    for arguments in (["broken"], ["broken", "--size", "3"]):
        assert "command 'broken' (made_up_too:command from made-up 1.0) cannot be loaded: ZeroDiv" in fails(*arguments)
    assert "register a click command" in fails("odd")
    assert "did you mean 'greet'" in fails("greeet")
    assert "did you mean 'TINYDDPM_STEPS'" in fails("greet", env={"TINYDDPM_STPES": "3"})
    assert json.loads(run("info", "own", "--json").stdout)["config"]["data"]["source"] == "ring"


def test_commands_of_plugins_are_loaded_when_they_are_named(site: Site) -> None:
    site.install("made-up", "1.0", {"commands": {"slow": "made_up:command"}}, made_up="1 / 0")
    run("info", "toy")
    assert "made_up" not in sys.modules


def test_plugins_tells_names_claimed_twice(site: Site) -> None:
    site.install("made-up", "1.0", {"samplers": {"ddim": "made_up:ddim"}})
    found = json.loads(run("plugins", "--json").stdout)["plugins"]
    twice = [entry["broken"] for entry in found if entry["name"] == "ddim"]
    assert len(twice) == 2
    assert all("sampler 'ddim' is registered twice" in line for line in twice)


def test_schedule_reports_warns_and_draws(here: Path) -> None:
    text = run("schedule", "linear").stdout
    assert "sqrt(alpha_bar_T)  0.00635" in text
    trap = run("schedule", "linear", "--timesteps", "300", "--schedule-option", "rescale=false").stdout
    assert "warning: the last step still shows the image: sqrt(alpha_bar_T) is 0.22" in trap
    found = json.loads(run("schedule", "linear", "cosine", "--json").stdout)["schedules"]
    assert [report["name"] for report in found] == ["linear", "cosine"]
    ended = run("schedule", "linear", "quadratic", "laplace", "--zero-terminal-snr").stdout
    assert ended.count("sqrt(alpha_bar_T)  0\n") == 3
    assert "quadratic, zero terminal SNR" in ended.splitlines()[-1]
    assert "did you mean 'linear'" in fails("schedule", "linaer")


def test_unknown_words_are_answered_with_the_nearest() -> None:
    assert "did you mean 'train'" in fails("trian")
    assert "--batch-size" in fails("train", "--batchsize", "3")
    assert "did you mean 'TINYDDPM_STEPS'" in fails("plugins", env={"TINYDDPM_STPES": "3"})


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """Where CuPy is not installed, the line says how to install it."""
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "pip install 'tinyddpm[cuda12]'" in fails("train", *SMALL, "--backend", "cupy")
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'tinyddpm[figures]'" in fails("schedule", "linear", "--png", "x.png")
