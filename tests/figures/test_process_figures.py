"""Figures of the process: the arrays that are drawn, where they are in the figure, and the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinyddpm.backend import load_backend
from tinyddpm.diffusion.process import GaussianProcess
from tinyddpm.diffusion.schedules import cosine, linear
from tinyddpm.errors import ConfigError, DataError, DrawingError
from tinyddpm.figures.curves import SHARES, draw_schedules, schedule_tiles
from tinyddpm.figures.line_law import Law, density, diffused
from tinyddpm.figures.process import diffusion, draw_diffused, draw_kernel, draw_posterior, kernel, reach
from tinyddpm.figures.style import check_figure, draw_tiles
from tinyddpm.figures.tiles import forward_tiles, tiles_of

PROCESS = GaussianProcess(load_backend("numpy"), cosine(60), np.float64)
TWO = Law(np.array([0.6, 0.4]), np.array([-0.8, 1.2]), np.array([0.04, 0.02]))
RNG = np.random.default_rng(0)


def test_a_diffusion_has_the_exact_density_and_chains_of_the_process() -> None:
    starts = RNG.normal(size=(400, 1))
    found = diffusion(PROCESS, TWO, starts, limit=6)
    assert found.densities.shape == (60, 241)
    np.testing.assert_allclose(found.densities.sum(axis=1) * (found.x[1] - found.x[0]), 1, atol=1e-6)
    np.testing.assert_array_equal(found.densities[30], density(diffused(TWO, PROCESS.alpha_bar[30]), found.x))
    assert found.paths.shape == (400, 61)
    np.testing.assert_array_equal(found.paths[:, :1], starts)
    steps = (found.paths[:, 1:] - (1 - PROCESS.betas) ** 0.5 * found.paths[:, :-1]) / PROCESS.betas**0.5
    # 24,000 standard normals: mean and variance within five standard errors.
    assert abs(steps.mean()) < 5 / steps.size**0.5
    assert abs(steps.var() - 1) < 5 * (2 / steps.size) ** 0.5


def test_stepwise_chains_have_the_moments_of_the_closed_form() -> None:
    """Five standard errors at each of 60 times, which are all but one number: by chance once in some 100,000."""
    n = 4000
    found = kernel(PROCESS, 1.5, n)
    noise = (1 - PROCESS.alpha_bar) ** 0.5
    np.testing.assert_array_equal(found.noise, noise)
    assert (abs(found.chains.mean(axis=0) - PROCESS.alpha_bar**0.5 * 1.5) < 5 * noise / n**0.5).all()
    assert (abs(found.chains.std(axis=0) - noise) < 5 * noise / (2 * n) ** 0.5).all()


def test_forward_tiles_are_the_mixtures() -> None:
    x_0, eps = RNG.uniform(-1, 1, (3, 4, 5, 1)), RNG.normal(size=(3, 4, 5, 1))
    tiles = forward_tiles(PROCESS, x_0, [0, 31], eps)
    assert tiles.shape == (3, 3, 4, 5, 1)
    np.testing.assert_array_equal(tiles[:, 0], np.rint((x_0 + 1) * 127.5))
    a = PROCESS.alpha_bar[31]
    mixed = np.clip(np.rint((a**0.5 * x_0 + (1 - a) ** 0.5 * eps + 1) * 127.5), 0, 255)
    np.testing.assert_array_equal(tiles[:, 2], mixed)
    points = RNG.normal(size=(50, 2))
    assert forward_tiles(PROCESS, points, [5], points).shape == (1, 2, 256, 256, 3)
    with pytest.raises(DataError, match=r"cannot draw points of shape \(50, 3\)"):
        tiles_of(RNG.normal(size=(50, 3)))
    with pytest.raises(DataError, match="images of 2 channels cannot be shown in a figure"):
        tiles_of(np.zeros((1, 4, 4, 2)))
    with pytest.raises(DrawingError, match="sample 1 of 2 is not finite"):
        tiles_of(np.asarray([0.0, np.nan]).reshape(2, 1, 1, 1))


def test_schedule_tiles_end_in_the_same_noise() -> None:
    """At t = T − 1 of a cosine chain hardly anything but eps is left; before, the linear one has more of it."""
    image, eps = np.ones((1, 4, 4, 1)), 0.3 * RNG.normal(size=(1, 4, 4, 1))
    tiles = schedule_tiles({"linear": linear(100), "cosine": cosine(100)}, image, eps)
    assert tiles.shape == (2, 1 + len(SHARES), 4, 4, 1)
    assert (tiles[:, 0] == 255).all()
    assert tiles[0, 1:-1].astype(int).sum() < tiles[1, 1:-1].astype(int).sum()
    assert abs(tiles[1, -1].astype(int) - np.rint((eps[0] + 1) * 127.5)).max() <= 1


@pytest.mark.slow
def test_what_is_drawn_is_what_was_computed(tmp_path: Path, drawn: list[Any]) -> None:
    """Looked up in the figures: the exact curves, and as many charts as the help speaks of."""
    points = RNG.normal(size=(300, 1))
    found = diffusion(PROCESS, TWO, points[:5], reach(points))
    draw_diffused(PROCESS, TWO, points, found, tmp_path / "d.png", t=20)
    draw_kernel(kernel(PROCESS, 1.5, 50), 1.5, tmp_path / "k.png")
    draw_posterior(PROCESS, TWO, 0.1, 30, tmp_path / "p.png")
    diffused_charts, kernel_charts, posterior_charts = (list(figure.axes) for figure in drawn)
    assert [len(diffused_charts), len(kernel_charts), len(posterior_charts)] == [1 + 1 + 5 + 3, 6, 5]
    result = next(chart for chart in diffused_charts if chart.get_title().startswith("="))
    x, y = result.lines[0].get_data()
    np.testing.assert_array_equal(y, density(diffused(TWO, PROCESS.alpha_bar[20]), x))
    np.testing.assert_array_equal(kernel_charts[0].lines[0].get_ydata(), PROCESS.alpha_bar**0.5 * 1.5)
    c_0, c_t = (line.get_ydata() for line in posterior_charts[0].lines)
    assert (c_0[0], c_t[0]) == (1, 0), "at t = 0 the step leads to x_0"
    assert [chart.get_title() for chart in posterior_charts[2:]] == [
        "from t = 30 to s = 29", "from t = 30 to s = 23", "from t = 30 to s = 8",
    ]  # fmt: skip


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_files_open_and_are_always_the_same(tmp_path: Path, drawn: list[Any], ending: str) -> None:
    tiles = RNG.integers(0, 256, (2, 3, 4, 4, 3)).astype(np.uint8)
    first, again = (tmp_path / f"{name}.{ending}" for name in "ab")
    for path in (first, again):
        draw_tiles(tiles, ["a", "b", "c"], ["x", "y"], path)
    assert first.read_bytes() == again.read_bytes()
    wide, high = drawn[0].get_size_inches()
    if ending == "png":
        with Image.open(first) as image:
            assert image.size == (int(wide * 130), int(high * 130))
    else:
        text = first.read_text()
        assert "<svg" in text
        assert f'width="{wide * 72:.6f}'.rstrip("0").rstrip(".") in text
    assert sorted(tmp_path.iterdir()) == [first, again]


@pytest.mark.slow
def test_schedules_may_have_an_image_below(tmp_path: Path, drawn: list[Any]) -> None:
    schedules = {"linear": linear(50), "cosine": cosine(50)}
    draw_schedules(
        schedules, tmp_path / "s.svg", schedule_tiles(schedules, np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4, 1)))
    )
    (figure,) = drawn
    assert len(figure.axes) == 5
    assert [label.get_text() for label in figure.axes[-1].get_yticklabels()] == ["linear", "cosine"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x.pdf: figures are PNG or SVG: give a name that ends in .png or .svg"):
        check_figure(tmp_path / "x.pdf")
