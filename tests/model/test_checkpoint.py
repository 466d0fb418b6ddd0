"""Checkpoints: bit for bit what was saved, or one line that says what is wrong, whatever happens to file or process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyddpm import registry
from tinyddpm.errors import CheckpointError, ConfigError
from tinyddpm.hdf5 import import_h5py, read_outline, write_file
from tinyddpm.model.checkpoint import (
    Checkpoint,
    CheckpointHeader,
    Layout,
    load_checkpoint,
    plugin_notes,
    read_checkpoint_header,
    save_checkpoint,
)
from tinyddpm.model.config import Config

LAYOUT: Layout = [("conv_in/w", (3, 3, 1, 4)), ("conv_in/b", (4,)), ("down_0/block_0/scale", ()), ("a", (2, 3))]
VECTORS = ("weights", "ema", "adam_m", "adam_v")
OF_TRAINING = ("averages", "history")


def built_in(name: str) -> dict[str, str]:
    entry = registry.find("schedules", name)
    return {"group": entry.group, "name": name, "distribution": entry.distribution, "version": entry.version}


def make(layout: Layout = LAYOUT, seed: int = 0, **changes: Any) -> Checkpoint:
    rng = np.random.default_rng(seed)
    size = sum(prod(shape) for _, shape in layout)
    fields: dict[str, Any] = {
        "config": {"network": {"name": "unet", "channels": [1, 2]}, "learning_rate": 2e-4, "device": None},
        "step": 1234,
        "sample_shape": (8, 8, 1),
        "classes": ("zéro", "one"),
        "plugins": [built_in("linear")],
        "state": {"best": 0.125, "why": None},
        **{name: rng.normal(size=size).astype(np.float32) for name in VECTORS},
    }
    return Checkpoint(**{**fields, **changes})


def assert_same(found: Checkpoint, saved: Checkpoint) -> None:
    """Every field, the vectors bit for bit."""
    for name, value in vars(saved).items():
        if name in VECTORS:
            assert getattr(found, name).dtype == np.float32
            assert getattr(found, name).tobytes() == value.tobytes()
        else:
            assert getattr(found, name) == value


def test_a_history_comes_back_for_training_alone(tmp_path: Path) -> None:
    """The losses that times are drawn after: bit for bit, and not read where only samples are wanted."""
    history = np.random.default_rng(1).normal(size=(5, 11)).astype(np.float32)
    save_checkpoint(tmp_path / "checkpoint.h5", make(history=history), LAYOUT)
    found = load_checkpoint(tmp_path / "checkpoint.h5", lambda header: LAYOUT)
    assert found.history is not None
    assert found.history.tobytes() == history.tobytes()
    assert load_checkpoint(tmp_path / "checkpoint.h5", lambda header: LAYOUT, moments=False).history is None


def test_averages_come_back_for_training_alone(tmp_path: Path) -> None:
    """In their order, bit for bit; one length's name begins as the other's does."""
    rng = np.random.default_rng(1)
    averages = {name: rng.normal(size=47).astype(np.float32) for name in ("0.100", "0.1005")}
    save_checkpoint(tmp_path / "checkpoint.h5", make(averages=averages), LAYOUT)
    found = load_checkpoint(tmp_path / "checkpoint.h5", lambda header: LAYOUT).averages
    assert [(name, vector.tobytes()) for name, vector in found.items()] == [
        (name, vector.tobytes()) for name, vector in averages.items()
    ]
    assert load_checkpoint(tmp_path / "checkpoint.h5", lambda header: LAYOUT, moments=False).averages == {}


def test_a_checkpoint_without_moments_is_for_sampling(tmp_path: Path) -> None:
    """It is half as large; whoever would train on is told."""
    saved = make(adam_m=None, adam_v=None)
    save_checkpoint(tmp_path / "checkpoint.h5", saved, LAYOUT)
    found = load_checkpoint(tmp_path / "checkpoint.h5", lambda header: LAYOUT, moments=False)
    assert found.ema.tobytes() == saved.ema.tobytes()
    with import_h5py().File(tmp_path / "checkpoint.h5") as file:
        assert "adam" not in file
    assert "is for drawing samples, without Adam's moments" in refusal(tmp_path / "checkpoint.h5")


def test_a_checkpoint_from_before_averages_is_read(path: Path) -> None:
    """Its header says nothing of averages, nor that there are moments."""
    with import_h5py().File(path) as file:
        arrays = {
            f"{kind}/{name}": file[kind][name][()]
            for kind in ("weights", "ema", "adam/m", "adam/v")
            for name, _ in LAYOUT
        }
    header = {
        key: value
        for key, value in read_outline(path, CheckpointError)[0].items()
        if key not in ("moments", "averages")
    }
    write_file(path, arrays, header, CheckpointError)
    assert_same(load_checkpoint(path, lambda header: LAYOUT), make())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.h5"
    save_checkpoint(path, make(), LAYOUT)
    return path


def refusal(path: Path, layout: Layout = LAYOUT) -> str:
    """The message with which loading fails: one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, lambda header: layout)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def rewrite(path: Path, **changes: Any) -> None:
    """Write the header of a checkpoint without parameters, with fields changed, or removed where None."""
    header: dict[str, Any] = {
        "format": "tinyddpm checkpoint",
        "schema": 1,
        "config": {},
        "step": 0,
        "sample_shape": [2],
    }
    header = {**header, "classes": [], "plugins": [], "state": {}, **changes}
    write_file(path, {}, {key: value for key, value in header.items() if value is not None}, CheckpointError)


NAME = st.from_regex(r"[a-z0-9_]{1,8}", fullmatch=True)
SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Up to six parameters of any shape and order, each in folders of its own: so no path is a folder of another."""
    names = draw(st.lists(NAME, max_size=6, unique=True))
    return [("/".join([name, *draw(st.lists(NAME, max_size=3))]), draw(SHAPES)) for name in names]


class TestRoundTrip:
    @pytest.mark.slow
    @given(layout=layouts(), seed=st.integers(0, 2**32))
    @settings(max_examples=25)
    def test_is_exact(self, tmp_path_factory: pytest.TempPathFactory, layout: Layout, seed: int) -> None:
        """For all layouts, the empty one too: all fields and the bits of all vectors."""
        path = tmp_path_factory.mktemp("checkpoints") / "checkpoint.h5"
        saved = make(layout, seed)
        save_checkpoint(path, saved, layout)
        assert_same(load_checkpoint(path, lambda header: layout), saved)

    def test_unusual_bits(self, tmp_path: Path) -> None:
        """Negative zero, denormals and the largest numbers are bits like others."""
        odd = np.array([-0.0, 1e-45, -1e-45, 3.4028235e38, 1.17549435e-38, 0.1], np.float32)
        saved = make([("w", (6,))], weights=odd)
        save_checkpoint(tmp_path / "c.h5", saved, [("w", (6,))])
        assert_same(load_checkpoint(tmp_path / "c.h5", lambda header: [("w", (6,))]), saved)

    def test_parameters_are_datasets_of_their_paths(self, path: Path) -> None:
        """A flat vector holds the parameters in the layout's order, each in C order."""
        ema = make().ema
        with import_h5py().File(path) as file:
            np.testing.assert_array_equal(file["ema/conv_in/w"][()], ema[:36].reshape(3, 3, 1, 4))
            np.testing.assert_array_equal(file["ema/a"][()], ema[41:].reshape(2, 3))
            assert file["ema/down_0/block_0/scale"][()] == ema[40]
            assert set(file) == {"weights", "ema", "adam", "manifest", "manifest_sha256"}
            assert set(file["adam"]) == {"m", "v"}

    def test_without_moments(self, path: Path) -> None:
        found = load_checkpoint(path, lambda header: LAYOUT, moments=False)
        assert found.adam_m is None
        assert found.adam_v is None
        assert_same(replace(found, adam_m=make().adam_m, adam_v=make().adam_v), make())

    def test_moments_that_are_not_wanted_are_not_read(self, path: Path) -> None:
        """They are half of the file. Damaged ones are in the way of training only."""
        with import_h5py().File(path, "r+") as file:
            file["adam/m/a"][0, 0] += 1
        assert load_checkpoint(path, lambda header: LAYOUT, moments=False).ema.tobytes() == make().ema.tobytes()
        assert "'adam/m/a' is not what was written" in refusal(path)

    def test_layout_is_asked_of_the_header(self, path: Path) -> None:
        seen: list[CheckpointHeader] = []

        def layout_of(header: CheckpointHeader) -> Layout:
            seen.append(header)
            return LAYOUT

        load_checkpoint(path, layout_of)
        saved = make()
        assert [(h.config, h.sample_shape, h.classes) for h in seen] == [(saved.config, (8, 8, 1), ("zéro", "one"))]

    def test_header(self, path: Path) -> None:
        header, saved = read_checkpoint_header(path), make()
        assert vars(header) == {
            name: value for name, value in vars(saved).items() if name not in {*VECTORS, *OF_TRAINING}
        }

    @pytest.mark.parametrize("vector", [None, np.zeros(3, np.float32), np.zeros(47), np.zeros((47, 1), np.float32)])
    def test_vectors_that_the_layout_does_not_fit(self, path: Path, vector: Any) -> None:
        with pytest.raises(ValueError, match="float32 vectors of 47 elements"):
            save_checkpoint(path, make(adam_v=vector), LAYOUT)
        assert_same(load_checkpoint(path, lambda header: LAYOUT), make())


class TestRefusals:
    @pytest.mark.parametrize("vector", VECTORS)
    def test_a_value_that_is_not_finite_is_not_saved(self, path: Path, vector: str) -> None:
        bad = np.ones(47, np.float32)
        bad[40] = np.nan
        with pytest.raises(CheckpointError, match="down_0/block_0/scale' holds NaN or infinity"):
            save_checkpoint(path, make(step=1235, **{vector: bad}), LAYOUT)
        assert_same(load_checkpoint(path, lambda header: LAYOUT), make())

    def test_all_differences_from_the_network_at_once(self, path: Path) -> None:
        """Of the moments too, when they are not read: the file is not of this network."""
        layout = [("conv_in/w", (3, 3, 1, 8)), ("conv_in/b", (4,)), ("more", (2,)), ("a", (2, 3))]
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path, lambda header: layout, moments=False)
        message = str(caught.value)
        assert message.count("more' is missing") == 4
        # Per vector one is missing, one is superfluous and one has another shape: twelve, and five are spelled out.
        assert message.endswith("and 7 more")
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path, lambda header: [("a", (3, 2)), *layout[1:2], *LAYOUT[:1], *LAYOUT[2:3]])
        assert "'weights/a' is <f4 (2, 3) instead of <f4 (3, 2)" in str(caught.value)

    def test_callers_errors_pass_through(self, path: Path) -> None:
        def layout_of(header: CheckpointHeader) -> Layout:
            raise ConfigError("8x8 images do not fit")

        with pytest.raises(ConfigError, match="8x8 images do not fit"):
            load_checkpoint(path, layout_of)

    @pytest.mark.slow
    def test_truncated_and_flipped(self, path: Path, rng: np.random.Generator) -> None:
        """60 lengths and 150 flipped bits at random: an error of one line, or else the content that was saved."""
        whole, refused = path.read_bytes(), 0
        for i in range(210):
            content = bytearray(whole)
            if i < 60:
                del content[int(rng.integers(len(whole))) :]
            else:
                content[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(content)
            try:
                assert_same(load_checkpoint(path, lambda header: LAYOUT), make())
            except CheckpointError as error:
                refused += len(str(error).splitlines()) == 1
        assert refused > 150

    def test_an_external_link_in_place_of_a_parameter(self, path: Path) -> None:
        other = path.with_name("other.h5")
        other.write_bytes(path.read_bytes())
        h5py = import_h5py()
        with h5py.File(path, "r+") as file:
            del file["weights/a"]
            file["weights/a"] = h5py.ExternalLink(str(other), "/weights/a")
        assert "'weights/a' is a soft or external link" in refusal(path)

    def test_what_is_no_checkpoint(self, tmp_path: Path) -> None:
        text, other = tmp_path / "text.h5", tmp_path / "other.h5"
        text.write_text("a text")
        write_file(other, {"weights/a": np.ones(3)}, {"format": "another", "schema": 1}, CheckpointError)
        assert "not an HDF5 file" in refusal(text)
        assert "not a checkpoint of tinyddpm" in refusal(other)
        assert "No such file" in refusal(tmp_path / "missing.h5")

    def test_schema_1_had_its_spacing_among_the_settings_of_sampling(self, tmp_path: Path) -> None:
        path = tmp_path / "old.h5"
        rewrite(path, config={"sampling": {"name": "ddim", "eta": 1.0, "spacing": "karras"}})
        config = Config.from_dict(read_checkpoint_header(path).config)
        assert config.sampling.spacing.name == "karras"
        assert config.sampling.options == {"eta": 1.0}
        rewrite(path, config={"sampling": {"name": "ddim"}})
        assert read_checkpoint_header(path).config == {"sampling": {"name": "ddim"}}

    def test_a_newer_schema(self, tmp_path: Path) -> None:
        """Whatever else its header holds: it comes first."""
        path = tmp_path / "new.h5"
        rewrite(path, schema=3, step="many", config=None)
        assert "written by a newer tinyddpm (schema 3;" in refusal(path)
        with pytest.raises(CheckpointError, match="upgrade with pip install --upgrade tinyddpm"):
            read_checkpoint_header(path)

    @pytest.mark.parametrize(
        ("field", "values"),
        {
            "config": [None, [], "unet"],
            "step": [None, -1, 1.5, True, "7"],
            "sample_shape": [None, [8, 0, 1], [8.0], "888", [True]],
            "classes": [None, [1], "abc"],
            "plugins": [None, {}, [{"group": "networks"}], [{**built_in("linear"), "version": "1\n2"}], ["linear"]],
            "state": [None, []],
        }.items(),
    )
    def test_malformed_headers(self, tmp_path: Path, field: str, values: list[Any]) -> None:
        path = tmp_path / "bad.h5"
        for value in values:
            rewrite(path, **{field: value})
            assert refusal(path, []).endswith(f"damaged header: {field} missing or malformed")
        rewrite(path, **{field: values[0]}, **({"state": 3} if field != "state" else {"step": None}))
        assert ", " in refusal(path, []).partition("damaged header: ")[2]

    def test_the_least_header_is_well_formed(self, tmp_path: Path) -> None:
        """So that each of the malformed ones above is refused for its own fault."""
        rewrite(tmp_path / "least.h5")
        assert load_checkpoint(tmp_path / "least.h5", lambda header: []).weights.size == 0


class TestPlugins:
    MISSING = [  # noqa: RUF012
        {"group": "networks", "name": "spiral", "distribution": "tinyddpm-spiral", "version": "0.3.1"},
        {"group": "upscalers", "name": "x2", "distribution": "Up.scale", "version": "1!2.0+cpu"},
    ]

    def test_missing_ones_are_named_with_what_installs_them(self, tmp_path: Path) -> None:
        """Before the network is built. What pip would not read as names is refused with the header."""
        path = tmp_path / "c.h5"
        save_checkpoint(path, make(plugins=[built_in("linear"), *self.MISSING]), LAYOUT)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path, lambda header: pytest.fail("the network was built"))
        message = str(caught.value)
        assert "network 'spiral' of tinyddpm-spiral 0.3.1; upscaler 'x2' of Up.scale 1!2.0+cpu" in message
        assert message.endswith("pip install Up.scale==1!2.0+cpu tinyddpm-spiral==0.3.1")
        assert read_checkpoint_header(path).plugins[1:] == self.MISSING

    def test_another_version_is_noted_and_no_error(self, tmp_path: Path) -> None:
        old, path = {**built_in("linear"), "version": "0.0.7"}, tmp_path / "c.h5"
        save_checkpoint(path, make(plugins=[old, built_in("cosine")]), LAYOUT)
        loaded = load_checkpoint(path, lambda header: LAYOUT)
        (note,) = plugin_notes(loaded)
        now = f"{built_in('linear')['distribution']} {built_in('linear')['version']}"
        assert note == f"schedule 'linear' is from {now}; the checkpoint was written with tinyddpm 0.0.7"
        assert plugin_notes(make()) == []


SAVE_FOREVER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_checkpoint import BIG, make, save_checkpoint
contents = [make(BIG, seed, step=seed) for seed in (0, 1)]
for content in contents:
    started = time.perf_counter()
    save_checkpoint(sys.argv[1], content, BIG)
print(time.perf_counter() - started, flush=True)
while True:
    for content in contents:
        save_checkpoint(sys.argv[1], content, BIG)
"""
BIG: Layout = [(f"block_{i}/w", (64, 64)) for i in range(16)]


@pytest.mark.slow
def test_killed_while_saving(tmp_path: Path, rng: np.random.Generator) -> None:
    """After the random time of 0 to 2 saves: the file is one of two contents bit for bit, and the next save cleans up.

    Until three kills have hit a save, which is seen by the staged file that each leaves behind; at most 40 try to.
    """
    path, contents, hits = tmp_path / "checkpoint.h5", [make(BIG, seed, step=seed) for seed in (0, 1)], 0
    command = [sys.executable, "-c", SAVE_FOREVER, str(path), str(Path(__file__).parent)]
    for _ in range(40):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            of_a_save = float(process.stdout.readline())
            time.sleep(float(rng.uniform(0, 2 * of_a_save)))
            process.send_signal(signal.SIGKILL)
        found = load_checkpoint(path, lambda header: BIG)
        assert_same(found, contents[found.step])
        hits += len(list(tmp_path.iterdir())) - 1
        if hits == 3:
            break
    assert hits == 3
    save_checkpoint(path, contents[0], BIG)
    assert list(tmp_path.iterdir()) == [path]
