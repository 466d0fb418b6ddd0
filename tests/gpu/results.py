"""What the parts of `tests/gpu/run` have left, read into rows of its table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

UNREADABLE = (OSError, ValueError, LookupError, ElementTree.ParseError)
"""What reading a part's results may raise where there are none."""


class Row(NamedTuple):
    """A line of the table."""

    name: str
    result: str
    passed: bool = True


def tests_rows(part: str, report: Path) -> list[Row]:
    """Return what a JUnit report says; tests that were all skipped have not passed."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, failed, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites for key in keys)
        for keys in (("tests",), ("failures", "errors"), ("skipped",))
    )
    passed = total - failed - skipped
    return [Row(part, f"{passed} passed, {failed} failed, {skipped} skipped", passed > 0 and failed == 0)]


def faults(tool: str, log: str) -> Row:
    """Return how many faults a tool of compute-sanitizer has found in all processes.

    Raises:
        LookupError: it does not say.
    """
    counts = list(map(int, re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY: (\d+)", log)))
    if not counts:
        raise LookupError("no summary")
    return Row(f"{tool}: faults", str(sum(counts)), not any(counts))


def read(result: Path) -> Any:
    """Return what a file of JSON holds."""
    return json.loads(result.read_text())


def contest_rows(part: str, found: dict[str, Any]) -> list[Row]:
    """Return every contestant's rates, memory and libraries, how ours are to a peer's, and who was left out."""
    (ours,) = found["one_thread"]
    rows = []
    for name, contestant in found["contestants"].items():
        train, denoise = (contestant[kind]["images_per_second"] for kind in ("train", "denoise"))
        line = f"{train:,.0f} img/s training, {denoise:,.0f} denoising"
        memory = contestant["memory_bytes"]
        line += "" if memory is None else f", {memory / 2**30:.2f} GiB"
        ratios = [ratios[ours][name] for ratios in found["ratios"].values() if name in ratios[ours]]
        line += f", ours {' and '.join(f'{ratio:.2f}' for ratio in ratios)} times that" if ratios else ""
        rows.append(Row(f"{part}: {name}", f"{line}; {contestant['description']}"))
    rows += [Row(f"{part}: {name}", f"left out: {reason}") for name, reason in found["left_out"].items()]
    if not found["ratios"]["train"][ours]:
        return rows
    fastest = {kind: peers[ours] for kind, peers in found["fastest_peer"].items()}
    train, denoise = f"{found['train_ratio'][ours]:.2f}", f"{found['sample_ratio'][ours]:.2f}"
    best = f"{train} × {fastest['train']} training, {denoise} × {fastest['denoise']} denoising"
    return [*rows, Row(f"{part}: ratio", best)]


def drawing_rows(lines: str) -> list[Row]:
    """Return the seconds that each has taken."""
    found = [json.loads(line) for line in lines.splitlines()]
    named = "drawing: {name}", "{images} images in {steps} steps: {seconds:.2f} s; {description}"
    return [Row(*(text.format(**each) for text in named)) for each in found]


def training_rows(part: str, run: Path) -> list[Row]:
    """Return the last losses of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "loss" in line][-1]
    held_out = [line["validation_loss"] for line in lines if "validation_loss" in line][-1]
    speed = f"{last['samples_per_second']:,.0f} img/s"
    return [Row(part, f"{last['step']} steps, loss {last['loss']:.4f}, held out {held_out:.4f}, {speed}")]


def evaluation_rows(part: str, found: dict[str, Any]) -> list[Row]:
    """Return each number, and in parentheses that between two halves of the real pictures."""
    (drawn,), floor = found["drawn"], found["floor"]["numbers"]
    numbers = [f"{name} {value:.4g} ({floor[name]:.4g})" for name, value in drawn["numbers"].items()]
    return [Row(part, f"{', '.join(numbers)}; {found['samples']} drawn, {found['compared']} real")]
