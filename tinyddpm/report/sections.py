"""The sections of a report: summary, curves, samples, evaluation, likelihood, settings, network, machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

from tinyddpm.figures.charts import Chart, Line
from tinyddpm.figures.markup import Children, Element, node
from tinyddpm.figures.svg import number
from tinyddpm.model.checkpoint import in_words
from tinyddpm.progress import duration
from tinyddpm.report.folder import Evaluation, Picture, Run, spread
from tinyddpm.report.metrics import KNOWN, charts, last, lowest, unread
from tinyddpm.report.parts import (
    NOTHING,
    beside,
    charts_of,
    facts,
    figure,
    folded,
    legend,
    numbers,
    part_of,
    section,
    table,
    told,
    value,
)
from tinyddpm.training.spent import KINDS

MOST_ROWS, MOST_PARAMETERS, MOST_PARTS, MOST_CLASSES = 60, 600, 12, 40
"""Most rows of logged values, parameters, parts of a run and names of classes that are shown."""

PER_CHANNEL = "bits/dim"


def summary(runs: Sequence[Run]) -> Element:
    """Return the most important facts of each run, and the notes on files that could not be read."""
    found = [_known(run) for run in runs]
    names = dict.fromkeys(name for known in found for name in known)
    rows = {name: [known.get(name, NOTHING) for known in found] for name in names}
    several = ["", *(run.name for run in runs)]
    notes = [f"{run.name}: {note}" if len(runs) > 1 else note for run in runs for note in run.notes]
    notes += unread({run.name: run.logged for run in runs})
    return section(
        "Summary",
        "summary",
        table("What was trained, and how far", several, rows) if len(runs) > 1 else facts(found[0]),
        node("ul", {"class": "notes"}, (node("li", {}, note) for note in notes)) if notes else None,
    )


def _known(run: Run) -> dict[str, str]:
    """Return the facts of a run by their names in the table, without those that are unknown."""
    part = run.parts[-1] if run.parts else {}
    header, curves, config = run.header, run.logged.curves, run.config
    held, loss = curves.get("validation_loss"), curves.get("loss")
    steps, wanted = steps_of(run), value(part_of(config, "training", "steps"))
    parameters = parameters_of(run)
    found: dict[str, str | None] = {
        "data": _text(part_of(part, "data", "description")) or _text(part_of(config, "data", "source")),
        "samples": _samples(part),
        "shape": "×".join(map(str, header.sample_shape)) if header else None,
        "classes": _classes(header.classes) if header and header.classes else None,
        "network": _text(part_of(config, "network", "name")),
        "parameters": number(parameters) if parameters else None,
        "chain": _joined(config, "schedule", "name", "timesteps", between=", T = "),
        "objective": _joined(config, "training", "predict", "loss", between=", "),
        "steps": number(steps) + (f" of {number(wanted)}" if wanted else ""),
        "ended": _ended(part) if part else None,
        "time": time_of(run),
        "loss": told(last(loss)[1]) if loss else None,
        "held-out loss": told(last(held)[1]) if held else None,
        "lowest held-out loss": f"{told(lowest(held)[1])} at step {number(lowest(held)[0])}" if held else None,
        "samples/s": told(last(curves["samples_per_second"])[1]) if "samples_per_second" in curves else None,
        PER_CHANNEL: _bits(run),
        "computed by": _text(part_of(part, "backend")),
    }
    return {name: words for name, words in found.items() if words}


def steps_of(run: Run) -> int:
    """Return the number of steps that a run has done, by its checkpoint and its metrics."""
    logged = [last(curve)[0] for curve in run.logged.curves.values()]
    return max([run.header.step if run.header else 0, *logged])


def parameters_of(run: Run) -> int | None:
    """Return the number of parameters of a run's network; None if unknown."""
    counted = sum(prod(shape) for _, shape in run.layout)
    recorded = value(part_of(run.parts[-1], "parameters")) if run.parts else None
    return counted or (int(recorded) if recorded else None)


def time_of(run: Run) -> str | None:
    """Return the duration of all parts of a run together; None if unknown."""
    seconds = [spent for part in run.parts if (spent := value(part.get("seconds"))) is not None]
    return duration(sum(seconds)) if seconds else None


def _text(found: Any) -> str | None:
    return found if isinstance(found, str) else None


def _joined(config: Mapping[str, Any], name: str, first: str, second: str, between: str) -> str | None:
    one, other = part_of(config, name, first), part_of(config, name, second)
    return None if one is None or other is None else f"{one}{between}{other}"


def _samples(part: Mapping[str, Any]) -> str | None:
    train, held = (value(part_of(part, "data", key)) for key in ("train", "held_out"))
    return None if train is None or held is None else f"{number(train)} to train on, {number(held)} held out"


def _classes(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_CLASSES:,} more" if len(names) > MOST_CLASSES else ""
    return f"{len(names)}: {', '.join(names[:MOST_CLASSES])}{more}"


def _ended(part: Mapping[str, Any]) -> str:
    how = part.get("ended")
    if how is None:
        return "not yet, or it was killed"
    return "complete" if how == "complete" else f"stopped by {how}"


def _bits(run: Run) -> str | None:
    total = part_of(run.likelihood, "bound", "total")
    return told(value(part_of(total, "mean")), value(part_of(total, "se"))) if total else None


def curves(runs: Sequence[Run]) -> Element | None:
    """Return the charts of the runs' metrics, and tables of the logged values."""
    panels = charts({run.name: run.logged.curves for run in runs})
    if not panels:
        return None
    smooth = "Loss and gradient norm are moving averages over a twentieth of the logged values"
    smooth += ", which are drawn faintly behind them." if len(runs) == 1 else "."
    return section(
        "Curves",
        "curves",
        node("p", {"class": "aside"}, smooth),
        legend(runs),
        charts_of(panels),
        (folded(f"Logged values of {run.name}", _logged(run)) for run in runs if run.logged.curves),
    )


def _logged(run: Run) -> Element:
    """Return a table of the logged values with one row per step, at most `MOST_ROWS`, evenly spread."""
    names = [*(name for name in KNOWN if name in run.logged.curves), *sorted(set(run.logged.curves) - set(KNOWN))]
    at: dict[float, dict[str, float]] = {}
    for name in names:
        for step, found in zip(*run.logged.curves[name], strict=True):
            at.setdefault(step, {})[name] = found
    shown = spread(sorted(at), MOST_ROWS)
    rows: dict[str, Sequence[Children]] = {number(step): [told(at[step].get(name)) for name in names] for step in shown}
    titles = [KNOWN[name].title if name in KNOWN else name for name in names]
    some = f", {len(shown)} of {len(at):,} steps" if len(shown) < len(at) else ""
    return table(f"What {run.name} logged{some}", ["step", *titles], rows)


def samples(runs: Sequence[Run]) -> Element | None:
    """Return the pictures of the runs: final samples, samples during training, and the animation of the denoising."""
    found = beside(runs, [_samples_of(run, f"through-{index}") for index, run in enumerate(runs)])
    return section("Samples", "samples", found) if found is not None else None


def _samples_of(run: Run, anchor: str) -> list[Children]:
    found: list[Children] = []
    if run.samples:
        steps = number(steps_of(run))
        found.append(figure(run.samples, f"Samples of {run.name} after {steps} steps", f"After {steps} steps"))
    if run.grids:
        found.append(_through_training(run, anchor))
    if run.denoising:
        moving = figure(run.denoising, f"Samples of {run.name} from noise to the last step")
        found.append(node("div", {"class": "moving"}, folded("From noise to samples", moving, opened=True)))
    return found


def _through_training(run: Run, anchor: str) -> Element:
    """Return the grids drawn during training. The page's script shows one at a time, chosen by a slider."""
    end = str(len(run.grids) - 1)
    slider = {"type": "range", "id": anchor, "min": "0", "max": end, "value": end, "step": "1", "hidden": ""}
    grids = [
        figure(grid, f"Samples of {run.name} at step {number(step)}", f"step {number(step)}")
        for step, grid in run.grids.items()
    ]
    words = node("label", {"class": "aside", "for": anchor}, "Through training ", node("output", {"for": anchor}))
    return node("div", {"class": "through"}, words, grids, node("input", slider))


def evaluation(runs: Sequence[Run]) -> Element | None:
    """Return the metrics of drawn samples beside their floor: the same metrics between two halves of the real ones."""
    found = beside(runs, [[_evaluated(run, each) for each in run.evaluations] for run in runs])
    return section("Evaluation", "evaluation", found) if found is not None else None


def _evaluated(run: Run, evaluation: Evaluation) -> Children:
    found, floor = evaluation.found, part_of(evaluation.found, "floor", "numbers")
    drawn = found.get("drawn")
    ways = [way for way in drawn if isinstance(way, dict)] if isinstance(drawn, list) else []
    numbers_of = [part_of(way, "numbers") for way in ways]
    names = dict.fromkeys(name for numbers in numbers_of if isinstance(numbers, dict) for name in numbers)
    varied = _text(found.get("varied"))
    titles = [f"{varied} {way.get('value')}" if varied else "drawn" for way in ways]
    rows: dict[str, Sequence[Children]] = {
        name: [told(value(part_of(floor, name))), *(told(value(part_of(numbers, name))) for numbers in numbers_of)]
        for name in names
    }
    features = part_of(found, "features", "name")
    caption = (
        f"{found.get('samples')} samples of {run.name} at step {found.get('step')}"
        f" beside {found.get('compared')} of {found.get('data')} ({found.get('split')}),"
        f" features: {features}, resize: {part_of(found, 'features', 'resize')};"
        f" floor: {part_of(found, 'floor', 'samples')} of the real ones beside as many others"
    )
    return [
        table(caption, ["", "floor", *titles], rows),
        [charts_of(_sweep(varied, ways, names, floor)), node("p", {"class": "aside"}, "Dashed: the floor.")]
        if varied
        else None,
        [
            _closest(run, picture, f" with {varied} {of}" if varied else "")
            for of, picture in evaluation.closest.items()
        ],
    ]


def _closest(run: Run, picture: Picture, how: str) -> Element:
    seen = f"Samples of {run.name}, and below each the training sample nearest to it"
    return figure(picture, seen, f"Drawn{how}, and below each the nearest training sample")


def _sweep(varied: str, ways: Sequence[Mapping[str, Any]], names: Iterable[str], floor: Any) -> list[Chart]:
    """Return a chart for each metric over the varied setting, with its floor as a second line."""
    charts = []
    for name in names:
        points = [(value(way.get("value")), value(part_of(way, "numbers", name))) for way in ways]
        known = sorted((x, y) for x, y in points if x is not None and y is not None)
        if len(known) < 2:
            continue
        xs = [x for x, _ in known]
        lines, least = [Line("drawn", (xs, [y for _, y in known]))], value(part_of(floor, name))
        if least is not None:
            lines.append(Line("floor", (xs, [least] * len(xs)), 1))
        charts.append(Chart(name, tuple(lines), varied))
    return charts


def likelihood(runs: Sequence[Run]) -> Element | None:
    """Return the likelihood of held-out data: the bound with its terms, and their charts over the steps."""
    if not any(run.likelihood for run in runs):
        return None
    names = {"L_T": "L_T, of x_T", "L_t": "L_t, of the steps", "L_0": "L_0, of the last step", "total": "bound"}
    rows: dict[str, Sequence[Children]] = {
        text: [_measured(run, "bound", name) for run in runs] for name, text in names.items()
    }
    if any(part_of(run.likelihood, "flow") for run in runs):
        rows["by the probability flow"] = [_measured(run, "flow") for run in runs]
    rows["on"] = [_measured_on(run) for run in runs]
    caption = "Bits per dimension, ± one standard error"
    panels = [
        _panel(runs, "bits/dim of each step", "t, from 1", "t", "bits", shift=1, log=True),
        _panel(runs, "distortion by rate", "rate in bits/dim", "rate", "distortion"),
    ]
    return section(
        "Likelihood",
        "likelihood",
        table(caption, ["", *(run.name for run in runs)], rows),
        legend(runs),
        charts_of([panel for panel in panels if panel.lines]),
    )


def _measured(run: Run, *keys: str) -> str:
    found = part_of(run.likelihood, *keys)
    return told(value(part_of(found, "mean")), value(part_of(found, "se")))


def _measured_on(run: Run) -> str:
    found = run.likelihood
    return f"{part_of(found, 'samples')} of {part_of(found, 'data')} ({part_of(found, 'split')})" if found else NOTHING


def _panel(runs: Sequence[Run], title: str, below: str, x: str, y: str, shift: int = 0, log: bool = False) -> Chart:
    """Return a chart of column `y` over `x` of the bound's steps, without runs whose columns differ in length."""
    lines = []
    for index, run in enumerate(runs):
        xs, ys = (numbers(part_of(run.likelihood, "steps", key)) for key in (x, y))
        points = sorted(zip((value + shift for value in xs), ys, strict=False))
        if points and len(xs) == len(ys):
            lines.append(Line(run.name, ([x for x, _ in points], [y for _, y in points]), index))
    return Chart(title, tuple(lines), below, log_x=log, log_y=log)


def settings(runs: Sequence[Run]) -> Element | None:
    """Return the settings of the runs, table by table. Settings that differ between runs are marked."""
    flat = [_flat(run.config) for run in runs]
    tables: dict[str, dict[str, Sequence[Children]]] = {}
    differing: dict[str, list[str]] = {}
    for name, key in dict.fromkeys(pair for settings in flat for pair in settings):
        cells = [settings.get((name, key), NOTHING) for settings in flat]
        tables.setdefault(name, {})[key] = cells
        if len(set(cells)) > 1:
            differing.setdefault(name, []).append(key)
    if not tables:
        return None
    columns = ["setting", *(run.name for run in runs)]
    every = node(
        "div",
        {"class": "cards" if len(runs) == 1 else "stack"},
        (table(name, columns, rows, differing.get(name, ())) for name, rows in tables.items()),
    )
    if len(runs) == 1:
        return section("Settings", "settings", every)
    apart: dict[str, Sequence[Children]] = {
        f"{name}.{key}": tables[name][key] for name, keys in differing.items() for key in keys
    }
    first = table("Settings that differ", columns, apart) if apart else node("p", {}, "All settings are the same.")
    return section("Settings", "settings", first, folded("All settings", every))


def _flat(config: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Return settings by (table, key). Nested tables have dotted names."""
    found: dict[tuple[str, str], str] = {}

    def visit(name: str, settings: Mapping[str, Any]) -> None:
        for key, setting in settings.items():
            if isinstance(setting, dict):
                visit(f"{name}.{key}" if name else key, setting)
            else:
                shown = setting if isinstance(setting, str) else json.dumps(setting, ensure_ascii=False, default=str)
                found[name or "general", key] = shown or '""'

    visit("", config)
    return found


def network(runs: Sequence[Run]) -> Element | None:
    """Return the numbers of parameters of the networks, by part and by array."""
    found = beside(runs, [_network_of(run) for run in runs])
    return section("Network", "network", found) if found is not None else None


def _network_of(run: Run) -> Children:
    if not run.layout:
        return None
    sizes: dict[str, int] = {}
    for path, shape in run.layout:
        part = path.split("/")[0]
        sizes[part] = sizes.get(part, 0) + prod(shape)
    whole = sum(sizes.values())
    rows: dict[str, Sequence[Children]] = {
        part: [number(size), f"{size / whole:.1%}"] for part, size in [*sizes.items(), ("all", whole)]
    }
    every: dict[str, Sequence[Children]] = {
        path: ["×".join(map(str, shape)), number(prod(shape))] for path, shape in run.layout[:MOST_PARAMETERS]
    }
    left = f", the first {MOST_PARAMETERS}" if len(run.layout) > MOST_PARAMETERS else ""
    return [
        table(f"Parameters of {run.name}, by part", ["part", "parameters", "share"], rows),
        folded(
            f"All {len(run.layout):,} arrays",
            table(f"Arrays of parameters of {run.name}{left}", ["path", "shape", "parameters"], every),
        ),
    ]


def provenance(runs: Sequence[Run]) -> Element | None:
    """Return time, duration, machine, versions and plugins of each part of the runs."""
    found = beside(runs, [_parts_of(run) for run in runs])
    return section("Machine and versions", "machine", found) if found is not None else None


def _parts_of(run: Run) -> Children:
    content: list[Children] = []
    for index, part in enumerate(run.parts[-MOST_PARTS:], max(0, len(run.parts) - MOST_PARTS) + 1):
        first, step, seconds = (value(part.get(key)) for key in ("first", "step", "seconds"))
        shown = {
            "began": _text(part.get("began")),
            "steps": f"{told(first)} to {told(step)}",
            "time": duration(seconds) if seconds is not None else None,
            "spent": _spent(part_of(part, "spent")),
            "ended": _ended(part),
            "computed by": _text(part.get("backend")),
            "machine": _machine(part_of(part, "machine")),
            "versions": _versions(part_of(part, "versions")),
        }
        several = node("h4", {}, f"Part {index}") if len(run.parts) > 1 else None
        content += [several, facts({name: words for name, words in shown.items() if words})]
    if run.header and run.header.plugins:
        content.append(facts({"parts in use": ", ".join(in_words(run.header.plugins))}))
    return content or None


def _machine(found: Any) -> str | None:
    cpu, cores, system = (part_of(found, key) for key in ("cpu", "cores", "system"))
    return f"{cpu}, {cores} cores, {system}" if cpu else None


def _spent(found: Any) -> str | None:
    seconds = {kind: value(part_of(found, kind)) for kind in KINDS}
    return ", ".join(f"{kind} {duration(spent)}" for kind, spent in seconds.items() if spent is not None) or None


def _versions(found: Any) -> str | None:
    return ", ".join(f"{name} {version}" for name, version in found.items()) if isinstance(found, dict) else None


SECTIONS: tuple[Callable[[Sequence[Run]], Element | None], ...] = (
    summary, curves, samples, evaluation, likelihood, settings, network, provenance,
)  # fmt: skip
"""The sections in the order of the page."""
