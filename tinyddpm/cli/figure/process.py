"""Figures of processes and data: forward, schedules, diffused, kernel, posterior."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyddpm.cli.completion import OF_SETTINGS
from tinyddpm.cli.figure.group import chart, destination, figure_command, samples_of, seed_option, wrote
from tinyddpm.cli.options import argument, command_mark, option, options, parse_assignments
from tinyddpm.cli.output import say
from tinyddpm.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tinyddpm.data.base import Dataset
    from tinyddpm.diffusion.process import GaussianProcess
    from tinyddpm.figures.line_law import Law

F = TypeVar("F", bound=Callable[..., Any])

POINTS = 2000
"""Largest number of samples of points that a figure is drawn from."""


FARTHEST = 1e6
"""Largest magnitude of a number to start from: the noise of chains that start much farther is lost in rounding."""


process_options = options(
    option("--schedule", type=OF_SETTINGS["schedule"], default="linear", show_default=True,
           help="The noise schedule, a registered name.", group="Process"),
    option("--timesteps", type=int, default=1000, show_default=True, help="Length T of the chain.",
           group="Process"),
    option("--schedule-option", "assignments", multiple=True, metavar="KEY=VALUE",
           help="An option of the schedule.", group="Process"),
)  # fmt: skip
"""The options of a process, which `_process` takes."""


def data_options(default: str) -> Callable[[F], F]:
    """Return the decorator that adds the options of a data set, which `_dataset` takes."""

    return options(
        option(
            "--data",
            type=OF_SETTINGS["data"],
            default=default,
            show_default=True,
            help="A data set's name or path.",
            group="Data",
        ),
        option(
            "--data-dir",
            type=OF_SETTINGS["data_dir"],
            help="Folder to search first for a data set that is not shipped.",
            group="Data",
        ),
        option("--image-size", help="Crop and scale images to HxW, such as 32x48; 32 is 32x32.", group="Data"),
    )


@figure_command("forward", "Samples under the forward process.")
@process_options
@seed_option
@data_options("digits")
@option("--count", type=click.IntRange(1), default=4, show_default=True, help="Number of images.", group="Data")
@option("--first", type=click.IntRange(0), default=0, show_default=True, help="Index of the first.", group="Data")
@option("--at", help="Times to show, separated by commas; nine, evenly spread, if not given.", group="Process")
def forward(
    out: Path | None, data: str, data_dir: str | None, image_size: str | None, count: int, first: int, at: str | None,
    seed: int, **process: Any,
) -> None:  # fmt: skip
    """Samples under the forward process, from x_0 to noise: a row for each image.

    Along a row the noise stays the same, and only its share grows. Fine detail disappears first. The last column must
    be noise alone. Points make one row, with all points in each picture.

    \b
    x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε,   ε ~ N(0, I)          DDPM (arXiv 2006.11239), eq. 4
    """
    import numpy as np

    from tinyddpm.backend import Purpose, Random
    from tinyddpm.figures.style import draw_tiles
    from tinyddpm.figures.tiles import forward_tiles

    path, chain, dataset = destination("forward", out), _process(**process), _dataset(data, data_dir, image_size)
    times = _times(at, chain.T) if at else np.linspace(0, chain.T - 1, 9).round().astype(int).tolist()
    n = count if len(dataset.shape) == 3 else POINTS
    x_0 = samples_of(dataset, np.arange(first, min(first + n, len(dataset))))
    eps = Random(np, seed).normal(Purpose.NOISE, 0, np.arange(len(x_0)), dataset.shape)
    draw_tiles(forward_tiles(chain, x_0, times, eps), ["$x_0$", *(f"t = {t}" for t in times)], [], path, command_mark())
    wrote(path)


@figure_command("schedules", "Noise schedules side by side.")
@argument("names", "Registered schedules.", metavar="[NAMES]...", nargs=-1, type=OF_SETTINGS["schedule"])
@option("--timesteps", type=int, default=1000, show_default=True, help="Length T of the chain.", group="Process")
@seed_option
@data_options("fashion-mini")
@option("--number", type=click.IntRange(0), default=0, show_default=True, help="Index of the image.", group="Data")
def schedules(
    out: Path | None, names: tuple[str, ...], timesteps: int, seed: int, data: str, data_dir: str | None,
    image_size: str | None, number: int,
) -> None:  # fmt: skip
    """Noise schedules side by side, NAMES or linear and cosine: curves over t/T, and one image noised by each.

    Where the curve of √ᾱ is flat, steps change little. The linear schedule loses the image long before its end, most of
    all at low resolution; the cosine schedule spreads the loss over the chain. log SNR is the noise level that a
    network sees.

    \b
    ᾱ_t = Π_s (1 − β_s),  SNR_t = ᾱ_t / (1 − ᾱ_t);  linear: DDPM (arXiv 2006.11239), section 4;
    cosine: ᾱ_t = f(t)/f(0), f(t) = cos²(π/2 (t/T + s)/(1 + s)), IDDPM (2102.09672), eq. 17
    """
    import numpy as np

    from tinyddpm.backend import Purpose, Random
    from tinyddpm.diffusion.schedule_report import curves
    from tinyddpm.diffusion.schedules import make_betas
    from tinyddpm.figures.curves import draw_schedules, schedule_tiles

    path, dataset = destination("schedules", out), _dataset(data, data_dir, image_size)
    betas = {name: make_betas(name, timesteps) for name in names or ("linear", "cosine")}
    image = samples_of(_images(dataset), np.asarray([_number(dataset, number)]))
    eps = Random(np, seed).normal(Purpose.NOISE, 0, np.arange(1), dataset.shape)
    draw_schedules(betas, path, schedule_tiles(betas, image, eps), command_mark())
    say("sqrt(alpha_bar), the share of the image that is left")
    chart({name: curves(each)["sqrt(alpha_bar)"] for name, each in betas.items()}, range(timesteps))
    wrote(path)


@figure_command("diffused", "The density of numbers over time.")
@process_options
@seed_option
@data_options("mixture-1d")
@option("--t", type=click.IntRange(0), help="Time t of the lowest panel; a quarter of the chain if not given.",
        group="Process")  # fmt: skip
def diffused(
    out: Path | None, data: str, data_dir: str | None, image_size: str | None, t: int | None, seed: int, **process: Any
) -> None:
    """How the density of numbers is diffused: the exact q(x_t) over the whole chain, with samples.

    Above: density over time, with a few single chains. Middle: histograms of samples of q(x_t) under the exact curves;
    modes merge into one standard Gaussian, whatever the data. Below, the reason: the density of x_t is that of the
    shrunk data, convolved with a Gaussian that widens. Data are numbers, points of shape (n, 1). q(x_0) is known for
    `mixture-1d`; for other data it is the empirical law of the points.

    \b
    q(x_t) = ∫ q(x_0) N(x_t; √ᾱ_t x_0, 1 − ᾱ_t) dx_0          DDPM (arXiv 2006.11239), eq. 4
    """
    from tinyddpm.figures.process import PATHS, diffusion, draw_diffused, reach
    from tinyddpm.figures.terminal import shade_chart

    path, chain = destination("diffused", out), _process(**process, exact=True)
    law, points = _law(data, _dataset(data, data_dir, image_size))
    found = diffusion(chain, law, points[:PATHS], reach(points), seed)
    at = None if t is None else _time(t, chain.T)
    draw_diffused(chain, law, points, found, path, t=at, seed=seed, mark=command_mark())
    say("density of x_t")
    say(*shade_chart(found.densities, (found.x[0], found.x[-1]), found.brightest, chain.T).split("\n"))
    wrote(path)


@figure_command("kernel", "The chain against its closed form.")
@process_options
@seed_option
@option("--x0", "x_0", type=float, default=1.5, show_default=True, help="Start of the chains.", group="Process")
@option("--count", type=click.IntRange(2), default=4000, show_default=True, help="Number of chains.", group="Process")
def kernel(out: Path | None, x_0: float, count: int, seed: int, **process: Any) -> None:
    """The chain, step by step, against its closed form: moments and histograms of many chains that start at one number.

    The dots of the chains must lie on the curves of the closed form within their error bars, and the histograms under
    their densities. So x_t can be drawn for any t at once, which makes training cheap.

    \b
    q(x_t | x_{t-1}) = N(√(1 − β_t) x_{t-1}, β_t)  ⇒  q(x_t | x_0) = N(√ᾱ_t x_0, 1 − ᾱ_t)
    DDPM (arXiv 2006.11239), eqs. 2 and 4
    """
    from tinyddpm.figures.process import draw_kernel
    from tinyddpm.figures.process import kernel as chains

    path, chain = destination("kernel", out), _process(**process, exact=True)
    found = chains(chain, _start("--x0", x_0), count, seed)
    draw_kernel(found, x_0, path, command_mark())
    say("standard deviation of x_t")
    chart({"closed form": found.noise, "chains": found.chains.std(axis=0)}, range(chain.T))
    wrote(path)


@figure_command("posterior", "The step back, exact and Gaussian.")
@process_options
@data_options("mixture-1d")
@option("--t", type=click.IntRange(2), help="The time of x_t; half of the chain if not given.", group="Process")
@option("--xt", "x_t", type=float, default=-0.1, show_default=True, help="The number to step back from.",
        group="Process")  # fmt: skip
def posterior(
    out: Path | None, data: str, data_dir: str | None, image_size: str | None, t: int | None, x_t: float,
    **process: Any,
) -> None:  # fmt: skip
    """The step back: coefficients and variance of q(x_{t−1}|x_t, x_0), and for numbers the exact q(x_s|x_t).

    Above: near the data the mean depends mostly on x_0, elsewhere on x_t; β and β̃ are nearly the same. Below: over one
    step the exact density is close to the Gaussian that DDPM steps with, at the mean x_0. Over a long step it has
    several modes, which no variance of a Gaussian can give. So sampling takes many steps, or a solver of an ODE.

    \b
    q(x_{t−1}|x_t, x_0) = N(c_0 x_0 + c_t x_t, β̃_t)          DDPM (arXiv 2006.11239), eqs. 6 and 7
    q(x_s|x_t) ∝ q(x_t|x_s) q(x_s)                           Bayes' rule
    """
    import numpy as np

    from tinyddpm.diffusion.process import posterior_coefficients
    from tinyddpm.figures.process import draw_posterior

    path, chain = destination("posterior", out), _process(**process, exact=True)
    law, _ = _law(data, _dataset(data, data_dir, image_size))
    x_t = _start("--xt", x_t)
    draw_posterior(chain, law, x_t, chain.T // 2 if t is None else _time(t, chain.T), path, command_mark())
    c = posterior_coefficients(chain.alpha_bar, np.append(1.0, chain.alpha_bar[:-1]))
    say("coefficients of the posterior's mean")
    chart({"of x_0": c.c_0, "of x_t": c.c_t}, range(chain.T))
    wrote(path)


def _process(schedule: str, timesteps: int, assignments: tuple[str, ...], exact: bool = False) -> GaussianProcess:
    """Return the process of a schedule on NumPy; in float64 with `exact`, else in float32."""
    import numpy as np

    from tinyddpm.backend import load_backend
    from tinyddpm.diffusion.process import GaussianProcess
    from tinyddpm.diffusion.schedules import make_betas

    betas = make_betas(schedule, timesteps, **parse_assignments(assignments, depth=1))
    return GaussianProcess(load_backend("numpy"), betas, np.float64 if exact else None)


def _dataset(data: str, data_dir: str | None, image_size: str | None) -> Dataset:
    from tinyddpm.data import open_dataset, parse_size

    return open_dataset(data, data_dir=data_dir, image_size=parse_size(image_size) if image_size else None)


def _number(dataset: Dataset, number: int) -> int:
    if number >= len(dataset):
        raise ConfigError(f"{dataset.description}: there is no number {number}, the last is {len(dataset) - 1}")
    return number


def _start(flag: str, x: float) -> float:
    if not abs(x) <= FARTHEST:
        raise ConfigError(f"{flag} is {x:g}: give a number from {-FARTHEST:,.0f} to {FARTHEST:,.0f}")
    return x


def _law(data: str, dataset: Dataset) -> tuple[Law, NDArray[np.float64]]:
    """Return the law of a data set of numbers, exact for `mixture-1d` and else empirical, and samples of it (n, 1)."""
    import numpy as np

    from tinyddpm.data.base import spread
    from tinyddpm.data.planes import mixture_1d_parameters
    from tinyddpm.figures.line_law import Law, law_of_points

    if data == "mixture-1d":
        weights, means, variances = mixture_1d_parameters()
        points = dataset.read(np.arange(len(dataset))).astype(np.float64)
        return Law(weights, means[:, 0], variances[:, 0, 0]), points
    points = dataset.read(spread(dataset, POINTS)).astype(np.float64)
    return law_of_points(points), points


def _times(text: str, T: int) -> list[int]:
    """Return the times in a text such as "0,100,999".

    Raises:
        ConfigError: one of them is not a time of the chain.
    """
    try:
        times = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--at {text!r}: give times from 0 to {T - 1}, separated by commas") from None
    return [_time(t, T) for t in times]


def _time(t: int, T: int) -> int:
    from tinyddpm.diffusion.process import checked_time

    return checked_time(t, T)


def _images(dataset: Dataset) -> Dataset:
    if len(dataset.shape) != 3:
        raise ConfigError(f"{dataset.description}: this figure is of images")
    return dataset
