"""PyTorch as a peer of `tinyddpm bench`: diffusers' UNet2DModel where it has an equal, else the tests' own twin."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import nullcontext
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where `helpers` lies, which pytest knows by itself

from helpers.torch_unet import ResidualBlock, TorchUNet, load_weights, store_weights
from tinyddpm import registry
from tinyddpm.backend import Backend, Purpose
from tinyddpm.bench.task import Task
from tinyddpm.data.base import Dataset
from tinyddpm.data.batching import batch_indices
from tinyddpm.diffusion.process import posterior_coefficients
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.errors import BackendError, ConfigError
from tinyddpm.nn.unet import UNet
from tinyddpm.ops.images import flip_horizontally, to_model
from tinyddpm.training.assembly import make_trainer, open_data
from tinyddpm.training.rates import rate_at

WARM_UP = 3
"""Steps before a race, of which nothing remains: libraries choose their kernels in them, or compile."""


def variants(task: Task, compiled: bool) -> list[str]:
    """Return eager and channels-last, in float32 and under bfloat16 autocast, and if asked for the compiled ones.

    On a GPU float32 is TF32, and CUDA graphs are of bfloat16 alone.
    """
    config = task.config
    if config.network.name != "unet":
        raise ConfigError(f"the Torch peer has no network {config.network.name!r}, only 'unet': leave --peer out")
    if config.training.weight_decay:
        raise ConfigError("the Torch peer trains by Adam without decay: give --weight-decay 0, or leave --peer out")
    if config.sampling.name != "ancestral" or config.guidance.name != "none":
        raise ConfigError(
            "the Torch peer draws by DDPM's sampler without guidance, one evaluation a step: give --sampler ancestral "
            "--guide none, or leave --peer out"
        )
    if task.gpu and not torch.cuda.is_available():
        raise BackendError(f"the Torch peer cannot use {task.gpu}: Torch {torch.__version__} finds no GPU")
    if task.gpu:
        eager = [f"{precision} {layout}" for precision in ("tf32", "bf16") for layout in ("eager", "channels_last")]
        return eager + (["tf32 compile", "bf16 compile", "bf16 compile reduce-overhead"] if compiled else [])
    return ["eager", "channels_last", "bf16 channels_last", *(["compile"] if compiled else [])]


class TorchContestant:
    """The steps of DDPM's Algorithms 1 and 2 as one writes them in PyTorch, with its fastest stock parts.

    Its network is what `make_network` returns, or what is given.
    """

    def __init__(self, task: Task, variant: str, network: tuple[nn.Module, str] | None = None) -> None:
        torch.set_num_threads(task.threads)
        torch.manual_seed(task.config.seed)
        training = task.config.training
        height, width, channels = task.sample_shape
        self.net, self.network = network or make_network(task)
        self.parameters = sum(parameter.numel() for parameter in self.net.parameters())
        self.device = torch.device(task.gpu or "cpu")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "tf32" in variant
        torch.backends.cudnn.benchmark = True
        self.format = torch.contiguous_format if "eager" in variant else torch.channels_last
        self.net.to(self.device, memory_format=self.format)
        self.bf16 = "bf16" in variant
        self.predict: Any = self.net
        if "compile" in variant:
            if not (shutil.which("g++") or shutil.which("clang++")):
                raise BackendError("torch.compile needs a C++ compiler: install g++")
            self.predict = torch.compile(self.net, mode="reduce-overhead" if "reduce-overhead" in variant else None)

        shape = (task.batch_size, channels, height, width)
        self.x_0 = self._formatted(torch.rand(shape, device=self.device) * 2 - 1)
        self.x = self._formatted(torch.randn(shape, device=self.device))
        label = torch.arange(task.batch_size, device=self.device) % max(1, task.classes)
        self.label = label if task.classes else None
        betas = make_betas(task.config.schedule.name, task.config.schedule.timesteps, **task.config.schedule.options)
        self.alpha_bar = np.cumprod(1 - betas)
        tables = self.alpha_bar**0.5, (1 - self.alpha_bar) ** 0.5
        self.signal, self.noise = (torch.tensor(table, dtype=torch.float32, device=self.device) for table in tables)
        self.variance = task.config.sampling.options.get("variance", "large")
        self.t = len(betas) - 1

        self.weights = list(self.net.parameters())
        self.learning_rate, self.clip, self.decay = training.learning_rate, training.clip, training.ema
        self.begin()

    def begin(self) -> None:
        """Begin to train: the average is of these weights, and Adam has seen no gradient."""
        self.ema = [weight.detach().clone() for weight in self.weights]
        self.adam = torch.optim.Adam(self.weights, lr=self.learning_rate, fused=True)

    def train_step(self) -> None:
        """Algorithm 1."""
        t = torch.randint(len(self.alpha_bar), self.x_0.shape[:1], device=self.device)
        self.learn(self.x_0, self.label, t, torch.randn_like(self.x_0))

    def learn(self, x_0: Tensor, label: Tensor | None, t: Tensor, eps: Tensor) -> None:
        """Learn from samples at given times with given noise: forward, backward, clipping, Adam, average."""
        self._mode(training=True)
        x_t = self.noised(x_0, t, eps)
        with self._precision():
            loss = functional.mse_loss(self.predict(x_t, t, label).float(), eps)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.weights, self.clip, foreach=True)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.weights, 1 - self.decay)
        self._wait()

    def noised(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = √alpha_bar_t x_0 + √(1 − alpha_bar_t) eps."""
        return self.signal[t, None, None, None] * x_0 + self.noise[t, None, None, None] * eps

    def denoise_step(self) -> None:
        """One step of Algorithm 2, on a chain that begins again at its end."""
        self._mode(training=False)
        with torch.inference_mode():
            t = torch.full(self.x.shape[:1], self.t, device=self.device)
            with self._precision():
                eps = self.predict(self.x, t, self.label).float()
            self.x = self.previous(self.x, self.t, eps, torch.randn_like(self.x))
        self.t = self.t - 1 if self.t > 0 else len(self.alpha_bar) - 1
        self._wait()

    def previous(self, x_t: Tensor, t: int, eps: Tensor, noise: Tensor) -> Tensor:
        """x_{t-1}: the posterior at the predicted x_0, clipped to the range of images."""
        alpha_bar, alpha_bar_prev = float(self.alpha_bar[t]), float(self.alpha_bar[t - 1]) if t else 1.0
        x_0 = ((x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5).clamp(-1, 1)
        c = posterior_coefficients(alpha_bar, alpha_bar_prev)
        mean = c.c_0 * x_0 + c.c_t * x_t
        variance = c.beta if self.variance == "large" else c.beta_tilde
        return mean + variance**0.5 * noise if t else mean

    def describe(self) -> str:
        place = f"cpu ({torch.backends.cpu.get_cpu_capability()}, threads: {torch.get_num_threads()})"
        if self.device.type == "cuda":
            place = f"{self.device} ({torch.cuda.get_device_name(self.device)}), cuDNN {torch.backends.cudnn.version()}"
        return f"torch {torch.__version__} on {place}, {self.network}, Adam fused"

    def gpu_memory(self) -> int:
        """The most bytes held by the allocator, as ours counts them, in one more training step: without what cuDNN
        tried at the first."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        self.train_step()
        return torch.cuda.max_memory_reserved(self.device)

    def _wait(self) -> None:
        """A step is done when the GPU is."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _mode(self, training: bool) -> None:
        if self.net.training != training:
            self.net.train(training)

    def _formatted(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.format)

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()


make = TorchContestant


def make_network(task: Task) -> tuple[nn.Module, str]:
    """A module of (x_t, t, label) with as many parameters as ours, and which it is, with the reason for a twin."""
    options = {name: option.default for name, option in registry.options(UNet).items()} | task.config.network.options
    net = diffusers_network(task, options)
    if net is not None and sum(parameter.numel() for parameter in net.parameters()) == task.parameters:
        groups = options["channels"] // 4
        note = "" if groups >= 32 else f", {groups} groups in every norm where ours grow with the channels"
        return net, f"diffusers {version('diffusers')} UNet2DModel{note}"
    reason = "diffusers cannot be imported" if unet_of_diffusers() is None else "diffusers has no equal"
    return Twin(task, options), f"the tests' TorchUNet ({reason})"


class TorchRacer(TorchContestant):
    """The twin in a race with us (examples/race.py): it learns what we learn, from the same start.

    Weights, batches, times, noise and rates are ours. They are drawn off the clock. Held-out losses are of its average
    in float32, on our held-out samples at our times and noise.
    """

    def __init__(self, task: Task, variant: str) -> None:
        options = {name: option.default for name, option in registry.options(UNet).items()}
        if task.config.transforms or task.config.data.balance != "none":
            raise ConfigError(
                "the Torch peer learns from data as they are: leave transforms and --balance out of a race"
            )
        super().__init__(task, variant, (Twin(task, options | task.config.network.options), "the tests' TorchUNet"))
        # The plain backend: the one of NumPy changes how the process keeps freed memory.
        self.trainer = make_trainer(task.config, Backend(xp, "cpu"), open_data(task.config))
        self.config, self.step = task.config, 0
        self.random = self.trainer.model.backend.random(self.config.seed)
        for _ in range(WARM_UP):
            self.train_step()
        layout = self.trainer.model.layout
        load_weights(self.net, layout.views(layout.initialise(self.config.seed), xp))
        self.begin()

    def train_for(self, seconds: float) -> tuple[float, int]:
        """Train for so long, at least one step; return the seconds it took and the number of steps."""
        spent, first, training = 0.0, self.step, self.config.training
        while self.step == first or spent < seconds:
            batch = self._batch()
            began = time.perf_counter()
            for group in self.adam.param_groups:
                group["lr"] = rate_at(self.trainer.learning_rates, self.step)
            self.decay = min(training.ema, (1 + self.step) / (10 + self.step))
            self.learn(*batch)
            spent += time.perf_counter() - began
            self.step += 1
        return spent, self.step - first

    def held_out_loss(self) -> float:
        """See `Trainer.validation_loss`."""
        held_out, total = self.trainer.held_out, 0.0
        ema = dict(zip((name for name, _ in self.net.named_parameters()), self.ema, strict=True))
        self._mode(training=False)
        for start in range(0, len(held_out), self.config.training.batch_size):
            places = np.arange(start, min(start + self.config.training.batch_size, len(held_out)))
            t = self.random.integers(Purpose.VALIDATION_TIME, 0, places, (), len(self.alpha_bar))
            eps = self.random.normal(Purpose.VALIDATION_NOISE, 0, places, held_out.shape)
            x_0, label, at, noise = self._tensors(held_out, places, to_model(held_out.read(places)), t, eps)
            with torch.inference_mode():
                said = functional_call(self.net, ema, (self.noised(x_0, at, noise), at, label))
                total += float(functional.mse_loss(said, noise)) * len(places)
        return total / len(held_out)

    def save(self, path: Path) -> None:
        """Write a checkpoint of ours: weights, their average, Adam's moments."""
        adam = [self.adam.state[weight] for weight in self.weights]
        moments = ([state[name] for state in adam] for name in ("exp_avg", "exp_avg_sq"))
        layout = self.trainer.model.layout
        for buffer, values in zip(self.trainer.state[:4], (self.weights, self.ema, *moments), strict=True):
            store_weights(self.net, values, layout.views(buffer, xp))
        self.trainer.step = self.step
        self.trainer.save(path, {})

    def _batch(self) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return what we learn from in this step: samples, labels, times, noise."""
        train, batch_size = self.trainer.train, self.config.training.batch_size
        slots = np.arange(batch_size)
        places = batch_indices(len(train), batch_size, self.step, self.config.seed)
        x_0 = to_model(train.read(places))
        if self.config.data.flip:
            x_0 = flip_horizontally(x_0, self.random.uniform(Purpose.FLIP, self.step, slots, ()) < 0.5)
        t, _ = self.trainer.law.draw(self.random, self.step, slots)
        eps = self.random.normal(Purpose.NOISE, self.step, slots, train.shape)
        return self._tensors(train, places, x_0, t, eps)

    def _tensors(
        self, dataset: Dataset, places: Any, x_0: Any, t: Any, eps: Any
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        label = torch.from_numpy(dataset.labels[places]) if self.trainer.model.classes else None
        images = (self._formatted(torch.from_numpy(image).permute(0, 3, 1, 2)) for image in (x_0, eps))
        x_0, eps = images
        return x_0, label, torch.from_numpy(t), eps


class Diffusers(nn.Module):
    """UNet2DModel, called as ours is."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.net = unet_of_diffusers()(**settings)

    def forward(self, x: Tensor, t: Tensor, label: None) -> Tensor:
        return self.net(x, t, return_dict=False)[0]


@cache
def unet_of_diffusers() -> Any:
    """Return UNet2DModel, whose import takes seconds, or None where it cannot be imported."""
    try:
        from diffusers import UNet2DModel
    except (ImportError, RuntimeError):  # diffusers raises the latter where a package that it uses is broken
        return None
    return UNet2DModel


def diffusers_network(task: Task, options: dict[str, Any]) -> Diffusers | None:
    """UNet2DModel with these options, or None where it has no equal."""
    channels = options["channels"]
    if task.classes or options["adaptive"] or options["heads"] != 1 or channels % 4 or unet_of_diffusers() is None:
        return None
    height, width, image_channels = task.sample_shape
    widths = [channels * multiplier for multiplier in options["multipliers"]]
    attends = [max(height, width) >> level in options["attention"] for level in range(len(widths))]
    return Diffusers(
        sample_size=(height, width),
        in_channels=image_channels,
        out_channels=image_channels,
        block_out_channels=widths,
        layers_per_block=options["blocks"],
        down_block_types=["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        up_block_types=["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        attention_head_dim=None,
        norm_num_groups=min(32, channels // 4),
        norm_eps=1e-6,
        dropout=options["dropout"],
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )


class DroppingConv(nn.Conv2d):
    """A convolution of what dropout leaves; its parameters have the names of a plain one."""

    rate = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.dropout(x, self.rate, self.training))


class Twin(TorchUNet):
    """The tests' twin, with Torch's own dropout."""

    def __init__(self, task: Task, options: dict[str, Any]) -> None:
        super().__init__(task.sample_shape, task.classes, task.sample_shape[-1], **options)
        for block in self.modules():
            if isinstance(block, ResidualBlock) and options["dropout"]:
                channels = block.conv_2.out_channels
                block.conv_2 = DroppingConv(channels, channels, 3, padding=1)
                block.conv_2.rate = options["dropout"]

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:  # type: ignore[override]
        return super().forward(x, t, label, None)
