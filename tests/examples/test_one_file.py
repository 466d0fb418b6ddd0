"""The model in one file (examples/ddpm.py): its mathematics is the library's, in float64 and with the same noise."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.comparison import assert_close
from helpers.networks import Sketch
from tinyddpm.backend import Backend
from tinyddpm.data import open_dataset
from tinyddpm.diffusion.denoiser import Prediction
from tinyddpm.diffusion.objectives import Simple
from tinyddpm.diffusion.parametrisation import make_parametrisation
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import make_betas
from tinyddpm.nn import DropoutNoise, Layout
from tinyddpm.ops import Operations
from tinyddpm.ops.optimisation import Descent
from tinyddpm.samplers.ddpm import ancestral
from tinyddpm.training.step import noised, training_gradient

SOURCE = Path(__file__).parents[2] / "examples" / "ddpm.py"
TIMES = np.asarray([0, 1, 2, 500, 998, 999])


@pytest.fixture
def ddpm() -> ModuleType:
    """The file, read anew, with a network of few channels."""
    spec = importlib.util.spec_from_file_location("one_file", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.C = 8
    return module


@pytest.fixture
def process(numpy_backend: Backend) -> GaussianProcess:
    return GaussianProcess(numpy_backend, make_betas("linear", 1000), np.float64)


class Twin:
    """The library's training of a U-Net of the file's layout, in float64, from the weights of one of the file's.

    Attributes:
        network: the U-Net.
        layout: of its parameters.
        weights: in one buffer.
    """

    def __init__(self, ddpm: ModuleType, net: Any, process: GaussianProcess) -> None:
        options = {"channels": ddpm.C, "multipliers": (1, 2), "blocks": 1, "attention": (), "dropout": 0.0}
        self.network = Sketch("unet", (8, 8, 1), 0, 1, options).build()
        self.layout = Layout(self.network.parameters)
        self.process, self.ops = process, Operations(process.backend, training=True)
        self.objective = Simple(make_parametrisation(process, "eps"), None, "images")
        self.weights = self.flat(net.w)

    def flat(self, by_name: dict[str, np.ndarray]) -> np.ndarray:
        """Return the file's weights, or gradients, in one buffer, and see to it that none is left out."""
        assert {parameter.path for parameter in self.layout.parameters} == set(by_name)
        return np.concatenate([by_name[parameter.path].ravel() for parameter in self.layout.parameters])

    def predict(self, x: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Return the noise in x."""
        return np.asarray(self.network.forward(self.ops, self.layout.views(self.weights, np), x, t, {})[0])

    def loss_and_gradient(self, x_0: np.ndarray, t: np.ndarray, eps: np.ndarray) -> tuple[float, np.ndarray]:
        """Return L_simple, and its gradient in one buffer."""
        gradient = np.zeros(self.layout.size)
        w, dw = (self.layout.views(buffer, np) for buffer in (self.weights, gradient))
        none = DropoutNoise(self.process.backend.random(0), 0, np.arange(len(x_0)))
        batch = noised(self.process, x_0, t, eps)
        losses = training_gradient(self.objective, self.network, self.ops, w, dw, batch, {}, none)
        return float(np.mean(losses)), gradient


def random_network(ddpm: ModuleType, rng: np.random.Generator) -> Any:
    """Return a network of the file in float64, in which no weight is 0."""
    net = ddpm.UNet(rng)
    net.w = {name: w + 0.1 * rng.normal(size=w.shape) for name, w in net.w.items()}
    return net


class Float64:
    """Draws normal numbers in float64, whatever is asked for."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def standard_normal(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.rng.standard_normal(shape)


def run(ddpm: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run the file as a command."""
    monkeypatch.setattr(sys, "argv", [str(SOURCE), *arguments])
    ddpm.main()


def test_numpy_and_the_standard_library_are_all_it_imports() -> None:
    """And it is read in one sitting."""
    source = SOURCE.read_text(encoding="utf-8")
    imported = {line.split()[1].split(".")[0] for line in source.splitlines() if re.match("(import|from) ", line)}
    assert imported - sys.stdlib_module_names == {"numpy"}
    assert len(source.splitlines()) <= 350


def test_the_digits_are_those_of_the_library(ddpm: ModuleType) -> None:
    images = open_dataset("digits")
    expected = images.read(np.arange(len(images))) / np.float32(127.5) - 1
    np.testing.assert_array_equal(ddpm.digits(), expected)


def test_schedule_kernel_and_posterior_are_those_of_the_library(
    ddpm: ModuleType, process: GaussianProcess, rng: np.random.Generator
) -> None:
    """Within 1e-12, at the first times, in the middle and at the last ones."""
    assert_close(ddpm.beta, process.betas, 1e-12, "betas")
    assert_close(ddpm.alpha_bar, process.alpha_bar, 1e-12, "alpha_bar")
    x_0, x_t, eps = rng.normal(size=(3, len(TIMES), 8, 8, 1))
    assert_close(ddpm.q_sample(x_0, TIMES, eps), process.q_sample(x_0, TIMES, eps), 1e-12, "x_t")
    for t in TIMES:
        assert_close(ddpm.predict_x_0(x_t, t, eps), process.predict_x0(x_t, int(t), eps), 1e-12, f"x_0 at {t}")
        mean, variance = ddpm.q_posterior(x_0, x_t, t)
        expected_mean, expected_variance = process.q_posterior(x_0, x_t, int(t))
        assert_close(mean, expected_mean, 1e-12, f"mean at {t}")
        assert_close(variance.item(), expected_variance, 1e-12, f"variance at {t}")


def test_loss_and_gradients_are_those_of_the_library(
    ddpm: ModuleType, process: GaussianProcess, rng: np.random.Generator
) -> None:
    """Every gradient, within 1e-10; that of a key's bias is 0, and rounding on both sides."""
    net = random_network(ddpm, rng)
    twin = Twin(ddpm, net, process)
    x_0, eps = rng.normal(size=(2, 4, 8, 8, 1))
    t = rng.permutation(1000)[:4]
    loss, dw = ddpm.loss_and_gradients(net, x_0, t, eps)
    expected_loss, gradient = twin.loss_and_gradient(x_0, t, eps)
    assert loss == pytest.approx(expected_loss, rel=1e-10)
    expected = twin.layout.views(gradient, np)
    for path, found in twin.layout.views(twin.flat(dw), np).items():
        floor = float(np.max(np.abs(expected[path.replace("/k/b", "/q/b")])))
        assert_close(found, expected[path], 1e-10, path, floor)


def test_training_is_that_of_the_library(
    ddpm: ModuleType, process: GaussianProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps of Algorithm 1 and Adam leave the same average of the weights, within 1e-10.

    The library's average begins with a decay of 0.1, which the file is given too.
    """
    images = ddpm.digits().astype(np.float64)
    monkeypatch.setattr(ddpm, "digits", lambda: images)
    monkeypatch.setattr(ddpm, "BATCH", 4)
    monkeypatch.setattr(ddpm, "DECAY", 0.1)
    net = random_network(ddpm, np.random.default_rng(1))
    twin = Twin(ddpm, net, process)
    ddpm.train(net, 3, np.random.default_rng(2))

    rng, descent, rate = np.random.default_rng(2), Descent(clip=0.0, decay=0.1), np.asarray([ddpm.RATE])
    average, m, v = twin.weights.copy(), np.zeros(twin.layout.size), np.zeros(twin.layout.size)
    for step in range(3):
        x_0, t = images[rng.integers(len(images), size=4)], rng.integers(1000, size=4)
        eps = rng.standard_normal(x_0.shape, np.float32).astype(np.float64)
        loss, g = twin.loss_and_gradient(x_0, t, eps)
        factors = twin.ops.step_factors(descent, np.asarray([step]), rate, np.asarray([loss]), twin.ops.lengths(g))
        twin.ops.adam(descent, factors, g, twin.weights, average, m, v)
    assert_close(twin.flat(net.w), average, 1e-10, "average")


def test_sampling_is_that_of_the_library(
    ddpm: ModuleType, process: GaussianProcess, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Algorithm 2 over the last five times, with the same noise, within 1e-10."""
    monkeypatch.setattr(ddpm, "T", 5)
    net = random_network(ddpm, rng)
    twin = Twin(ddpm, net, process)
    drawn = ddpm.sample(net, 2, Float64(3))

    def denoiser(x: np.ndarray, t: int) -> Prediction:
        eps = twin.predict(x, np.full(len(x), t))
        return Prediction(np.clip(process.predict_x0(x, t, eps), -1, 1), eps)

    normal = np.random.default_rng(3)
    x = normal.standard_normal((2, 8, 8, 1))
    pairs = [(t, t - 1) for t in (4, 3, 2, 1, 0)]
    steps = ancestral(process, denoiser, x, pairs, lambda t: normal.standard_normal(x.shape), variance="small")
    *_, last = steps
    assert_close(drawn, last.x, 1e-10, "samples")


@pytest.mark.slow
def test_the_check_of_gradients_passes(
    ddpm: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it names every weight."""
    run(ddpm, monkeypatch, "--check")
    named = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()]
    assert named == list(ddpm.UNet(np.random.default_rng(0)).w)


@pytest.mark.parametrize("pair", ["linear", "conv", "group_norm", "silu", "attention", "residual_block"])
def test_the_check_of_gradients_finds_a_wrong_backward(
    ddpm: ModuleType, pair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is a hundredth too long."""
    right: Callable[..., np.ndarray] = getattr(ddpm.UNet, f"{pair}_backward")
    monkeypatch.setattr(ddpm.UNet, f"{pair}_backward", lambda self, *given: 1.01 * right(self, *given))
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        run(ddpm, monkeypatch, "--check")


def test_the_picture_shows_the_samples(
    ddpm: ModuleType, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two steps of training: each pixel six times enlarged, black around each digit, ten digits in a row."""
    monkeypatch.setattr(ddpm, "T", 3)
    drawn = []
    sample = ddpm.sample
    monkeypatch.setattr(ddpm, "sample", lambda *given: drawn.append(sample(*given)) or drawn[0])
    picture = tmp_path / "digits.png"
    run(ddpm, monkeypatch, "--steps", "2", "--rows", "2", "--out", str(picture))
    pixels = np.asarray(Image.open(picture))
    digits = np.zeros((20, 10, 10), np.uint8)
    digits[:, 1:9, 1:9] = np.round((drawn[0][..., 0] + 1) * 127.5)
    assert len(np.unique(digits)) > 20
    np.testing.assert_array_equal(pixels, np.kron(np.block([list(digits[:10]), list(digits[10:])]), np.ones((6, 6))))
