"""Figures of measurements of a trained model: single-step, loss-by-time, rate-distortion, vae."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tinyddpm.cli.completion import OF_SETTINGS
from tinyddpm.cli.figure.group import chart, destination, figure_command, run_argument, samples_of, seed_option, wrote
from tinyddpm.cli.options import command_mark, option, options
from tinyddpm.cli.output import say
from tinyddpm.cli.trained import machine_options, open_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tinyddpm.cli.measurement import Measurement
    from tinyddpm.diffusion.bound import Bound

F = TypeVar("F", bound=Callable[..., Any])

LARGEST, MOST = 1024, 4000
"""Largest dimension, and largest number, of the samples from which the best linear prediction is computed."""


def measure_options(default: int) -> Callable[[F], F]:
    """Return the decorator that adds the options of a measurement, which `Measured` takes."""

    return options(
        option("--data", type=OF_SETTINGS["data"], help="A data set's name or path; the run's own if not given.",
               group="Data"),
        option("--data-dir", type=OF_SETTINGS["data_dir"],
               help="Folder to search first for a data set that is not shipped.", group="Data"),
        option("--split", help="Part of the data, such as train, test or held-out; test where there is one.",
               group="Data"),
        option("--count", type=click.IntRange(2), default=default, show_default=True,
               help="Samples, spread evenly over the data.", group="Data"),
        option("--batch-size", type=click.IntRange(1), default=64, show_default=True,
               help="Samples computed at once: changes memory, and the rounding of sums.", group="Data"),
        option("--raw", is_flag=True, help="Use the weights as trained, not their average.", group="Data"),
        seed_option,
        machine_options,
    )  # fmt: skip


class Measured:
    """A trained model, and the data to measure it on.

    Args:
        checkpoint: a file or a run folder.
        data, data_dir, split, count, batch_size, raw, seed, machine: the options of `measure_options`.
    """

    def __init__(
        self, checkpoint: Path, *, data: str | None, data_dir: str | None, split: str | None, count: int,
        batch_size: int, raw: bool, seed: int, **machine: Any,
    ) -> None:  # fmt: skip
        from tinyddpm.cli.measurement import opened
        from tinyddpm.data.base import spread
        from tinyddpm.figures.marks import checkpoint_of

        self.model, self.weights, loaded = open_model(checkpoint, raw, **machine)
        self.mark = command_mark(checkpoint_of(checkpoint, loaded, raw))
        self.dataset, _ = opened(self.model, data, data_dir, split)
        self.numbers = spread(self.dataset, count)
        self.batch_size, self.seed = batch_size, seed
        self.unit = 127.5 if self.model.is_image else 1.0

    def work(self, seed: int) -> Measurement:
        """Return the measurement of the samples with noise of this seed."""
        from tinyddpm.cli.measurement import Measurement

        return Measurement(self.model, self.weights, self.dataset, self.numbers, self.batch_size, 1, seed)

    def bound(self, times: int | None) -> Bound:
        """Return the variational bound, estimated from this many times; None takes all of them."""
        import numpy as np

        from tinyddpm.backend import Random
        from tinyddpm.diffusion.bound import all_times, some_times

        T = self.model.process.T
        chosen = some_times(T, times, Random(np, self.seed)) if times else all_times(T)
        return self.work(self.seed).bound(chosen, None)

    def predictions(self, times: list[int]) -> NDArray[np.uint8]:
        """Return pictures of the first sample at these times, x_t and the x_0 predicted from it: (2, columns, H, W, C).

        For points, each picture shows all samples.

        Raises:
            DataError: the samples cannot be drawn, such as points of three dimensions.
        """
        import numpy as np

        from tinyddpm.backend import Purpose
        from tinyddpm.figures.tiles import tiles_of
        from tinyddpm.ops.images import to_model

        model, numbers = self.model, self.numbers[:1] if self.model.is_image else self.numbers
        denoiser = model.network_denoiser(self.weights, model.known(self.dataset, numbers))
        thresholded = model.thresholded(denoiser, model.config.sampling)
        x_0 = model.backend.asarray(self.dataset.read(numbers))
        x_0 = to_model(x_0) if model.is_image else x_0
        rows: list[list[NDArray[np.uint8]]] = [[], []]
        with model.backend.scope():
            eps = model.backend.random(self.seed).normal(Purpose.NOISE, 0, numbers, model.sample_shape)
            for t in times:
                x_t = model.process.q_sample(x_0, t, eps)
                for row, x in zip(rows, (x_t, thresholded(x_t, t).x_0), strict=True):
                    row.append(tiles_of(model.backend.to_numpy(x))[0])
        return np.stack([np.stack(row) for row in rows])


times_option = option(
    "--times",
    type=click.IntRange(2),
    help="Estimate from this many of the times, an even number; all if not given.",
    group="Estimate",
    env=False,
)


@figure_command("single-step", "How well one step recovers x_0, by noise level.")
@run_argument
@measure_options(default=100)
@option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Repetitions with other noise.",
        group="Estimate")  # fmt: skip
@option(
    "--levels",
    type=click.IntRange(2),
    default=16,
    show_default=True,
    help="Number of times t.",
    group="Estimate",
    env=False,
)
def single_step(out: Path | None, checkpoint: Path, seeds: int, levels: int, **given: Any) -> None:
    """The error of the x_0 that is predicted from x_t in one step, over the noise level, by seed and class.

    With little noise, the error falls with the noise. With much noise, the best prediction is the mean of the data, the
    dotted line; a network that predicts ε lies above it there, since its error is divided by √ᾱ_t. Between the two, a
    network must lie well below the dashed line: the best linear prediction, that of a Gaussian with the data's mean and
    covariance (for samples of up to 1,024 numbers). The spread over seeds is the uncertainty of the curve. Errors of
    images are in levels of 255.

    \b
    RMSE of x_0(x_t, t), x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε          DDPM (arXiv 2006.11239), eqs. 4 and 15
    Gaussian: Σ_i λ_i (1 − ᾱ_t) / (ᾱ_t λ_i + 1 − ᾱ_t), λ_i of the covariance
    """
    import numpy as np

    from tinyddpm.data.base import spread
    from tinyddpm.diffusion.bound import Times
    from tinyddpm.figures.denoising import SingleStep, draw_single_step, linear_error
    from tinyddpm.figures.samples import is_drawable

    path, measured = destination("single-step", out), Measured(checkpoint, **given)
    model, dataset = measured.model, measured.dataset
    times = _spread(model.process.alpha_bar, levels)
    at = Times(times, np.ones(len(times)))
    mse = [measured.work(measured.seed + seed).bound(at, None).mse_x_0 for seed in range(seeds)]
    samples = samples_of(dataset, spread(dataset, MOST))
    alpha_bar = model.process.alpha_bar[times]
    found = SingleStep(
        alpha_bar,
        np.stack(mse),
        None if dataset.labels is None else dataset.labels[measured.numbers],
        dataset.classes,
        linear_error(samples, alpha_bar) if samples[0].size <= LARGEST else None,
        float(samples.var(axis=0).mean()) ** 0.5,
        measured.unit,
    )
    shown = times[:: max(1, len(times) // 10)].tolist()
    tiles = measured.predictions(shown) if is_drawable(model.sample_shape) else None
    draw_single_step(found, path, tiles, [f"t = {t}" for t in shown], measured.mark)
    say("RMSE of x_0, predicted in one step")
    chart({"this model": found.overall}, times.tolist(), log=True)
    wrote(path)


@figure_command("loss-by-time", "Errors of eps and x_0, and the bound's terms, over t.")
@run_argument
@measure_options(default=64)
@times_option
def loss_by_time(out: Path | None, checkpoint: Path, times: int | None, **given: Any) -> None:
    """The network's errors at each time, on data that it was not trained on.

    The error of ε is small where there is much noise, since x_t is then nearly ε itself, and near 1 where there is
    little: most of its mean over t, which training minimises, comes from the clean end. The error of x_0 is the same
    error in other units, and is largest at the noisy end. The bound weights the errors so that almost all bits lie in
    the first times.

    \b
    L_simple = E ‖ε − ε_θ(x_t, t)‖²          DDPM (arXiv 2006.11239), eq. 14
    L_t = KL(q(x_{t−1}|x_t, x_0) ‖ p_θ(x_{t−1}|x_t))          eq. 5; IDDPM (2102.09672), figure 2
    """
    from tinyddpm.figures.likelihood import draw_loss_by_time

    path, measured = destination("loss-by-time", out), Measured(checkpoint, **given)
    steps = measured.bound(times).steps()
    draw_loss_by_time(steps, path, measured.mark)
    say("squared error of eps")
    chart({"eps": steps["mse_eps"]}, steps["t"], log=True)
    wrote(path)


@figure_command("rate-distortion", "Progressive coding: bits told against error left.")
@run_argument
@measure_options(default=64)
@times_option
def rate_distortion(out: Path | None, checkpoint: Path, times: int | None, **given: Any) -> None:
    """Progressive coding, as `nll --out` draws it: the bits of each step, and distortion over rate.

    A code that goes from noise to data, step by step, spends its first bits on most of the image: the curve falls
    steeply, and its long tail is invisible detail. Errors of images are in levels of 255.

    \b
    rate(t) = L_T + Σ_{s>t} L_s,  distortion(t) = RMSE of x_0(x_t, t)     DDPM (arXiv 2006.11239), section 4.3, figure 5
    """
    from tinyddpm.figures.likelihood import draw_likelihood

    path, measured = destination("rate-distortion", out), Measured(checkpoint, **given)
    steps = measured.bound(times).steps()
    steps["distortion"] = [measured.unit * rmse for rmse in steps["rmse_x_0"]]
    draw_likelihood(steps, path, measured.mark)
    say("distortion, RMSE of x_0")
    chart({"distortion": steps["distortion"]}, steps["t"], log=True)
    wrote(path)


@figure_command("vae", "The bound's terms as encoder, prior and decoder.")
@run_argument
@measure_options(default=64)
@times_option
def vae(out: Path | None, checkpoint: Path, times: int | None, **given: Any) -> None:
    """The variational bound as that of a VAE, term by term, from the prior to the data.

    A diffusion model is a VAE with a fixed encoder q, a latent for each step of the chain, each as large as the data.
    Above: the latents of a sample, and the decoder's x_0 from each of them. Below: the prior's term is nearly 0,
    because x_T keeps nothing of the sample; posterior collapse is impossible. Nearly all bits are in the matching terms
    of the latents nearest to the data, and in the reconstruction.

    \b
    −log p(x_0) ≤ KL(q(x_T|x_0) ‖ p(x_T)) + Σ_t KL(q(x_{t−1}|x_t,x_0) ‖ p(x_{t−1}|x_t)) − log p(x_0|x_1)
    DDPM (arXiv 2006.11239), eq. 5
    """
    import numpy as np

    from tinyddpm.figures.likelihood import bands, draw_bound
    from tinyddpm.figures.samples import is_drawable

    path, measured = destination("vae", out), Measured(checkpoint, **given)
    model = measured.model
    bound = measured.bound(times)
    parts, T = bound.parts(), model.process.T
    shown = np.unique(np.linspace(0, T - 1, 9).round().astype(int)).tolist()
    tiles = measured.predictions(shown) if is_drawable(model.sample_shape) else None
    words = [f"t = {t}" for t in shown]
    draw_bound(parts["L_T"].mean, bands(bound.steps(), T), parts["L_0"].mean, path, tiles, words, measured.mark)
    for name, meaning in {"L_T": "prior", "L_t": "matching", "L_0": "reconstruction", "total": "bound"}.items():
        say(f"{meaning:>14}  {parts[name].mean:9.4f} bits/dim")
    wrote(path)


def _spread(alpha_bar: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return up to `count` times, ascending from the first to the last, evenly spread over the log noise level."""
    import numpy as np

    from tinyddpm.diffusion.process import noise_to_signal

    level = np.log(np.minimum(noise_to_signal(alpha_bar), 1e3))  # a chain may end without any signal
    wanted = np.linspace(level[0], level[-1], count)
    return np.unique(np.abs(level[:, None] - wanted).argmin(axis=0))
