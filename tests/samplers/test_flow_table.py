"""The example that compares few steps of DDPM and of rectified flow: halves are alike, the table is of its models."""

from __future__ import annotations

import re
import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyddpm
from tinyddpm.data import open_dataset
from tinyddpm.metrics.frechet import frechet_distance

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "flow_table.py"))


@pytest.mark.parametrize("count", [None, 100])
def test_the_halves_are_apart_and_of_the_same_classes(count: int | None) -> None:
    labels = np.random.default_rng(0).integers(0, 7, 501)
    ours, others = EXAMPLE["halves"](labels, count)
    np.testing.assert_array_equal(labels[ours], labels[others])
    assert len(np.unique(np.concatenate([ours, others]))) == 2 * len(ours)
    assert len(ours) == (count or sum(np.bincount(labels) // 2))


@pytest.mark.slow
def test_the_table_is_that_of_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A preset is trained once, and a distance in the table is that of what the run draws; all samplers have a row.

    The presets' networks have few channels, and their runs end with one picture.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tinyddpm, "train", partial(tinyddpm.train, network={"channels": 8}, sample_count=1))
    pytest.importorskip("matplotlib", reason="needs the figures extra")
    few = ["--train-steps", "10", "--count", "40", "--steps", "2", "5", "--seeds", "1", "--threads", "1"]
    tables = []
    for picture in ("a.png", "b.png"):
        EXAMPLE["main"](picture, "digits", "flow-digits", *few)
        tables.append(re.findall(r"\| (\S+), 10 steps \| `(.*)` \| (\S+) ± 0 \| (\S+) ± 0 \|", capsys.readouterr().out))
    assert tables[0] == tables[1]
    assert [(model, sampler) for model, sampler, *_ in tables[0]] == [
        ("digits", "ddim"), ("digits", "dpmpp-2m"), ("flow-digits", "euler"), ("flow-digits", "heun"),
    ]  # fmt: skip
    digits = open_dataset("digits")
    assert digits.labels is not None
    ours, others = EXAMPLE["halves"](digits.labels, 40)
    way = {"labels": digits.labels[ours], "sampler": "heun", "steps": 5, "threshold": "static"}
    drawn = tinyddpm.load("runs/flow-digits-10").sample(40, **way)
    expected = frechet_distance(drawn.reshape(40, -1) / 255, digits.read(others).reshape(40, -1) / 255)
    assert float(tables[0][3][3]) == pytest.approx(expected, rel=1e-3)
    assert Image.open("a.png").size[0] > 500
