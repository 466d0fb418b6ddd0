"""Style and files of the figures: PNG and SVG by matplotlib (the `figures` extra), without a window."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyddpm.errors import ConfigError
from tinyddpm.figures.images import Pixels, grid
from tinyddpm.figures.marks import KEY, Mark, to_text
from tinyddpm.files import replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#888888")
"""Colours of curves: seven that colour-blind readers can distinguish (Okabe and Ito 2008, Tol 2021), and grey."""

INK, QUIET = "#333333", "#888888"
"""Colours of text, and of axes and background lines."""

DENSITIES = "cividis"
"""Colour map from low to high, which colour-blind readers see alike."""

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.07,
    "figure.constrained_layout.h_pad": 0.07,
    "savefig.dpi": 130,
    "svg.hashsalt": "tinyddpm",  # equal figures are equal files
}

FORMATS = (".png", ".svg")

TILE_INCHES = 0.72
SIDE_INCHES = 0.9
"""Size of a picture, and width of the words beside a row of pictures, in inches."""


def check_figure(path: str | os.PathLike[str]) -> None:
    """Check before the computation of a figure that it can be written.

    Raises:
        ConfigError: the file name ends in neither .png nor .svg, or matplotlib is missing.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: figures are PNG or SVG: give a name that ends in .png or .svg")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError("drawing figures needs matplotlib: pip install 'tinyddpm[figures]'") from error


@contextmanager
def drawing(path: str | os.PathLike[str], size: tuple[float, float], mark: Mark | None = None) -> Iterator[Any]:
    """Yield an empty matplotlib figure of `size` in inches; write it to `path` if the block ends without an exception.

    The file contains the mark, which `read_mark` reads.

    Raises:
        ConfigError: as `check_figure`.
        DataError: the file cannot be written.
    """
    check_figure(path)
    import matplotlib
    from matplotlib.figure import Figure

    suffix = Path(path).suffix.lower()
    with matplotlib.rc_context(STYLE):
        figure = Figure(size, layout="constrained")
        yield figure
        with replacing(path) as file:
            figure.savefig(file, format=suffix[1:], metadata=_metadata(suffix, mark))


def _metadata(suffix: str, mark: Mark | None) -> dict[str, str | None]:
    """Return the metadata that matplotlib writes into a file: the mark, and no date."""
    if suffix == ".png":
        return {} if mark is None else {KEY: to_text(mark)}
    # XML forbids some characters, so that all but ASCII are escaped.
    return {"Date": None} if mark is None else {"Date": None, "Description": json.dumps(mark)}


def show_tiles(axes: Any, tiles: Pixels, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> None:
    """Show pictures in rows and columns, pixel by pixel, with labels above the columns and beside the rows.

    Args:
        axes: matplotlib axes, whose frame and ticks are removed.
        tiles: uint8 (rows, columns, H, W, C), one or three channels.
        columns: labels of the columns; none if empty.
        rows: labels of the rows; none if empty.

    Raises:
        DataError: the pictures cannot be drawn.
    """
    R, C, H, W, channels = tiles.shape
    scale, gap = max(1, 64 // max(H, W)), 2
    picture = grid(tiles.reshape(-1, H, W, channels), C, scale, gap)
    axes.imshow(picture[..., 0] if channels == 1 else picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([gap + (i + 0.5) * (W * scale + gap) for i in range(C)][: len(columns)], columns)
    axes.set_yticks([gap + (i + 0.5) * (H * scale + gap) for i in range(R)][: len(rows)], rows)
    axes.tick_params(length=0, top=False, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def tiles_size(tiles: NDArray[np.uint8], side: float = SIDE_INCHES) -> tuple[float, float]:
    """Return the width and height in inches that `show_tiles` needs for pictures (rows, columns, H, W, C).

    `side` is the width of the labels beside the rows, in inches.
    """
    R, C, H, W, _ = tiles.shape
    inches = TILE_INCHES * (1.6 if max(R, C) < 5 else 1.0)
    return side + C * inches * W / max(H, W), 0.4 + R * inches * H / max(H, W)


def draw_tiles(
    tiles: Pixels,
    columns: Sequence[str],
    rows: Sequence[str],
    path: str | os.PathLike[str],
    mark: Mark | None = None,
) -> None:
    """Write a figure that consists of pictures, with arguments as of `show_tiles` and `drawing`.

    Raises:
        ConfigError: as `check_figure`.
        DataError: the pictures cannot be drawn, or the file cannot be written.
    """
    with drawing(path, tiles_size(tiles, SIDE_INCHES if rows else 0.2), mark) as figure:
        show_tiles(figure.subplots(), tiles, columns, rows)
