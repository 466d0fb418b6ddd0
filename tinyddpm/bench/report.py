"""The report of a benchmark, as text and as one JSON object."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from statistics import median
from typing import Any

from tinyddpm.bench.contest import OURS, Outcome
from tinyddpm.bench.ours import Profile
from tinyddpm.bench.task import Task
from tinyddpm.machine import cpu_model, vector_instructions, versions

PACKAGES = ("tinyddpm", "numpy", "torch", "diffusers")
"""Packages whose versions are reported if they are installed."""

KINDS = {"train": "train_flop", "denoise": "denoise_flop"}
"""The two kinds of step, each with the attribute of `Outcome` that counts its arithmetic."""


def as_json(task: Task, outcome: Outcome) -> dict[str, Any]:
    """Return all measurements, task and machine, for `json.dumps`. Times are in seconds, rates per second."""
    fastest = {
        kind: {ours: found for ours in ratios if (found := outcome.fastest(kind, ours))}
        for kind, ratios in outcome.ratios.items()
    }
    return {
        "train_ratio": {ours: ratio for ours, (ratio, _) in fastest["train"].items()},
        "sample_ratio": {ours: ratio for ours, (ratio, _) in fastest["denoise"].items()},
        "ratios": outcome.ratios,
        "fastest_peer": {kind: {ours: peer for ours, (_, peer) in found.items()} for kind, found in fastest.items()},
        "contestants": {
            name: {
                "description": standing.description,
                "memory_bytes": standing.memory,
                **{kind: _speed(task, outcome, kind, getattr(standing, kind)) for kind in KINDS},
            }
            for name, standing in outcome.standings.items()
        },
        "left_out": outcome.left_out,
        "flop": {kind: getattr(outcome, attribute) for kind, attribute in KINDS.items()},
        "machine": {
            "cpu": cpu_model(),
            "vector_instructions": vector_instructions(),
            "system": platform.platform(),
            "matmul_flop_per_second": outcome.matrix_rate,
        },
        "versions": versions(PACKAGES),
        "threads": task.threads,
        "batch_size": task.batch_size,
        "sample_shape": list(task.sample_shape),
        "classes": task.classes,
        "parameters": task.parameters,
        "config": task.config.to_dict(),
        "one_thread": {ours: _profile(profile) for ours, profile in outcome.profiles.items()},
    }


def as_text(task: Task, outcome: Outcome, explain: bool) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        task: network and steps that were run.
        outcome: the measurements.
        explain: whether to list the algorithm of each convolution, and the reason for it.
    """
    found = as_json(task, outcome)
    unit = "images" if len(task.sample_shape) == 3 else "points"
    shape = "x".join(map(str, task.sample_shape))
    network = task.config.network.name
    yield f"{network}, {task.parameters:,} parameters, {unit} {shape}, batch {task.batch_size}"
    storage = "bfloat16" if task.config.precision == "bf16" else "float32"
    yield f"{task.place}, {outcome.matrix_rate / 1e9:,.1f} GFLOP/s in large {storage} matrix products"
    yield f"vector instructions of the processor: {', '.join(vector_instructions()) or 'unknown'}"
    for description in dict.fromkeys(standing.description for standing in outcome.standings.values()):
        names = (name for name, standing in outcome.standings.items() if standing.description == description)
        yield f"{', '.join(names)}: {description}"
    for reason in outcome.left_out.values():
        yield f"left out: {reason}"
    for kind, title in (("train", "training step"), ("denoise", "denoising step")):
        yield ""
        memory = "      memory" if kind == "train" else ""
        yield f"{title:<28}{'ms':>10}{unit + '/s':>12}{'GFLOP/s':>10}{'of matmul':>12}{memory}"
        for name, contestant in found["contestants"].items():
            speed = contestant[kind]
            rate, share = speed["flop_per_second"] / 1e9, speed["of_matmul"]
            line = f"{name:<28}{1e3 * speed['median_seconds']:>10.2f}{speed['images_per_second']:>12.1f}"
            line += f"{rate:>10.1f}{share:>12.0%}"
            yield line + (f"{_mebibytes(contestant['memory_bytes']):>12}" if memory else "")
        yield from _ratios(outcome, kind, unit)
    yield ""
    yield (
        "GFLOP count the direct algorithm for all contestants, two per multiply-add, and one evaluation of the network "
        "for a denoising step. Winograd's convolution takes fewer, so a rate may exceed that of a large product. Times "
        "are medians over rounds."
    )
    for ours, profile in outcome.profiles.items():
        yield ""
        yield from _operations(task, _backend(ours), profile)
        if explain:
            yield ""
            yield from _algorithms(profile)


def _speed(task: Task, outcome: Outcome, kind: str, seconds: list[float]) -> dict[str, Any]:
    middle = median(seconds)
    rate = getattr(outcome, KINDS[kind]) / middle
    return {
        "seconds": seconds,
        "median_seconds": middle,
        "images_per_second": task.batch_size / middle,
        "flop_per_second": rate,
        "of_matmul": rate / outcome.matrix_rate,
    }


def _profile(profile: Profile) -> dict[str, Any]:
    """Return the profile of a training step, for `json.dumps`."""
    return {
        "seconds": profile.seconds,
        "matmul_flop_per_second": profile.matrix_rate,
        "copy_bytes_per_second": profile.copy_rate,
        "operations": [
            {"operation": row.label, "calls": row.calls, "seconds": row.seconds, "flop": row.flop, "bytes": row.moved}
            for row in profile.rows
        ],
        "convolutions": profile.convolutions,
        "cudnn_plans": {
            shape: {wanted: choice._asdict() for wanted, choice in choices.items()}
            for shape, choices in profile.plans.items()
        },
    }


def _ratios(outcome: Outcome, kind: str, unit: str) -> Iterator[str]:
    """Yield the table of ratios: a row for each peer and for the fastest one, a column for each of our backends."""
    columns = outcome.ratios[kind]
    fastest = [found for ours in columns if (found := outcome.fastest(kind, ours))]
    if not fastest:
        return
    yield ""
    yield f"{f'times the {unit}/s of':<28}" + "".join(f"{_backend(ours):>10}" for ours in columns)
    for peer in next(iter(columns.values())):
        yield f"{peer:<28}" + "".join(f"{ratios[peer]:>10.2f}" for ratios in columns.values())
    yield f"{'the fastest peer':<28}" + "".join(f"{ratio:>10.2f}" for ratio, _ in fastest)


def _backend(ours: str) -> str:
    """Return the backend of one of our contestants."""
    return ours.removeprefix(f"{OURS} ")


def _operations(task: Task, backend: str, profile: Profile) -> Iterator[str]:
    """Yield the table of operations, with rates as shares of that of a large matrix product, or of a large copy."""
    place = "launched one by one" if task.gpu else "on one thread"
    yield f"{f'{backend}, one training step {place}':<46}{'calls':>7}{'ms':>10}{'share':>8}{'rate':>14}{'of most':>9}"
    for row in profile.rows:
        amount, most, unit = (
            (row.flop, profile.matrix_rate, "GFLOP/s") if row.flop else (row.moved, profile.copy_rate, "GB/s")
        )
        rate = amount / row.seconds
        line = f"{row.label:<46}{row.calls:>7}{1e3 * row.seconds:>10.2f}{row.seconds / profile.seconds:>8.1%}"
        yield f"{line}{f'{rate / 1e9:.1f} {unit}':>14}{rate / most:>9.0%}"
    rest = profile.seconds - sum(row.seconds for row in profile.rows)
    yield f"{'between these operations':<53}{1e3 * rest:>10.2f}{rest / profile.seconds:>8.1%}"
    yield f"{'all':<53}{1e3 * profile.seconds:>10.2f}"
    gigaflop, gigabytes = profile.matrix_rate / 1e9, profile.copy_rate / 1e9
    yield f"The most is {gigaflop:,.1f} GFLOP/s, of a large product, and {gigabytes:,.1f} GB/s, of a large copy."


def _algorithms(profile: Profile) -> Iterator[str]:
    convolutions = profile.convolutions
    if not convolutions:
        yield "this network has no convolutions to explain"
        return
    if profile.plans:
        yield f"{'convolution, the whole batch':<32}{'result':<14}chosen plan, and why not another"
        for label, choices in profile.plans.items():
            for wanted, choice in choices.items():
                yield f"{label:<32}{wanted:<14}{choice}"
        return
    yield f"{'convolution, the whole batch':<32}modelled cost in billions of multiply-adds, the chosen algorithm first"
    for label, costs in convolutions.items():
        yield f"{label:<32}{', '.join(f'{name} {cost:.3g}' for name, cost in costs.items())}"


def _mebibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:,.0f} MiB"
