"""Callbacks hear what a run does, in order and in values; they may stop it, and their failure ends nothing."""

from __future__ import annotations

import json
import re
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from helpers.guide import GUIDE
from helpers.runs import POINTS
from tinyddpm import registry
from tinyddpm.backend import load_backend
from tinyddpm.errors import ConfigError
from tinyddpm.model.load import load_model
from tinyddpm.progress import Progress
from tinyddpm.testing import check_callback
from tinyddpm.training.callbacks import EVENTS, EarlyStop
from tinyddpm.training.loop import Outcome
from tinyddpm.training.run import resume, start

NUMPY = load_backend("numpy")

SETTINGS = POINTS.updated(
    {
        "training": {"steps": 6, "log_every": 2, "validate_every": 2, "save_every": 3, "sample_every": 4},
        "callbacks": {"made-up": {}},
    }
)


class Listener:
    """Notes all it hears, and answers `answers`, an exception by raising it."""

    def __init__(self, **answers: object) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.answers = answers

    def __getattr__(self, event: str) -> Any:
        if event not in EVENTS:
            raise AttributeError(event)

        def method(**values: Any) -> object:
            self.heard.append((event, values))
            answer = self.answers.get(event)
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return method


def trained(folder: Path, listener: object, monkeypatch: pytest.MonkeyPatch) -> tuple[Outcome, str]:
    monkeypatch.setattr(registry, "load", loading(listener))
    said = StringIO()
    return start(SETTINGS, NUMPY, folder, Progress(said)), said.getvalue()


def loading(listener: object, load: Any = registry.load) -> Any:
    return lambda group, name: (lambda: listener) if group == "callbacks" else load(group, name)


def test_all_is_heard_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    outcome, _ = trained(tmp_path / "r", listener, monkeypatch)
    assert (outcome.complete, outcome.stopped_by) == (True, None)
    assert [(event, values["step"]) for event, values in listener.heard] == [
        ("started", 0), ("step", 1), ("step", 2), ("logged", 2), ("validated", 2), ("step", 3), ("saved", 3),
        ("step", 4), ("logged", 4), ("validated", 4), ("drew", 4), ("step", 5), ("step", 6), ("logged", 6),
        ("validated", 6), ("saved", 6), ("drew", 6), ("ended", 6),
    ]  # fmt: skip
    first = dict(reversed(listener.heard))
    assert first["started"] == {"step": 0, "steps": 6, "folder": tmp_path / "r"}
    assert set(first["step"]) == {"step", "loss", "gradient_norm", "learning_rate"}
    assert first["saved"]["path"].exists()
    assert first["ended"] == {"step": 6, "complete": True}
    for event, values in listener.heard:
        assert all(path.exists() for path in values.get("paths", []))
        assert all(isinstance(value, int | float | Path | list) for value in values.values()), event


class Reader:
    """Notes what it is told of the lines of metrics, beside the last line that is there then."""

    def __init__(self) -> None:
        self.pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def started(self, step: int, steps: int, folder: Path) -> None:
        self.file = folder / "metrics.jsonl"

    def logged(self, **values: Any) -> None:
        self.pairs.append((values, json.loads(self.file.read_text().splitlines()[-1])))

    def validated(self, step: int, loss: float) -> None:
        self.logged(step=step, validation_loss=loss)


def test_what_is_logged_is_heard_once_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    trained(tmp_path / "r", reader, monkeypatch)
    assert [told["step"] for told, _ in reader.pairs] == [2, 2, 4, 4, 6, 6]
    for told, written in reader.pairs:
        assert told == written


@pytest.mark.slow
@pytest.mark.parametrize(("event", "step"), [("step", 1), ("logged", 2), ("validated", 2), ("saved", 3), ("drew", 4)])
def test_a_callback_stops_the_run_where_it_asks(
    event: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is saved and drawn there, and the run can be resumed: to the weights of the straight one."""
    outcome, _ = trained(tmp_path / "r", Listener(**{event: True}), monkeypatch)
    assert (outcome.step, outcome.complete, outcome.stopped_by) == (step, False, "made-up")
    assert [path.name for path in outcome.pictures] == ["samples.png", "denoising.gif"]
    assert load_model(tmp_path / "r", NUMPY)[2].step == step
    monkeypatch.setattr(registry, "load", loading(Listener()))
    assert resume(tmp_path / "r", Progress(StringIO())).complete
    trained(tmp_path / "straight", Listener(), monkeypatch)
    one, other = (load_model(tmp_path / name, NUMPY, raw=True)[1] for name in ("r", "straight"))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("error", [ValueError("too\nbad"), SystemExit(3)])
def test_a_callback_that_fails_ends_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(validated=error)
    outcome, said = trained(tmp_path / "r", listener, monkeypatch)
    assert outcome.complete
    notes = [line for line in said.splitlines() if line.startswith("note: callback")]
    assert len(notes) == 1
    assert f"callback 'made-up' failed at 'validated': {type(error).__name__}: " in notes[0]
    assert [event for event, _ in listener.heard][-1] == "validated", "it is told no more"


def test_a_callback_may_hear_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(tmp_path / "r", object(), monkeypatch)[0].complete


def test_early_stop_waits_for_its_patience() -> None:
    losses = [3.0, 2.0, 2.5, 1.95, 2.1, 2.0, 1.99]
    assert [EarlyStop(patience=3, least=0.1).validated(i, loss) for i, loss in enumerate(losses)] == [False] * 7
    for least, stops_at in ((0.0, 6), (0.1, 4)):
        stop = EarlyStop(patience=3, least=least)
        asked = [stop.validated(i, loss) for i, loss in enumerate(losses)]
        assert asked.index(True) == stops_at
    assert EarlyStop(patience=1).validated(1, float("nan"))
    with pytest.raises(ConfigError, match="patience is 0: give at least 1"):
        EarlyStop(patience=0)
    with pytest.raises(ConfigError, match="least is -1: give a difference"):
        EarlyStop(least=-1)


def test_the_guides_callback_tells_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, with a stand-in for the library that it speaks to; what is logged arrives, with its step."""
    guide = (GUIDE / "plugins.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"^```python\n(.*?)^```", guide, re.DOTALL | re.M) if "wandb" in block]
    begun: list[dict[str, Any]] = []
    sent: list[tuple[int, dict[str, Any]]] = []
    run = SimpleNamespace(log=lambda values, step: sent.append((step, values)), finish=lambda: begun.append({}))
    stand_in = SimpleNamespace(init=lambda **told: begun.append(told) or run, Image=Image.open)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    names: dict[str, Any] = {}
    exec(block, names)
    check_callback(names["WandB"])
    begun.clear()
    sent.clear()
    _, said = trained(tmp_path / "r", names["WandB"](), monkeypatch)
    assert "note: callback" not in said
    told, end = begun
    assert (told["id"], told["config"]["training"]["steps"], end) == ("r", 6, {})
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [{"step": step, **values} for step, values in sent if "samples" not in values] == lines
    grids = [(step, values["samples"].format) for step, values in sent if "samples" in values]
    assert grids == [(4, "PNG"), (6, "PNG")]
