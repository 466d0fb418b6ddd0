"""Tokens made elsewhere: what is told of them, and runs that learn from them and draw by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import tinyddpm
from tinyddpm.backend import load_backend
from tinyddpm.cli import main
from tinyddpm.conditions import Asked, Wish
from tinyddpm.conditions.embeddings import Embeddings
from tinyddpm.data.base import ArrayDataset
from tinyddpm.errors import ConfigError, DataError
from tinyddpm.ops import load_operations
from tinyddpm.testing import check_condition, random_weights

RNG = np.random.default_rng(6)
COLUMNS = {"tokens": RNG.normal(size=(5, 4, 3)).astype(np.float16), "length": np.asarray([4, 1, 0, 2, 3])}
KNOWN = Asked(None, COLUMNS)
SIZES = {"length": 4, "size": 3, "token_width": 6}


@pytest.mark.parametrize("columns", [COLUMNS, {"tokens": COLUMNS["tokens"]}], ids=["some are there", "all are there"])
def test_keeps_the_contract(columns: dict[str, np.ndarray]) -> None:
    check_condition("embeddings", Asked(None, columns), **SIZES)


def test_the_sizes_are_those_of_the_data() -> None:
    assert Embeddings.learned(KNOWN, token_width=8) == {"length": 4, "size": 3, "token_width": 8}
    assert Embeddings.learned(KNOWN, length=9)["length"] == 9


def test_tokens_are_mapped_and_those_that_are_there_averaged() -> None:
    """Against the formula, whatever stands where none is; fewer than the model reads are filled up."""
    ours = Embeddings((4, 4, 1), 0, 2, True, length=5, size=3, token_width=6)
    w = random_weights(ours, 2)
    given = ours.read(KNOWN)
    assert given["tokens"].shape == (5, 5, 3)
    broken = np.where(np.arange(5)[None, :, None] < given["length"][:, None, None], given["tokens"], np.nan)
    told, _ = ours.forward(load_operations(load_backend("numpy")), w, {**given, "tokens": broken})
    for i, n in enumerate(COLUMNS["length"]):
        tokens = COLUMNS["tokens"][i, :n].astype(float) @ w["embeddings/project/w"] + w["embeddings/project/b"]
        np.testing.assert_allclose(told.tokens[i, :n], tokens, rtol=1e-12)
        mean = tokens.mean(axis=0) if n else np.zeros(6)
        expected = mean @ w["embeddings/vector/w"] + w["embeddings/vector/b"]
        np.testing.assert_allclose(told.vector[i], expected, rtol=1e-10)
        np.testing.assert_array_equal(told.mask[i], np.arange(5) < n)


def test_an_empty_wish_is_the_null_where_it_was_learned() -> None:
    ours = Embeddings((4, 4, 1), 0, 2, True, **SIZES)
    given = ours.read(ours.asked(Wish()))
    np.testing.assert_array_equal(given["tokens"], np.zeros((1, 4, 3)))
    np.testing.assert_array_equal(given["length"], [0])


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({}, "there are no tokens"),
        (
            {"tokens": np.zeros((1, 4, 2))},
            "the tokens are 4 of size 2 for a sample, and the model reads up to 4 of size 3",
        ),
        ({"tokens": np.zeros((1, 5, 3))}, "the tokens are 5 of size 3"),
    ],
)
def test_other_tokens_are_refused(columns: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Embeddings((4, 4, 1), 0, 2, True, **SIZES).read(Asked(None, columns))
    with pytest.raises(ConfigError, match=r"condition\.size is 0"):
        Embeddings((4, 4, 1), 0, 2, True, size=0)


@pytest.mark.slow
def test_a_run_by_tokens(tmp_path: Path) -> None:
    """It learns from a column, and draws by a file, on the command line what it draws in Python."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(3, 4, 3)).astype(np.float32)
    of = rng.integers(0, 3, 30)
    images = np.repeat(np.uint8(100) * of.astype(np.uint8), 64).reshape(30, 8, 8, 1)
    data = ArrayDataset(images, columns={"tokens": kinds[of], "length": np.full(30, 4)}, name="grey")
    model = tinyddpm.train(
        data, preset="small", out=tmp_path / "run", progress=False, steps=4, batch_size=8, timesteps=10, warmup=0,
        learning_rate=2e-2, ema=0.0, sample_count=2, condition={"name": "embeddings", "token_width": 8},
        network={"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "dropout": 0.0},
        schedule={"name": "cosine"},
    )  # fmt: skip
    assert model.config.condition.options == {"length": 4, "size": 3, "token_width": 8}
    with pytest.raises(ConfigError, match="the model draws from embeddings: give --embeddings"):
        model.sample(1)
    with pytest.raises(ConfigError, match="the model was trained without captions: leave --prompt out"):
        model.sample(1, prompts="red")
    with pytest.raises(DataError, match="embeddings: tokens of shape"):
        model.sample(4, embeddings={"tokens": kinds[0]})

    columns = {"tokens": kinds[:2], "length": np.asarray([4, 2])}
    expected = model.sample(4, embeddings=columns)
    assert not np.array_equal(expected[0], model.sample(1, embeddings={"tokens": kinds[1:2]})[0])
    np.savez(tmp_path / "tokens.npz", **columns)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "tokens.h5", "w") as file:
        for name, column in columns.items():
            file[name] = column
    for file_name in ("tokens.npz", "tokens.h5"):
        out = tmp_path / f"by {file_name}"
        arguments = [
            "sample",
            tmp_path / "run",
            "--embeddings",
            tmp_path / file_name,
            "--count",
            4,
            "--npz",
            "--out",
            out,
        ]
        done = CliRunner().invoke(main, [*map(str, arguments)])
        assert done.exit_code == 0, done.output
        with np.load(out / "samples.npz") as drawn:
            np.testing.assert_array_equal(drawn["images"], expected)
    (tmp_path / "none.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "images.npz", images=images)
    for name, line in (
        ("none.npz", "cannot be read"),
        ("images.npz", "holds no tokens"),
        ("tokens.csv", "holds no tokens"),
    ):
        done = CliRunner().invoke(main, ["sample", str(tmp_path / "run"), "--embeddings", str(tmp_path / name)])
        assert done.exit_code == 1
        assert line in done.output
