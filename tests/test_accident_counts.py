"""The counts of `count_accidents.py`, in a reduced size."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from accidents import attacks, damage, hostile, ranks, repeated, resumed, surroundings

pytestmark = pytest.mark.slow


def test_damaged_checkpoints_are_refused_or_read_as_they_were_saved() -> None:
    """120 files with one to three accidents each."""
    found = damage.mutations(120)
    assert found.wrong == []
    assert found.right[damage.REFUSED] > 60
    assert found.tried == 120


def test_killed_runs_are_readable_and_end_as_the_straight_one() -> None:
    """Four kills, each a moment after a save, in a run that saves all the time."""
    found = damage.kills(4)
    assert found.wrong == []
    assert found.right[damage.READABLE] > 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
def test_what_befalls_one_rank_ends_all_and_loses_nothing(tmp_path: Path) -> None:
    """Each of four things once, at a random moment."""
    found = ranks.lost_ranks(len(ranks.BEFALLS), tmp_path, 0)
    assert found.wrong == []
    assert found.tried == 2 * len(ranks.BEFALLS)


def test_resumed_runs_are_the_straight_ones(tmp_path: Path) -> None:
    """In ten combinations that have every backend, objective, law of times, condition and kind of data between them."""
    for values, found in zip(resumed.AXES.values(), zip(*resumed.cases(10), strict=True), strict=True):
        assert set(values) == set(found)
    assert resumed.resumes(10, tmp_path).wrong == []


def test_the_same_commands_draw_the_same_bytes(tmp_path: Path) -> None:
    """PNG, GIF and NPZ, each in a process of its own."""
    found = repeated.repeated(tmp_path, ["numpy"], ["train", "sample", "edit"])
    assert found.wrong == []
    assert found.right[repeated.SAME] >= 8


def test_batches_change_no_pixel_but_by_rounding(tmp_path: Path) -> None:
    """With every sampler."""
    found = repeated.batches(tmp_path, ["numpy"], [5])
    assert found.wrong == []
    assert found.tried >= 6


@pytest.mark.skipif(os.name != "posix", reason="pipes among files")
def test_files_that_attack_are_refused(tmp_path: Path) -> None:
    """Each in one line, with nothing run, in a process that never takes half a gibibyte."""
    found = hostile.hostile(tmp_path)
    assert found.wrong == []
    assert found.right[hostile.REFUSED] > 50


def test_code_in_files_would_be_run_by_others(tmp_path: Path) -> None:
    """A pickle by pickle, and a plugin by an HDF5 that nobody keeps from it: so what is counted are attacks."""
    canary = tmp_path / "canary"
    pickled = {path.name: path for _, path in attacks.pickles(tmp_path, canary)}
    pickle.loads(pickled["pickle.pkl"].read_bytes()).close()
    assert canary.exists()
    canary.unlink()
    plugins = attacks.write_plugin(tmp_path, canary)
    if plugins is None:
        pytest.skip("there is no compiler to make a plugin with")
    attacks.write_targets(tmp_path)
    path = next(path for name, path in attacks.hdf5_data(tmp_path) if "plugin" in name)
    env = {**os.environ, "HDF5_PLUGIN_PATH": str(plugins)}
    env.pop("HDF5_PLUGIN_PRELOAD", None)
    code = "import h5py, sys; h5py.File(sys.argv[1])['images'][()]"
    subprocess.run([sys.executable, "-c", code, path], env=env, capture_output=True, check=False)
    assert canary.exists()


@pytest.mark.skipif(os.name != "posix", reason="homes and locales of POSIX")
def test_commands_end_well_in_strict_and_poor_surroundings(tmp_path: Path) -> None:
    """In all of them at once."""
    commands = ["train", "sample", "info", "nll", "plugins", "figure of a process"]
    assert surroundings.surroundings(tmp_path, {"all": surroundings.TOGETHER}, commands).wrong == []
