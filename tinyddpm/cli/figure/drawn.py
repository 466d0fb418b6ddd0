"""Figures of samples of a trained model: denoising, content-detail, guidance, steps, straightness, text-attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count as counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyddpm.cli.completion import OF_SETTINGS, RunPath
from tinyddpm.cli.figure.group import chart, destination, figure_command, run_argument, wrote
from tinyddpm.cli.options import argument, command_mark, option
from tinyddpm.cli.output import say
from tinyddpm.cli.sample import drawing_params
from tinyddpm.cli.trained import Chosen, open_model, wished_in_turn
from tinyddpm.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tinyddpm.model.tables import GuidanceConfig, SamplingConfig

F = TypeVar("F", bound=Callable[..., Any])


def count_option(default: int, text: str) -> Callable[[F], F]:
    """Return the decorator that adds `--count`."""
    return option("--count", type=click.IntRange(1), default=default, show_default=True, help=text, group="Samples")


def drawing_options(*without: str) -> Callable[[click.Command], click.Command]:
    """Return the decorator that adds the options of `sample` on what is drawn and how, except those named `without`."""
    own = drawing_params("classes", "prompts", "prompts_file", "embeddings", "seed", "batch_size")

    def decorate(command: click.Command) -> click.Command:
        command.params += [given for given in own if given.name not in without]
        return command

    return decorate


class Drawer:
    """A trained model, and the settings of the samples that a command draws.

    Args:
        checkpoint: a file or a run folder.
        count: number of samples, with indices from 0.
        seed, batch_size, raw, given: the options of `drawing_options`.
    """

    def __init__(self, checkpoint: Path, count: int, *, seed: int, batch_size: int, raw: bool, **given: Any) -> None:
        import numpy as np

        from tinyddpm.figures.marks import checkpoint_of

        chosen = Chosen.taken(given)
        self.model, self.weights, loaded = open_model(checkpoint, raw, **given)
        self.mark = command_mark(checkpoint_of(checkpoint, loaded, raw))
        self.sampling, self.guidance = chosen.sampling(self.model.config), chosen.guidance(self.model.config)
        self.seed, self.batch_size, self.numbers = seed, batch_size, np.arange(count)
        self.asked = wished_in_turn(self.model, chosen.wish(self.model), self.numbers)

    def rows(self, variants: dict[str, tuple[SamplingConfig, GuidanceConfig]]) -> NDArray[np.uint8]:
        """Return pictures of the same samples, drawn in several ways, shape (rows, columns, H, W, C).

        Images make a row for each way, points one row with a picture for each way.

        Raises:
            DataError: the samples cannot be drawn, such as points of three dimensions.
        """
        import numpy as np

        from tinyddpm.figures.points import point_picture
        from tinyddpm.model.sampling import draw
        from tinyddpm.progress import Progress

        progress, text = Progress(), f"drawing {len(self.numbers)} samples"
        drawn = [
            draw(
                self.model, self.weights, self.numbers, self.asked, seed=self.seed, sampling=sampling,
                guidance=guidance, batch_size=self.batch_size,
                watch=lambda done, steps: progress.update(done, steps, text),
            ).values
            for sampling, guidance in variants.values()
        ]  # fmt: skip
        progress.close()
        return np.stack(drawn) if self.model.is_image else np.stack([point_picture(points) for points in drawn])[None]

    def draw_rows(self, variants: dict[str, tuple[SamplingConfig, GuidanceConfig]], path: Path) -> None:
        """Write the figure of the same samples, drawn in several ways, with a name for each row or picture."""
        from tinyddpm.figures.style import draw_tiles

        tiles = self.rows(variants)
        names, beside = [*variants], self.model.is_image
        draw_tiles(tiles, [] if beside else names, names if beside else [], path, self.mark)


@drawing_options()
@figure_command("denoising", "x_t and the predicted x_0 along the chain.")
@run_argument
@count_option(3, "Number of samples.")
@option("--columns", type=click.IntRange(2), default=10, show_default=True, help="Number of moments.", group="Samples")
def denoising(out: Path | None, checkpoint: Path, count: int, columns: int, **given: Any) -> None:
    """Samples during denoising: x_t above, and below it the x_0 that the network predicts from it.

    The first predictions are blurred, the mean of all images that x_t may become; outlines settle early, detail late.
    If predictions jump from step to step, the steps are too long or the network is too weak. For points, each picture
    shows all samples.

    \b
    x_0(x_t, t) = (x_t − √(1 − ᾱ_t) ε_θ(x_t, t)) / √ᾱ_t          DDPM (arXiv 2006.11239), eq. 15, figure 6
    """
    from tinyddpm.figures import denoising as figures

    path, drawer = destination("denoising", out), Drawer(checkpoint, count, **given)
    found = figures.denoising(
        drawer.model, drawer.weights, drawer.numbers, drawer.asked, seed=drawer.seed, sampling=drawer.sampling,
        guidance=drawer.guidance, columns=columns,
    )  # fmt: skip
    figures.draw_denoising(found, path, drawer.mark)
    wrote(path)


@drawing_options("sampler")
@figure_command("content-detail", "Samples that share the chain down to t.")
@run_argument
@option("--starts", type=click.IntRange(1), default=4, show_default=True,
        help="Number of x_T over which the distance is averaged.", group="Samples")  # fmt: skip
@option("--endings", "count", type=click.IntRange(2), default=5, show_default=True,
        help="Number of samples drawn from each x_t.", group="Samples")  # fmt: skip
@option("--leave", type=click.IntRange(2), default=7, show_default=True, help="Number of times t of shared x_t.",
        group="Samples")  # fmt: skip
def content_detail(out: Path | None, checkpoint: Path, starts: int, count: int, leave: int, **given: Any) -> None:
    """Samples that share the chain down to x_t and then differ: their common features are settled at t.

    Left, a row for each t: the shared x_t, and samples drawn from it. Samples that share most of the chain differ in
    detail only, others in content too. Right: the distance between two samples from one x_t, averaged over all starts;
    where the curve is steep, much is decided. The sampler is DDPM's: its samples differ by the noise of its steps.
    Distances are in levels of 255.

    \b
    x_0 ~ p_θ(x_0 | x_t)          DDPM (arXiv 2006.11239), section 4.3 and figure 7
    """
    from tinyddpm.backend import Purpose
    from tinyddpm.conditions import some
    from tinyddpm.figures.content import branches, draw_endings, endings, leaving_times
    from tinyddpm.progress import Progress
    from tinyddpm.samplers import make_sampler

    path, drawer = destination("content-detail", out), Drawer(checkpoint, starts, sampler="ancestral", **given)
    model = drawer.model
    if not model.is_image:
        raise ConfigError(f"{checkpoint} draws samples of shape {model.sample_shape}: this figure is of images")
    pairs = model.pairs(drawer.sampling)
    times = leaving_times(pairs, leave)
    chains = branches(times, starts, count)
    random, shape, done, progress = model.backend.random(drawer.seed), model.sample_shape, counter(1), Progress()
    with model.backend.scope():
        found = endings(
            model.process,
            model.denoiser(drawer.weights, some(drawer.asked, chains.start), drawer.sampling, drawer.guidance),
            make_sampler(drawer.sampling.name, **drawer.sampling.options),
            pairs,
            times,
            (starts, count),
            random.normal(Purpose.SAMPLE_START, 0, chains.start, shape),
            lambda t, numbers: random.normal(Purpose.SAMPLE_STEP, t, numbers, shape),
            chains,
            lambda step: progress.update(next(done), len(pairs), f"drawing {len(chains.own)} samples"),
        )
    progress.close()
    unit = 127.5
    draw_endings(found, unit, path, drawer.mark)
    say("RMSE between two samples, by the time t to which they share the chain")
    chart({"endings": unit * found.distance[::-1]}, times[::-1])
    wrote(path)


@drawing_options("scale", "guide")
@figure_command("guidance", "The same noise at several scales of guidance.")
@run_argument
@count_option(10, "Number of samples.")
@option("--scales", default="1,1.5,2,4,8", show_default=True, help="Scales, separated by commas.", group="Samples")
@option(
    "--guide",
    type=OF_SETTINGS["guide"],
    help="The guidance: cfg, auto or another registered name; if not given, the run's own, or cfg.",
    group="Samples",
)
def guidance(
    out: Path | None, checkpoint: Path, count: int, scales: str, guide: str | None,
    guide_assignments: tuple[str, ...], **given: Any,
) -> None:  # fmt: skip
    """The same samples, from the same noise and condition, at several scales of guidance: a row for each scale.

    With a larger scale, samples become clearer instances of their class or prompt, and more alike; at the largest,
    contrast is too hard. The model must be trained for guidance (--condition-dropout).

    \b
    ε = ε_θ(x_t) + w (ε_θ(x_t, c) − ε_θ(x_t))          classifier-free guidance (arXiv 2207.12598), eq. 6; 1 is none
    """
    path, drawer = destination("guidance", out), Drawer(checkpoint, count, **given)
    ways = {
        f"w = {scale:g}": (
            drawer.sampling,
            Chosen(guide=guide, scale=scale, guide_assignments=guide_assignments).guidance(drawer.model.config),
        )
        for scale in _numbers(scales, float, "--scales")
    }
    drawer.draw_rows(ways, path)
    wrote(path)


@drawing_options("sample_steps")
@figure_command("steps", "The same noise in fewer and fewer steps.")
@run_argument
@count_option(10, "Number of samples.")
@option("--steps", "numbers", default="5,10,20,50,0", show_default=True, env=False,
        help="Numbers of steps, separated by commas, at most those of the chain; 0 is the whole chain.",
        group="Samples")  # fmt: skip
def steps(out: Path | None, checkpoint: Path, count: int, numbers: str, **given: Any) -> None:
    """Samples from the same noise in fewer and more steps: a row for each number of steps.

    A deterministic sampler (ddim, dpmpp-2m, unipc) draws the same samples in every row, up to the error of its steps:
    once more steps change nothing, they are enough. A stochastic sampler draws other samples in each row.

    \b
    dx/dt of the probability flow, which deterministic samplers follow: DDIM (arXiv 2010.02502), eq. 14
    """
    path, drawer = destination("steps", out), Drawer(checkpoint, count, **given)
    T = drawer.model.process.T
    ways = {
        f"{n} steps" if n < T else f"all {T}": (replace(drawer.sampling, steps=n), drawer.guidance)
        for n in (min(n or T, T) for n in _numbers(numbers, int, "--steps"))
    }
    drawer.draw_rows(ways, path)
    wrote(path)


@drawing_options("sampler", "sample_steps", "assignments")
@figure_command("straightness", "How straight the paths from noise to data are.")
@argument("runs", "Checkpoints, or run folders.", metavar="RUN...", nargs=-1, required=True, type=RunPath())
@count_option(64, "Number of samples to average over.")
@option("--steps", "number", type=click.IntRange(1), default=100, show_default=True, env=False, group="Samples",
        help="Steps of Heun's method along the flow, at most those of the chain.")  # fmt: skip
def straightness(out: Path | None, runs: tuple[Path, ...], count: int, number: int, **given: Any) -> None:
    """How far the paths of the probability flow are from straight lines, in rectified flow's coordinates.

    Where the curve is 0, a path has the slope of the straight line from its noise to its sample, and steps may be long;
    where it is high, steps should be short. S, the mean over τ, is 0 if one Euler step draws the same sample as many.
    The exact flow for independent noise and data is not straight: for a Gaussian of standard deviation s it has
    S = (2 − π/2) s. It depends on the data, and not on schedule or prediction, so runs on the same data differ only in
    what they have learned. Threshold and guidance are the run's own.

    \b
    z = x_t / (α + σ) = (1 − τ) x_0 + τ ε,  dz/dτ = ε_θ − x_θ,  α = √ᾱ_t,  σ = √(1 − ᾱ_t)
    S(Z) = ∫ E ‖(Z_1 − Z_0) − dZ_τ/dτ‖² dτ, per dimension          rectified flow (arXiv 2209.03003), section 2.2
    """
    from tinyddpm.figures import straightness as figures
    from tinyddpm.figures.panels import draw_charts
    from tinyddpm.figures.terminal import legend, shows_braille, text_chart
    from tinyddpm.progress import Progress
    from tinyddpm.report.metrics import run_names

    path, found, checkpoints = destination("straightness", out), {}, {}
    for name, run in run_names(runs).items():
        drawer = Drawer(run, count, sampler="heun", assignments=("over=tau",), **given)
        progress, text = Progress(), f"following {count} samples of {name}"
        found[name] = figures.straightness(
            drawer.model, drawer.weights, drawer.numbers, drawer.asked, seed=drawer.seed,
            sampling=replace(drawer.sampling, steps=min(number, drawer.model.process.T)), guidance=drawer.guidance,
            batch_size=drawer.batch_size, watch=partial(progress.update, text=text),
        )  # fmt: skip
        progress.close()
        checkpoints[name] = drawer.mark["checkpoint"]
    curves = figures.straightness_chart(found)
    draw_charts([curves], path, command_mark() | {"checkpoints": checkpoints})
    say(curves.title, *text_chart(curves), legend([*found], shows_braille(len(found), colour=False)))
    for name, paths in found.items():
        total, error = paths.total.mean(), paths.total.std() / len(paths.total) ** 0.5
        say(f"S = {total:.4f} ± {error:.4f}, {total / paths.line.mean():.1%} of the mean square of Z₁ − Z₀: {name}")
    wrote(path)


@drawing_options("prompts", "prompts_file", "classes", "embeddings")
@figure_command("text-attention", "The attention of pixels to the words of a prompt.")
@run_argument
@option("--prompt", required=True, help="The caption to draw.", group="Samples")
@count_option(3, "Number of samples.")
@option("--moments", "columns", type=click.IntRange(2), default=10, show_default=True,
        help="Number of moments of the denoising to average over.", group="Samples")  # fmt: skip
def text_attention(out: Path | None, checkpoint: Path, prompt: str, count: int, columns: int, **given: Any) -> None:
    """The attention of pixels to the words of a caption while it is drawn, for a U-Net trained with captions.

    Beside each image is a map for each word: the attention weight of its tokens, averaged over heads, layers and
    moments, each map on its own scale. Below: the share of each word over time, averaged over all pixels. "(start)" is
    the token before the first word. If tokens are attended to beside the pixels (network.text=concat), the rest of
    100 % is attention to pixels. Attention is not explanation: the text's own transformer also passes a word on to
    other tokens.

    \b
    P = softmax(Q Kᵀ / √d)          Vaswani et al. (arXiv 1706.03762), eq. 1; maps as in Hertz et al. (2208.01626)
    """
    import numpy as np

    from tinyddpm.figures import attention as figures
    from tinyddpm.figures.denoising import denoising as denoised

    path = destination("text-attention", out)
    drawer = Drawer(checkpoint, count, prompts=(prompt,), **given)
    model = drawer.model
    spans = figures.word_spans(model.condition, prompt)
    found = denoised(
        model, drawer.weights, drawer.numbers, drawer.asked, seed=drawer.seed, sampling=drawer.sampling,
        guidance=drawer.guidance, columns=columns,
    )  # fmt: skip
    denoiser = model.network_denoiser(drawer.weights, drawer.asked)
    maps = [
        figures.attention_to_tokens(denoiser, model.condition, model.backend.asarray(x_t), t)
        for t, x_t in zip(found.t, found.x_t, strict=True)
    ]
    looked = figures.WordAttention([*spans], found.t, figures.by_word(np.stack(maps), spans), found.samples)
    figures.draw_attention(looked, path, drawer.mark)
    for word, share in zip(looked.words, looked.maps.mean(axis=(0, 1, 2, 3)), strict=True):
        say(f"{100 * share:6.1f} %  {word}")
    wrote(path)


def _numbers(text: str, kind: type[int] | type[float], flag: str) -> list[Any]:
    """Return the numbers in a text such as "1,2,4".

    Raises:
        ConfigError: one of them is no number of this type, or is below 0.
    """
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = [-1]
    if min(found) < 0:
        what = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{flag} {text!r}: give {what} from 0 on, separated by commas")
    return found
