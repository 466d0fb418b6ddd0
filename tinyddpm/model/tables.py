"""The tables of settings, with their defaults and their help texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"
"""As `training.times`: the law of t that is the objective's own."""

SUMS = ("fp32", "bf16")
"""What ranks can send each other of gradients."""


def setting(default: Any, text: str, flag: str | None = None) -> Any:
    """Return a field with its help text; `flag` is its command-line name where that is not the field's own."""
    return field(default=default, metadata={"help": text, "flag": flag})


@dataclass(frozen=True)
class DataConfig:
    """What is learned from; the options of a registered data set stand beside its name."""

    source: str = setting(
        "digits", "A registered data set, or a path: images, .npy, .npz, HDF5, Parquet, CSV, IDX, CIFAR-10.", "data"
    )
    data_dir: str | None = setting(None, "Where the files of a registered data set lie.")
    image_size: str | int | None = setting(None, "Crop and scale images to HxW, such as 32x48; 32 is 32x32.")
    labels: bool | None = setting(None, "Learn by class; if not said, where there are classes and no other condition.")
    flip: bool = setting(False, "Mirror half of the images at random, untold: the quick form of the transform flip.")
    tell_transforms: bool = setting(
        False, "Tell the network what transforms do, so that samples show none of it (EDM)."
    )
    balance: str = setting(
        "none", "Classes count alike: order (each comes as often), weights (in the loss), or a weight for each: 1,2,1."
    )
    validation: int = setting(256, "Samples held out for the validation loss; at most a tenth of the data.")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkConfig:
    """The network; its own options stand beside its name."""

    name: str = setting("unet", "The network, a registered name.", "network")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConditionConfig:
    """What samples are conditioned on; the condition's own options stand beside its name."""

    name: str = setting(
        "",
        "What samples are conditioned on, a registered name; if not said, the classes where there are any.",
        "condition",
    )
    dropout: float = setting(0.0, "Share of samples trained with nothing said, as guidance needs.", "condition_dropout")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule; its own options stand beside its name."""

    name: str = setting("linear", "The noise schedule, a registered name.", "schedule")
    timesteps: int = setting(1000, "Length T of the diffusion chain.")
    zero_terminal_snr: bool = setting(False, "Rescale the schedule so that it ends without any signal.")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained. The defaults are DDPM's for CIFAR-10."""

    predict: str = setting("eps", "What the network predicts, a registered parametrisation: eps, x_0, v, flow or edm.")
    loss: str = setting("simple", "The objective, a registered name: simple, or with a learned variance hybrid or vlb.")
    times: str = setting(
        AUTO, "How times are drawn, a registered law: uniform, history, log-normal, logit-normal; auto: the loss's."
    )
    vlb_weight: float = setting(0.001, "What the bound counts in the hybrid loss.")
    steps: int = setting(800_000, "Training steps; the run ends there.")
    batch_size: int = setting(128, "Samples per step.")
    accumulate: int = setting(1, "Cut each batch into this many parts, to save memory; the gradient is the same.")
    recompute: bool = setting(
        False, "Keep only the inputs of blocks and run these again on the way back, to save memory: the same gradient."
    )
    threads: int = setting(0, "Threads that share each batch; 0 for as many as there are cores.")
    shard: bool = setting(False, "Ranks keep and step a part each of Adam's state and of the average, to save memory.")
    sums: str = setting("fp32", "What ranks send each other of gradients: fp32, or bf16 for half as many bytes.")
    learning_rate: float = setting(2e-4, "Adam's learning rate, after the warm-up.")
    warmup: int = setting(5000, "Steps over which the learning rate rises from 0.")
    weight_decay: float = setting(0.0, "AdamW's decay of matrices, times the learning rate; 0 for Adam's.")
    clip: float = setting(1.0, "Largest global norm of the gradient; 0 to leave it as it is.")
    ema: float = setting(0.9999, "Decay of the average of the weights that is sampled from.")
    average_lengths: str = setting(
        "", "Also average the weights over these shares of the training so far, such as 0.05,0.10 (EDM2)."
    )
    snapshot_every: int = setting(
        0, "Steps between snapshots of these averages, of which any length can be made later; 0 for 50 in all."
    )
    log_every: int = setting(10, "Steps between lines of metrics.jsonl.")
    validate_every: int = setting(1000, "Steps between validation losses.")
    save_every: int = setting(1000, "Steps between checkpoints.")
    keep: int = setting(0, "Checkpoints to keep beside the last one, those saved before it.")
    keep_best: bool = setting(False, "Keep the checkpoint with the least validation loss too.")
    sample_every: int = setting(10_000, "Steps between sample grids.")


@dataclass(frozen=True)
class RateConfig:
    """How the learning rate goes on after the warm-up; the rate's own options stand beside its name."""

    name: str = setting(
        "constant", "How the learning rate goes on after its warm-up: constant, linear, cosine, inverse-sqrt.", "rate"
    )
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptionsConfig:
    """The options of a part that a setting of another table names."""

    options: dict[str, Any] = field(default_factory=dict)


NAMED_IN_TRAINING = {"parametrisation": "predict", "objective": "loss", "times": "times"}
"""Tables of options, and the settings of `training` that name whose they are."""


@dataclass(frozen=True)
class WeightingConfig:
    """How much the squared error counts at each time; the weighting's own options stand beside its name."""

    name: str = setting("simple", "Weighting of the loss by time, a registered name.", "weighting")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SpacingConfig:
    """Which times are visited; the spacing's own options stand beside its name."""

    name: str = setting("trailing", "Which times the steps visit, a registered name.", "spacing")
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SamplingConfig:
    """How samples are drawn; the sampler's own options stand beside its name. The spacing has a table of its own."""

    name: str = setting("ancestral", "The sampler, a registered name.", "sampler")
    steps: int = setting(0, "Sampling steps; 0 for one per step of the chain.", "sample_steps")
    threshold: str = setting("static", "What keeps predicted images in range: static (clipping), dynamic or none.")
    percentile: float = setting(0.995, "The share of pixels that the dynamic threshold leaves unclipped.")
    count: int = setting(64, "Samples in the grids of a training run.", "sample_count")
    options: dict[str, Any] = field(default_factory=dict)
    spacing: SpacingConfig = field(default_factory=SpacingConfig)


HOLDERS = {"spacing": "sampling"}
"""Tables that are held by another: what decides how samples are drawn is handed on as one."""


@dataclass(frozen=True)
class GuidanceConfig:
    """How predictions are guided; the guidance's own options stand beside its name."""

    name: str = setting("none", "The guidance of samples, a registered name, or none.", "guide")
    options: dict[str, Any] = field(default_factory=dict)
