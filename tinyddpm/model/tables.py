"""The tables of settings with their defaults and help texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"
"""Value of `training.times` for the objective's own law of t."""

SUMS = ("fp32", "bf16")
"""Values of `training.sums`, the types in which ranks can exchange gradients."""


def setting(default: Any, text: str, flag: str | None = None) -> Any:
    """Return a dataclass field with a help text. `flag` is its command-line name if that differs from the field's."""
    return field(default=default, metadata={"help": text, "flag": flag})


@dataclass(frozen=True)
class DataConfig:
    """The training data. The options of a registered data set are further keys of the table."""

    source: str = setting(
        "digits", "A registered data set, or a path: images, .npy, .npz, HDF5, Parquet, CSV, IDX, CIFAR-10.", "data"
    )
    data_dir: str | None = setting(None, "Where the files of a registered data set lie.")
    image_size: str | int | None = setting(None, "Crop and scale images to HxW, such as 32x48; 32 is 32x32.")
    labels: bool | None = setting(
        None, "Condition on the classes; by default if there are any and no other condition is named."
    )
    flip: bool = setting(
        False, "Mirror half of the images at random: faster than the transform flip, but the network is not told."
    )
    tell_transforms: bool = setting(
        False, "Tell the network how each sample was transformed, so that drawn samples look untransformed (EDM)."
    )
    balance: str = setting(
        "none",
        "Balance of classes: none, order (each comes equally often), weights (in the loss), or each weight: 1,2,1.",
    )
    validation: int = setting(256, "Samples held out for the validation loss; at most a tenth of the data.")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkConfig:
    """The network. Its options are further keys of the table."""

    name: str = setting("unet", "The network, a registered name.", "network")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConditionConfig:
    """What samples are conditioned on. The condition's options are further keys of the table."""

    name: str = setting(
        "",
        "What samples are conditioned on, a registered name; by default the classes, if there are any.",
        "condition",
    )
    dropout: float = setting(
        0.0, "Fraction of training samples whose condition is left out, as guidance needs.", "condition_dropout"
    )
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule. Its options are further keys of the table."""

    name: str = setting("linear", "The noise schedule, a registered name.", "schedule")
    timesteps: int = setting(1000, "Length T of the diffusion chain.")
    zero_terminal_snr: bool = setting(False, "Rescale the schedule so that it ends without any signal.")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained. The defaults are DDPM's for CIFAR-10."""

    predict: str = setting("eps", "What the network predicts, a registered parametrisation: eps, x_0, v, flow or edm.")
    loss: str = setting("simple", "The objective, a registered name: simple; hybrid and vlb also learn the variance.")
    times: str = setting(
        AUTO, "How times are drawn, a registered law: uniform, history, log-normal, logit-normal; auto: the loss's."
    )
    vlb_weight: float = setting(0.001, "Weight of the bound in the hybrid loss.")
    steps: int = setting(800_000, "Training steps; the run ends there.")
    batch_size: int = setting(128, "Samples per step.")
    accumulate: int = setting(1, "Cut each batch into this many parts, to save memory; the gradient is the same.")
    recompute: bool = setting(
        False, "Keep only the inputs of blocks and run them again in the backward pass, to save memory; same gradient."
    )
    threads: int = setting(0, "Threads that share each batch; 0 for as many as there are cores.")
    shard: bool = setting(False, "Each rank keeps only its part of Adam's state and of the averages, to save memory.")
    sums: str = setting("fp32", "Type in which ranks exchange gradients: fp32, or bf16 for half as many bytes.")
    learning_rate: float = setting(2e-4, "Adam's learning rate, after the warm-up.")
    warmup: int = setting(5000, "Steps over which the learning rate rises from 0.")
    weight_decay: float = setting(0.0, "AdamW's weight decay of matrices, times the learning rate; 0 for plain Adam.")
    clip: float = setting(1.0, "Largest norm of the whole gradient; 0 for no clipping.")
    ema: float = setting(0.9999, "Decay of the average of the weights that is sampled from.")
    average_lengths: str = setting("", "Relative lengths of further averages of the weights, such as 0.05,0.10 (EDM2).")
    snapshot_every: int = setting(
        0, "Steps between snapshots of these averages, from which any length is made later; 0 for 50 snapshots in all."
    )
    log_every: int = setting(10, "Steps between lines of metrics.jsonl.")
    validate_every: int = setting(1000, "Steps between validation losses.")
    save_every: int = setting(1000, "Steps between checkpoints.")
    keep: int = setting(0, "Number of last checkpoints to keep, each as RUN@STEP; 0 for only the last one.")
    keep_best: bool = setting(False, "Also keep the checkpoint with the lowest validation loss, as RUN@best.")
    sample_every: int = setting(10_000, "Steps between sample grids.")


@dataclass(frozen=True)
class RateConfig:
    """The learning rate after the warm-up. The rate's options are further keys of the table."""

    name: str = setting(
        "constant", "How the learning rate changes after the warm-up: constant, linear, cosine, inverse-sqrt.", "rate"
    )
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptionsConfig:
    """A table of options for a part that a setting of another table names."""

    options: dict[str, Any] = field(default_factory=dict)


NAMED_IN_TRAINING = {"parametrisation": "predict", "objective": "loss", "times": "times"}
"""Tables of options, and the setting of `training` that names the part they are for."""


@dataclass(frozen=True)
class WeightingConfig:
    """The weight of the squared error at each time. The weighting's options are further keys of the table."""

    name: str = setting("simple", "Weighting of the loss by time, a registered name.", "weighting")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SpacingConfig:
    """Which times the sampler visits. The spacing's options are further keys of the table."""

    name: str = setting("trailing", "Which times the steps visit, a registered name.", "spacing")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn. The sampler's options are further keys of the table; the spacing has its own table."""

    name: str = setting("ancestral", "The sampler, a registered name.", "sampler")
    steps: int = setting(0, "Sampling steps; 0 for one per step of the chain.", "sample_steps")
    threshold: str = setting("static", "What keeps predicted images in range: static (clipping), dynamic or none.")
    percentile: float = setting(0.995, "Fraction of pixels that the dynamic threshold leaves unclipped.")
    count: int = setting(64, "Samples in the grids of a training run.", "sample_count")
    options: dict[str, Any] = field(default_factory=dict)
    spacing: SpacingConfig = field(default_factory=SpacingConfig)


HOLDERS = {"spacing": "sampling"}
"""Tables that are fields of another table's class, by that table: all settings of sampling are passed as one object."""


@dataclass(frozen=True)
class GuidanceConfig:
    """How predictions are guided. The guidance's options are further keys of the table."""

    name: str = setting("none", "The guidance of samples, a registered name, or none.", "guide")
    options: dict[str, Any] = field(default_factory=dict)
