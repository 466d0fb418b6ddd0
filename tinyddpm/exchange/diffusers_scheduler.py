"""Conversion between the configuration of a diffusers scheduler and our schedule and sampling."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from tinyddpm import registry
from tinyddpm.diffusion.schedules import Betas, make_betas
from tinyddpm.errors import ConfigError, RegistryError
from tinyddpm.model.model import Model

PREDICTIONS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}
SPACINGS = {"trailing": "trailing", "uniform": "linspace"}
SCHEDULES = {"linear": "linear", "quadratic": "scaled_linear", "cosine": "squaredcos_cap_v2"}
BY_ENDS = ("linear", "quadratic")
"""Schedules that are determined by their first and last beta."""

ROUNDING = 2.0**-22
"""Relative difference up to which betas are equal: tables of other projects may be rounded to float32."""

VARIANCES = {"small": "fixed_small", "large": "fixed_large", "auto": "fixed_large", "learned": "learned_range"}

UNBOUNDED = 1e9
"""Value of sample_max_value on export: our dynamic thresholds have no upper limit."""


def scheduler_config(model: Model) -> dict[str, Any]:
    """Return the configuration of a DDPMScheduler with the model's schedule, prediction, variance and threshold."""
    config = model.config
    schedule, sampling = config.schedule, config.sampling
    betas = make_betas(schedule.name, schedule.timesteps, **schedule.options)
    named = schedule.name in BY_ENDS or (schedule.name == "cosine" and not schedule.options)
    variance = sampling.options.get("variance", "auto") if sampling.name == "ancestral" else "auto"
    if model.objective.learned_variance:
        variance = "learned"
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(betas),
        "beta_start": float(betas[0]),
        "beta_end": float(betas[-1]),
        "beta_schedule": SCHEDULES[schedule.name] if named else "linear",
        "trained_betas": None if named else betas.tolist(),
        "variance_type": VARIANCES[variance],
        "prediction_type": PREDICTIONS[config.training.predict],
        "clip_sample": sampling.threshold == "static",
        "clip_sample_range": 1.0,
        "thresholding": sampling.threshold == "dynamic",
        "dynamic_thresholding_ratio": sampling.percentile,
        "sample_max_value": UNBOUNDED,
        "timestep_spacing": SPACINGS.get(sampling.spacing.name, "trailing"),
        "steps_offset": 0,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
    }


READ: dict[str, tuple[Any, tuple[type, ...]]] = {
    "num_train_timesteps": (1000, (int,)),
    "beta_start": (1e-4, (float,)),
    "beta_end": (0.02, (float,)),
    "beta_schedule": ("linear", (str,)),
    "trained_betas": (None, (list, type(None))),
    "variance_type": (None, (str, type(None))),
    "prediction_type": ("epsilon", (str,)),
    "predict_epsilon": (True, (bool,)),
    "clip_sample": (True, (bool,)),
    "clip_sample_range": (1.0, (int, float)),
    "thresholding": (False, (bool,)),
    "dynamic_thresholding_ratio": (0.995, (float, int)),
    "sample_max_value": (1.0, (int, float)),
    "timestep_spacing": ("leading", (str,)),
    "rescale_betas_zero_snr": (False, (bool,)),
}
"""The settings that are read from a configuration: default and accepted types of each.

Until diffusers 0.8 `predict_epsilon` said what is `prediction_type` now.
"""

SMALL_TOO = "fixed_small_log"
"""Another name of the small variance in diffusers."""


def read_scheduler(config: Mapping[str, Any], learned: bool | None) -> tuple[dict[str, Any], list[str], list[str]]:
    """Convert a scheduler's configuration to tables of our configuration.

    Args:
        config: the scheduler's configuration, which need not be valid.
        learned: whether the network learns the variance; None if unknown.

    Returns:
        the tables; settings that have no equivalent; notes on differences in sampling only: of the spacing with fewer
        than T steps, of the sampler, or of the threshold.
    """
    found = {name: config.get(name, default) for name, (default, _) in READ.items()}
    wrong = [f"{name} is {found[name]!r}" for name, (_, types) in READ.items() if type(found[name]) not in types]
    if wrong:
        return {}, wrong, []
    if not found["predict_epsilon"] and "prediction_type" not in config:
        found["prediction_type"] = "sample"
    kind, spacing = config.get("_class_name", "DDPMScheduler"), found["timestep_spacing"]
    if found["variance_type"] is None:
        found["variance_type"] = "learned_range" if learned else "fixed_small"
    predict = {theirs: ours for ours, theirs in PREDICTIONS.items()}.get(found["prediction_type"])
    variances = {SMALL_TOO: "small", "fixed_small": "small", "fixed_large": "large", "learned_range": "learned"}
    variance = variances.get(found["variance_type"])
    schedule = _schedule(found)
    static = found["thresholding"] and found["sample_max_value"] <= 1
    checks = {
        "beta_schedule" if found["trained_betas"] is None else "trained_betas": schedule is not None,
        "prediction_type": predict is not None,
        "variance_type": variance is not None and learned in (None, variance == "learned"),
        "clip_sample_range": found["thresholding"] or not found["clip_sample"] or found["clip_sample_range"] == 1,
    }
    wrong = [f"{name} is {str(found[name])[:60]}" for name, is_alike in checks.items() if not is_alike]
    notes = [] if spacing in SPACINGS.values() else [f"spacing {spacing!r} has no equivalent: trailing replaces it"]
    if kind not in ("DDPMScheduler", "DDIMScheduler"):
        notes.append(f"the sampler of {kind} has no equivalent: ancestral sampling replaces it")
    limit = found["sample_max_value"]
    if found["thresholding"] and 1 < limit < UNBOUNDED:
        notes.append(f"sample_max_value {limit:g} has no equivalent: predictions of any size are scaled down")
    tables = {
        "schedule": {**(schedule or {}), "zero_terminal_snr": found["rescale_betas_zero_snr"]},
        "training": {"predict": predict or "eps", "loss": "hybrid" if learned else "simple"},
        "weighting": {"name": "simple" if predict == "eps" else "uniform"},
        "sampling": {
            **({"name": "ddim"} if kind == "DDIMScheduler" else {"name": "ancestral", "variance": variance}),
            "threshold": "dynamic" if found["thresholding"] and not static else
            "static" if found["clip_sample"] or static else "none",
            "percentile": float(found["dynamic_thresholding_ratio"]),
        },
        "spacing": {"name": {theirs: ours for ours, theirs in SPACINGS.items()}.get(spacing, "trailing")},
    }  # fmt: skip
    return tables, wrong, notes


def _schedule(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return our schedule with the same betas, with as few options as possible; None if there is none."""
    T, table = found["num_train_timesteps"], found["trained_betas"]
    name = {theirs: ours for ours, theirs in SCHEDULES.items()}.get(found["beta_schedule"])
    said = None
    if table is None:
        if name is None:
            return None
        ends = found["beta_start"], found["beta_end"]
        said = {"name": name, "timesteps": T} if name == "cosine" else _between(name, T, *ends)
        betas = _betas_of(said)
        if betas is None:
            return said  # making the model then raises the reason
    elif len(table) == T and all(type(beta) is float for beta in table):
        betas = np.asarray(table)
    else:
        return None
    named = [{"name": each, "timesteps": T} for each in sorted({entry.name for entry in registry.entries("schedules")})]
    between = [_between(each, T, float(betas[0]), float(betas[-1])) for each in BY_ENDS]
    for schedule in [*named, *([said] if said else between)]:
        own = _betas_of(schedule)
        if own is not None and np.allclose(own, betas, rtol=ROUNDING, atol=0):
            return schedule
    return None


def _between(name: str, T: int, first: float, last: float) -> dict[str, Any]:
    """Return the settings of a schedule with this first and last beta."""
    return {"name": name, "timesteps": T, "beta_start": first, "beta_end": last, "rescale": False}


def _betas_of(schedule: Mapping[str, Any]) -> Betas | None:
    """Return the betas of a schedule; None if its settings are invalid, for example for this T."""
    name, T, *_ = schedule.values()
    with suppress(ConfigError, RegistryError):
        return make_betas(name, T, **{key: schedule[key] for key in schedule if key not in ("name", "timesteps")})
    return None
