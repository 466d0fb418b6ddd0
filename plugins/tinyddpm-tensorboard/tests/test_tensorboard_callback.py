from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tinyddpm_tensorboard import TensorBoard, crc32c, framed

from tinyddpm.backend import load_backend
from tinyddpm.model.config import Config
from tinyddpm.progress import Progress
from tinyddpm.testing import check_callback
from tinyddpm.training.run import resume, start

TABLES: dict[str, Any] = {
    "data": {"source": "digits", "validation": 40},
    "network": {"name": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []},
    "schedule": {"name": "cosine", "timesteps": 5},
    "training": {
        "steps": 6, "batch_size": 8, "warmup": 1, "log_every": 2, "validate_every": 3, "save_every": 6,
        "sample_every": 4,
    },
    "sampling": {"count": 6},
    "callbacks": {"tensorboard": {}},
}  # fmt: skip

SCALARS = ("loss", "gradient_norm", "learning_rate", "samples_per_second", "validation_loss")

Fields = dict[int, list[Any]]


def test_keeps_the_contract() -> None:
    check_callback("tensorboard")
    check_callback("tensorboard", folder="elsewhere/below")


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums_are_the_published_ones(data: bytes, checksum: int) -> None:
    """RFC 3720, B.4, and the check value of CRC-32C."""
    assert crc32c(data) == checksum


# A second reading of the bytes, by the formats' descriptions alone.


def remainder(data: bytes) -> int:
    """CRC-32C by long division, a bit at a time, as TFRecord masks it."""
    crc = 0xFFFFFFFF
    for byte in data:
        for k in range(8):
            odd = (crc ^ byte >> k) & 1
            crc = crc >> 1 ^ (0x82F63B78 if odd else 0)
    crc = ~crc & 0xFFFFFFFF
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def records(content: bytes) -> Iterator[bytes]:
    while content:
        (length, checksum), content = struct.unpack("<QI", content[:12]), content[12:]
        assert checksum == remainder(struct.pack("<Q", length))
        data, checksum, content = content[:length], content[length : length + 4], content[length + 4 :]
        assert len(data) == length
        assert checksum == struct.pack("<I", remainder(data))
        yield data


def fields(message: bytes) -> Fields:
    """The fields of a message by their numbers: whole numbers, floating points, or bytes."""
    at, found = 0, Fields()

    def whole() -> int:
        nonlocal at
        groups = []
        while not groups or groups[-1] & 128:
            groups.append(message[at])
            at += 1
        return sum((group & 127) << 7 * k for k, group in enumerate(groups))

    while at < len(message):
        field, kind = divmod(whole(), 8)
        value: Any = whole() if kind in (0, 2) else None
        size = {0: 0, 1: 8, 2: value, 5: 4}[kind]
        piece, at = message[at : at + size], at + size
        assert len(piece) == size
        if kind:
            value = piece if kind == 2 else struct.unpack("<d" if kind == 1 else "<f", piece)[0]
        found.setdefault(field, []).append(value)
    return found


def test_a_length_of_several_groups_is_written() -> None:
    """And every length on the edge of one."""
    for length in (0, 1, 127, 128, 16_383, 16_384, 70_000):
        file = framed(bytes(length))
        assert [*records(file)] == [bytes(length)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, said = tmp_path_factory.mktemp("tensorboard") / "run", StringIO()
    start(Config.from_dict(TABLES), load_backend("numpy"), folder, Progress(said))
    assert "note: callback" not in said.getvalue()
    return folder


def logged(folder: Path, tag: str) -> list[tuple[int, float]]:
    """The steps and values of metrics.jsonl, as float32 keeps them."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], float(np.float32(line[tag]))) for line in lines if tag in line]


def test_the_bytes_say_what_the_run_did(run: Path) -> None:
    (file,) = (run / "tensorboard").iterdir()
    version, *events = (fields(record) for record in records(file.read_bytes()))
    assert version[3] == [b"brain.Event:2"]
    values: dict[bytes, list[tuple[int, Fields]]] = {}
    for event in events:
        assert 1.7e9 < event[1][0] < 1e11, "seconds since 1970"
        for value in fields(event[5][0])[1]:
            found = fields(value)
            values.setdefault(found[1][0], []).append((event[2][0], found))
    assert set(values) == {*(tag.encode() for tag in SCALARS), b"samples", b"settings"}
    for tag in SCALARS:
        assert [(step, value[2][0]) for step, value in values[tag.encode()]] == logged(run, tag)
    grids = [run / "samples" / "step_0000004.png", run / "samples.png"]
    for (step, value), grid, due in zip(values[b"samples"], grids, (4, 6), strict=True):
        picture = fields(value[4][0])
        with Image.open(grid) as image:
            assert image.width != image.height
            assert (step, picture[2][0], picture[1][0], picture[3][0]) == (due, *image.size, 1)
        assert picture[4] == [grid.read_bytes()]


def test_tensorboard_reads_it(run: Path) -> None:
    """By the interface for scripts; values of all kinds, to the bit."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'tinyddpm-tensorboard[test]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert set(found.Tags()["scalars"]) == set(SCALARS)
    for tag in SCALARS:
        assert [(event.step, event.value) for event in found.Scalars(tag)] == logged(run, tag)
    first, last = found.Images("samples")
    assert (first.step, last.step) == (4, 6)
    assert last.encoded_image_string == (run / "samples.png").read_bytes()
    (text,) = found.Tensors("settings")
    assert text.step == 0
    assert text.tensor_proto.string_val[0].decode() == indent((run / "config.toml").read_text(), "    ")
    assert found.SummaryMetadata("settings").plugin_data.plugin_name == "text"


def test_tensorboard_knows_who_shows_what(run: Path) -> None:
    """Each value goes to its panel, by the reader that TensorBoard's own pages are fed with."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'tinyddpm-tensorboard[test]'")
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    found = EventAccumulator(str(run / "tensorboard")).Reload()
    panels = {name: set(found.PluginTagToContent(name)) for name in found.ActivePlugins()}
    assert panels == {"scalars": set(SCALARS), "images": {"samples"}, "text": {"settings"}}
    grid = tensor_util.make_ndarray(found.Tensors("samples")[-1].tensor_proto)
    with Image.open(run / "samples.png") as image:
        assert [int(size) for size in grid[:2]] == [*image.size]
    assert grid[2] == (run / "samples.png").read_bytes()


def test_steps_that_are_done_again_are_shown_once(run: Path, tmp_path: Path) -> None:
    """After a kill: what was logged after the last save gives way to what the resumed run logs, and only that."""
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install 'tinyddpm-tensorboard[test]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    start(Config.from_dict(TABLES), load_backend("numpy"), folder, Progress(StringIO()))
    lost = TensorBoard(folder="tensorboard")
    lost.file = next((folder / "tensorboard").iterdir())
    for step in (7, 8, 9):
        lost.logged(step, loss=1000.0)
    resume(folder, Progress(StringIO()), steps=10)
    assert len(list((folder / "tensorboard").iterdir())) == 2
    found = EventAccumulator(str(folder / "tensorboard")).Reload()
    for tag in SCALARS:
        assert [(event.step, event.value) for event in found.Scalars(tag)] == logged(folder, tag)
    assert [event.step for event in found.Scalars("loss")] == [2, 4, 6, 8, 10]


def test_nothing_waits_to_be_written(tmp_path: Path) -> None:
    """So that a kill after any event loses none."""
    (tmp_path / "config.toml").write_text("seed = 1\n")
    callback = TensorBoard(folder=str(tmp_path / "logs"))
    callback.started(0, 10, tmp_path)
    (file,) = (tmp_path / "logs").iterdir()
    for count in (3, 4, 5):
        callback.validated(count, 0.5)
        assert len([*records(file.read_bytes())]) == count


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    tables = {**TABLES, "callbacks": {"tensorboard": {"folder": str(tmp_path / "taken")}}}
    said = StringIO()
    assert start(Config.from_dict(tables), load_backend("numpy"), tmp_path / "run", Progress(said)).complete
    (note,) = [line for line in said.getvalue().splitlines() if line.startswith("note: callback")]
    assert "'tensorboard' failed at 'started'" in note


def test_nothing_of_others_is_needed() -> None:
    code = "import sys; from tinyddpm.testing import check_callback; check_callback('tensorboard'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tinyddpm_tensorboard" in done.stdout.split()
    assert not {"tensorboard", "tensorflow", "torch", "google.protobuf"} & set(done.stdout.split())
