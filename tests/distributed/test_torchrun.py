"""Ranks that torchrun starts, with gloo between them: one process's numbers, and one line if a rank is lost."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import pytest

from distributed.test_equal_numbers import IMAGES, assert_same_bits
from distributed.test_faults import Ended
from helpers.command_line import says
from helpers.ranks import started
from tinyddpm.distributed import ranks
from tinyddpm.distributed.gloo import GlooLink
from tinyddpm.distributed.join import join
from tinyddpm.distributed.launch import Launch
from tinyddpm.errors import ConfigError

pytestmark = pytest.mark.slow


def test_two_ranks_are_two_threads(tmp_path: Path) -> None:
    options = [*IMAGES, "--steps", "6", "--accumulate", "2"]
    done = started(2, "tinyddpm", *options, "--threads", "1", "--out", tmp_path / "ranks", launcher="torchrun")
    assert done.returncode == 0, done.stderr
    says(*options, "--threads", "2", "--out", tmp_path / "threads")
    assert_same_bits(tmp_path / "ranks", tmp_path / "threads")


@pytest.mark.parametrize(
    ("fault", "told", "saved"),
    [
        ("killed", "Error: rank 1 ({}) died; all 10 steps are saved: go on with --resume ", 10),
        ("SIGTERM", "", 11),
        ("NaN", "Error: the loss of step 11 is nan", 8),
    ],
)
def test_all_end_when_one_does(tmp_path: Path, fault: str, told: str, saved: int) -> None:
    ended = Ended(tmp_path, 2, fault, 1, launcher="torchrun")
    assert ended.is_gone()
    who = f"process {ended.process(1)} on "
    assert len(ended.errors) == bool(told), ended.done
    assert all(line.startswith(told.partition("{}")[0]) for line in ended.errors)
    assert fault != "killed" or who in ended.errors[0]
    assert ended.saved == saved


def test_ranks_wait_for_a_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """For hours, in which it may draw or measure: by itself gloo would give up after half of one."""
    distributed = pytest.importorskip("torch.distributed", reason="Torch is not installed")
    waits: list[timedelta] = []
    for name in ("init_process_group", "new_group"):
        monkeypatch.setattr(distributed, name, lambda *_, timeout, **more: waits.append(timeout))
    for name in ("get_rank", "get_world_size"):
        monkeypatch.setattr(distributed, name, lambda: 1)
    GlooLink(Launch("torchrun", 0, 2))
    assert len(waits) == 2
    assert min(waits) > timedelta(days=30)


def test_torch_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported before the ranks begin to wait for each other, which an import from a slow disk may outlast."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(ranks, "Ranks", lambda *given: pytest.fail("they wait"))
    with pytest.raises(ConfigError, match=r"^torchrun's ranks need Torch \(.*\): run pip install 'tinyddpm\[torch\]'$"):
        join("auto", Launch("torchrun", 0, 2))
