"""`tinyddpm evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tinyddpm.cli.completion import FilePath, Named, RunPath
from tinyddpm.cli.nll import nll
from tinyddpm.cli.options import argument, command_mark, option, parse_assignments
from tinyddpm.cli.output import say
from tinyddpm.cli.ranks import SharedCommand, shared
from tinyddpm.cli.sample import drawing_params
from tinyddpm.cli.trained import Chosen, keeping, open_model
from tinyddpm.errors import ConfigError, DataError, said_before, unknown

if TYPE_CHECKING:
    from tinyddpm.data.base import Dataset
    from tinyddpm.distributed.group import Group
    from tinyddpm.metrics.evaluation import Measured, Pairs
    from tinyddpm.model.config import Config
    from tinyddpm.model.tables import GuidanceConfig, SamplingConfig
    from tinyddpm.progress import Watch

METRICS = (
    "frechet", "kernel", "precision-recall", "density-coverage", "inception-score", "obedience", "memorisation",
)  # fmt: skip
"""Metrics that are measured if none are named. One that does not apply to the model or data gives no numbers."""

VARIED: dict[str, tuple[str, Callable[[str], Any]]] = {
    "guidance": ("scale", float),
    "steps": ("sample_steps", int),
    "sampler": ("sampler", str),
}
"""Keys that `--sweep` takes: the option of each, and the type of its values."""


@click.command(cls=SharedCommand, short_help="Measure how good a trained model's samples are.")
@argument("checkpoint", "A checkpoint, or a run folder.", type=RunPath())
@option(
    "--training",
    "trained",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Training samples, spread evenly, among which memorised copies are searched; 0 for all.",
    group="Data",
)
@option(
    "--count",
    "number",
    type=click.IntRange(2),
    default=1000,
    show_default=True,
    help="How many samples to draw.",
    group="Samples",
)
@option(
    "--sweep",
    metavar="KEY=VALUE,VALUE,…",
    help=f"Compare several values of one of {', '.join(VARIED)}: guidance=1,1.5,2 or steps=5,10.",
    group="Samples",
)
@option(
    "--features",
    "features_name",
    type=Named("features"),
    help="Features of samples, a registered name; if not given, pixels of images or coordinates of points.",
    group="Measures",
)
@option(
    "--weights",
    "weights_file",
    type=click.Path(),
    help="Weights file of the features, such as inception's pt_inception-2015-12-05-6726825d.pth.",
    group="Measures",
)
@option(
    "--feature-option",
    "feature_assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the features, such as resize=pytorch-fid for inception.",
    group="Measures",
)
@option(
    "--metrics",
    "metrics_names",
    type=Named("metrics", several=True),
    help="Metrics, registered names separated by commas; all built-in ones if not given.",
    group="Measures",
)
@option(
    "--metric-option",
    "metric_assignments",
    multiple=True,
    metavar="METRIC.KEY=VALUE",
    help="An option of a metric, such as precision-recall.k=5.",
    group="Measures",
)
@option(
    "--out",
    type=FilePath(),
    help="Folder for reports, pictures, and samples kept for the next time; evaluations beside the checkpoint if not"
    " given.",
    group="Output",
)
@option("--json", "as_json", is_flag=True, help="Print one JSON object.", group="Output")
@shared
def evaluate(
    checkpoint: Path,
    data: str | None,
    data_dir: str | None,
    split: str | None,
    no_cache: bool,
    trained: int,
    number: int,
    sweep: str | None,
    features_name: str | None,
    weights_file: str | None,
    feature_assignments: tuple[str, ...],
    metrics_names: str | None,
    metric_assignments: tuple[str, ...],
    out: Path | None,
    as_json: bool,
    seed: int,
    batch_size: int,
    raw: bool,
    group: Group,
    **given: Any,
) -> None:
    """Measure how good the samples of the model in CHECKPOINT, a file or a run folder, are.

    Samples are drawn for the classes or captions of real samples that the model was not trained on, and compared with
    these. Beside each number stands its floor, the same number between two halves of the real samples.

    Samples and features are kept: an interrupted evaluation goes on, and a repeated one computes nothing twice.
    """
    import numpy as np

    from tinyddpm.backend import load_backend
    from tinyddpm.cli.measurement import opened
    from tinyddpm.figures.marks import checkpoint_of
    from tinyddpm.files import check_folder
    from tinyddpm.kept import Cache
    from tinyddpm.metrics.base import make_features
    from tinyddpm.metrics.evaluation import Evaluation, Subject
    from tinyddpm.model.load import checkpoint_file
    from tinyddpm.progress import Progress, late
    from tinyddpm.samplers import make_sampler
    from tinyddpm.training.interrupt import Stoppable

    metrics = _metrics(metrics_names.split(",") if metrics_names else METRICS, metric_assignments)
    chosen = Chosen.taken(given)
    model, weights, loaded = open_model(checkpoint, raw, group=group, **given)
    folder = out or checkpoint_file(checkpoint).parent / "evaluations"
    if group.first:
        check_folder(folder)
    varied, values = _sweep(sweep)
    ways = []
    for value in values:
        way = replace(chosen, **{VARIED[varied][0]: value}) if varied else chosen
        ways.append((way.sampling(model.config), way.guidance(model.config)))
    with late(Progress()) as watch:
        dataset, split = opened(model, data, data_dir, split, watch, cache=not no_cache)
    for sampling, guidance in ways:  # each refuses what is wrong before anything is drawn in another way
        model.pairs(sampling)
        make_sampler(sampling.name, **sampling.options)
        with said_before():
            model.denoiser(weights, model.known(dataset, np.arange(1)), sampling, guidance)
    training = _searched(metrics, bool(metrics_names), model.config, data_dir, trained, not no_cache)
    features_name = features_name or ("pixels" if model.is_image else "coordinates")
    options = {} if weights_file is None else {"weights": weights_file}
    options |= parse_assignments(feature_assignments, depth=1)
    features = make_features(features_name, load_backend(given["backend"], given["device"]), **options)
    about = checkpoint_of(checkpoint, loaded, raw)
    progress = Stoppable(group)
    evaluation = Evaluation(
        Subject(model, weights, about),
        features,
        [features_name, options],
        metrics,
        dataset,
        training,
        Cache(folder / "kept"),
        count=number,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
        group=group,
    )
    with keeping(progress, lambda: f"what was drawn is kept: the same command goes on from {folder / 'kept'}"):
        floor = evaluation.floor()
        found = [evaluation.measure(*way) for way in ways]
    if not group.first:
        return
    report = {
        "checkpoint": str(checkpoint),
        **about,
        "samples": number,
        "seed": seed,
        "data": dataset.description,
        "split": split,
        "compared": evaluation.compared,
        "training": None if training is None else {"data": training.description, "samples": len(training)},
        "features": {
            "name": features_name,
            "options": options,
            "description": features.description,
            "resize": features.resize,
        },
        "metrics": metrics,
        "floor": {"samples": evaluation.halves, "numbers": dict(floor)},
        "varied": varied or None,
        "drawn": [
            {"value": value, **_entry(model.config, *way, measured)}
            for value, way, measured in zip(values, ways, found, strict=True)
        ],
    }
    say(*([json.dumps(report)] if as_json else _text(report)))
    for path in _write(report, folder, [measured.pairs for measured in found], command_mark(about)):
        say(f"wrote {path}", err=as_json)


evaluate.params[1:1] = [given for given in nll.params if given.name in ("data", "data_dir", "split", "no_cache")]
evaluate.params += drawing_params("seed", "batch_size")


def _metrics(names: Sequence[str], assignments: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the options of each metric by its name.

    Raises:
        RegistryError: there is no such metric.
        ConfigError: an option is unknown, or belongs to a metric that is not measured.
    """
    from tinyddpm import registry

    options = parse_assignments(assignments, depth=2)
    metrics = {name.strip(): options.pop(name.strip(), {}) for name in names}
    if options:
        raise ConfigError(unknown("metric", next(iter(options)), metrics))
    for name, given in metrics.items():
        registry.checked("metrics", name, given)
    return metrics


def _sweep(text: str | None) -> tuple[str, list[Any]]:
    """Return the key that `--sweep` varies, and its values; "" and [None] without a sweep.

    Raises:
        ConfigError: the text is not `KEY=VALUE,VALUE,…` with a key of `VARIED`, or a value has the wrong type.
    """
    if text is None:
        return "", [None]
    key, equals, values = text.partition("=")
    if not equals or key.strip() not in VARIED:
        raise ConfigError(f"--sweep {text!r}: write one of {', '.join(VARIED)} with its values, such as guidance=1,2")
    _, kind = VARIED[key.strip()]
    try:
        return key.strip(), [kind(value.strip()) for value in values.split(",")]
    except ValueError as error:
        raise ConfigError(f"--sweep {text!r}: give numbers separated by commas, such as steps=5,10") from error


def _searched(
    metrics: dict[str, dict[str, Any]], named: bool, config: Config, data_dir: str | None, count: int, cache: bool
) -> Dataset | None:
    """Return the training data, see `_training`, if a metric needs them; else None.

    If they are not there any more, metrics that need them are left out, unless the user has named the metrics.
    """
    from tinyddpm.metrics.base import needs
    from tinyddpm.progress import Progress, late

    looking = [name for name in metrics if "training" in needs(name)]
    if not looking:
        return None
    try:
        with late(Progress()) as watch:
            return _training(config, data_dir, count, watch, cache)
    except DataError as error:
        if named:
            raise
        for name in looking:
            say(f"note: without {name}, which needs the training data: {error}", err=True)
            del metrics[name]
        return None


def _training(config: Config, data_dir: str | None, count: int, watch: Watch, cache: bool) -> Dataset:
    """Return `count` samples of the run's training data, spread evenly, or all of them if `count` is 0.

    Raises:
        DataError: the data is not there any more.
    """
    from tinyddpm.data.base import Subset, spread
    from tinyddpm.training.assembly import open_data, split_held_out

    if data_dir:
        config = config.updated({"data": {"data_dir": data_dir}})
    training, _ = split_held_out(config, open_data(config, watch, cache))
    numbers = spread(training, count)
    return training if len(numbers) == len(training) else Subset(training, numbers)


def _entry(config: Config, sampling: SamplingConfig, guidance: GuidanceConfig, measured: Measured) -> dict[str, Any]:
    """Return a report's entry for drawn samples: the tables of the settings, and what was measured."""
    tables = replace(config, sampling=sampling, guidance=guidance).to_dict()
    return {
        **{name: tables[name] for name in ("sampling", "spacing", "guidance")},
        "numbers": dict(measured.numbers),
        "closest": None if measured.pairs is None else measured.pairs.distance.tolist(),
    }


def _text(report: Mapping[str, Any]) -> list[str]:
    """Return the lines of a report: what was compared, then for each number its floor and its values."""
    seen, floor, drawn = report["features"], report["floor"], report["drawn"]
    few = "; fewer samples than are drawn make it higher" if floor["samples"] < report["samples"] else ""
    lines = [
        f"{report['samples']} samples of {report['checkpoint']}, step {report['step']}, {report['weights']} weights, "
        f"sha256 {report['sha256'][:12]}, seed {report['seed']}",
        f"beside {report['compared']} of {report['data']} ({report['split']})",
        f"seen by {seen['name']}: {seen['description']}; resize: {seen['resize']}",
        f"floor: {floor['samples']} of the real ones beside {floor['samples']} others{few}",
        "",
    ]
    if report["training"]:
        lines.insert(2, f"copies are searched among {report['training']['samples']} training samples")
    titles = [f"{report['varied']} {way['value']}" if report["varied"] else "drawn" for way in drawn]
    names = list(dict.fromkeys(name for way in drawn for name in way["numbers"]))
    width = max(map(len, names), default=0)
    lines.append(f"{'':{width}}  {'floor':>10}" + "".join(f"  {title:>12}" for title in titles))
    for name in names:
        values = [f"{_number(floor['numbers'].get(name)):>10}"]
        values += [
            f"{_number(way['numbers'].get(name)):>{max(12, len(title))}}"
            for way, title in zip(drawn, titles, strict=True)
        ]
        lines.append(f"{name:{width}}  " + "  ".join(values))
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _write(
    report: Mapping[str, Any], folder: Path, pairs: Sequence[Pairs | None], mark: Mapping[str, Any]
) -> list[Path]:
    """Write the report and its pictures, and return their paths. `mark` is for the picture of a sweep."""
    from tinyddpm.figures.evaluation import draw_sweep, pairs_picture
    from tinyddpm.figures.images import save_png
    from tinyddpm.figures.samples import is_drawable
    from tinyddpm.files import replacing
    from tinyddpm.kept import digest

    settings = {key: value for key, value in report.items() if key not in ("checkpoint", "floor", "drawn")}
    ways = [{key: way[key] for key in ("value", "sampling", "spacing", "guidance")} for way in report["drawn"]]
    stem = f"{report['features']['name']}-{report['samples']}-{digest(settings, ways)[:8]}"
    written = [folder / f"{stem}.json"]
    with replacing(written[0]) as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    for way, found in zip(report["drawn"], pairs, strict=True):
        if found is not None and found.drawn.ndim == 4 and is_drawable(found.drawn.shape[1:]):
            ending = f"-{way['value']}" if report["varied"] else ""
            written.append(folder / f"{stem}-closest{ending}.png")
            save_png(written[-1], pairs_picture(found.drawn, found.training), found.mark)
    if len(report["drawn"]) > 1:
        numbers = {name: [way["numbers"][name] for way in report["drawn"]] for name in report["drawn"][0]["numbers"]}
        values = [way["value"] for way in report["drawn"]]
        try:
            draw_sweep(report["varied"], values, numbers, report["floor"]["numbers"], folder / f"{stem}.png", mark)
        except ConfigError as error:
            say(f"note: {error}", err=True)
        else:
            written.append(folder / f"{stem}.png")
    return written
