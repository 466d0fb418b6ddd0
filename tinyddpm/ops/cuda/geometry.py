"""The launch configuration of each kernel: blocks, threads and shared memory, computed from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

THREADS = 256
"""Default number of threads in a block; a power of two."""

ROWS = 4
"""Number of rows of channels that a thread copies or maps, equal to ROWS of common.cuh."""

NORM_THREADS = 256
"""Largest number of threads in a block of group norm."""

NORM_WIDTHS = 16, 64
"""Least number of channels in a block of group norm, for images of many pixels and of few; adjacent channels are read
together. An image with fewer channels is one block."""

NORM_SIZE = 8192
"""Least number of elements in a block of group norm, within the bounds of `NORM_WIDTHS` on its channels."""

NORM_PIXELS = 16
"""Number of pixels per thread in group norm; fewer where a block would otherwise have less than four warps."""

MOST_WIDTH = 4096
"""Largest number of channels in a block of group norm, whose sums are in shared memory."""

PARTIAL_BLOCKS = 1024
"""Largest number of blocks, and so of partial sums, in a sum over a whole buffer."""

TILES = (128, 64, 32)
"""Possible sides of the tile of a matrix product that a block computes."""

PRODUCT_THREADS = 128
"""Threads in a block of a matrix product."""

FEWEST_STAGES, MOST_STAGES = 2, 4
"""Least and largest number of tiles of an operand in a block's shared memory: as many as let two blocks share it."""

ENOUGH_BLOCKS = 264
"""Number of blocks that keep a GPU busy: with fewer, a product uses smaller tiles, and a sum over pixels is split."""

SPLIT_STEPS = 16
"""Least number of steps along the inner dimension in each part of a split sum over pixels."""

SUM_STRIPS = 8
"""Number of strips of channels in a block of a sum over rows: at 16 bytes a strip 128 bytes, one memory transaction."""

SUM_ROWS, SUM_CHUNKS = 256, 256
"""Divisor of the number of rows that a block of a column sum adds up, and the largest number of such chunks of rows."""


@dataclass(frozen=True)
class Geometry:
    """Blocks in a grid, threads in a block, the block's shared memory in bytes, and the kernel's compiler options."""

    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int = 0
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class NormGeometry:
    """The launch configuration of a group norm.

    Attributes:
        geometry: blocks, threads, and options that say whether a block's elements fit into shared memory.
        chunk: number of groups in a block.
        lanes: number of adjacent channels per thread.
    """

    geometry: Geometry
    chunk: int
    lanes: int


def elements(size: int, shared: int = 0) -> Geometry:
    """Return one thread per element, with `shared` bytes of shared memory per block."""
    return Geometry((_ceil(size, THREADS),), (THREADS,), shared)


def packs(size: int, itemsize: int) -> Geometry:
    """Return one thread per 16 bytes of elements."""
    return elements(_ceil(size, 16 // itemsize))


def lanes(itemsize: int, *widths: int) -> int:
    """Return the number of adjacent channels per thread: 16 bytes of them if that divides all widths, else one."""
    pack = 16 // itemsize
    return pack if all(width % pack == 0 for width in widths) else 1


def rows(count: int, width: int, lanes: int) -> Geometry:
    """Return threads (strip, row) with ROWS rows each; a strip is `lanes` adjacent channels of `width`."""
    strips = _ceil(width, lanes)
    across = _ceil(strips, _ceil(strips, THREADS))
    down = THREADS // across
    return Geometry((_ceil(count, ROWS * down),), (across, down))


def partial_sums(size: int) -> Geometry:
    """Return at most `PARTIAL_BLOCKS` blocks, each of which strides through the buffer and sums in shared memory."""
    return blocks_that_sum(min(PARTIAL_BLOCKS, _ceil(size, THREADS)))


def blocks_that_sum(count: int) -> Geometry:
    """Return `count` blocks, each of which sums float32 numbers in shared memory."""
    return Geometry((count,), (THREADS,), 4 * THREADS)


def one_block(itemsize: int = 4) -> Geometry:
    """Return a single block, which sums numbers of `itemsize` bytes in shared memory."""
    return Geometry((1,), (THREADS,), itemsize * THREADS)


def softmax_rows(rows: int) -> Geometry:
    """Return one warp per row."""
    return Geometry((_ceil(rows, THREADS // 32),), (32, THREADS // 32))


def group_norm(
    shape: tuple[int, int, int],
    groups: int,
    itemsize: int,
    shared_memory: int,
    silu: bool,
    masked: bool,
    backward: bool,
) -> NormGeometry | None:
    """Return the configuration of a group norm; None if a group has more than `MOST_WIDTH` channels.

    Args:
        shape: (N, pixels, channels), shape of x.
        groups: number of groups.
        itemsize: bytes of a stored number.
        shared_memory: largest shared memory of a block, in bytes.
        silu: whether SiLU follows.
        masked: whether dropout follows.
        backward: whether for the backward, which keeps dy beside x and two sums instead of one.
    """
    n, count, channels = shape
    each = channels // groups
    least = min(max(NORM_SIZE // count, min(NORM_WIDTHS)), max(NORM_WIDTHS))
    chunk = next(k for k in range(1, groups + 1) if groups % k == 0 and (k * each >= least or k == groups))
    width = chunk * each
    if width > MOST_WIDTH:
        return None
    lanes = 4 if channels % 4 == width % 4 == 0 else 1
    across = min(width // lanes, NORM_THREADS)
    rows = min(count, NORM_THREADS // across, max(count // NORM_PIXELS, _ceil(128, across)))
    block = (across, power_of_two(rows))
    arrays = 2 if backward else 1
    sums = 16 * _ceil(arrays * block[1] * width + 2 * chunk, 4)
    tile = arrays * itemsize * count * width
    tiled = sums + tile <= shared_memory
    grid = (n * (groups // chunk),)
    geometry = Geometry(grid, block, sums + tile if tiled else sums, norm_options(tiled, silu, masked))
    return NormGeometry(geometry, chunk, lanes)


def channel_sums(rows: int, channels: int, lanes: int = 1, sums: int = 1, samples: int = 1) -> Geometry:
    """Return blocks (sample, channels) of threads (strip, row) for `sums` sums over rows; strips are `lanes` wide."""
    block = (SUM_STRIPS, power_of_two(min(rows, THREADS // SUM_STRIPS)))
    return Geometry((samples, _ceil(channels, SUM_STRIPS * lanes)), block, 4 * sums * lanes * prod(block))


def product(m: int, n: int, count: int, itemsize: int, shared_memory: int) -> Geometry:
    """Return one block per square tile for `count` products of shape (m, n), of numbers of `itemsize` bytes.

    The number of tiles in shared memory depends on the GPU but changes no result: terms are added in the order of k.
    """
    side = next(
        (side for side in TILES if min(m, n) > side // 2 and count * _tiles(m, n, side) >= ENOUGH_BLOCKS), min(TILES)
    )
    step, vector = 64 // itemsize, 16 // itemsize
    stage = 2 * max(side * (step + vector), step * (side + 8)) * itemsize  # two Tiles of product.cuh
    stages = max(FEWEST_STAGES, min(MOST_STAGES, shared_memory // 2 // stage))
    grid = (count * _tiles(m, n, side),)
    return Geometry(grid, (PRODUCT_THREADS,), stages * stage, product_options(side, stages))


def product_options(side: int, stages: int) -> tuple[str, ...]:
    """Return the compiler options for products in tiles of side `side`, `stages` of them in shared memory at once."""
    return (f"-DTILE={side}", f"-DSTAGES={stages}")


def norm_options(tiled: bool, silu: bool, masked: bool) -> tuple[str, ...]:
    """Return the compiler options for norms; see `group_norm.cu`."""
    return tuple(f"-D{name}={on:d}" for name, on in (("TILED", tiled), ("SILU", silu), ("MASKED", masked)))


def split_product(m: int, n: int, count: int, k: int, itemsize: int, shared_memory: int) -> tuple[Geometry, int, int]:
    """Return blocks for `count` products with a split inner dimension k, the number of parts, and their length."""
    step = 64 // itemsize
    steps = _ceil(k, step)
    most = max(1, steps // SPLIT_STEPS)
    cut = product(m, n, most * count, itemsize, shared_memory)
    blocks = cut.grid[0] // most
    each = _ceil(steps, min(most, _ceil(ENOUGH_BLOCKS, blocks)))
    parts = _ceil(steps, each)
    return replace(cut, grid=(parts * blocks,)), parts, each * step


def tiles_of_32(count: int) -> Geometry:
    """Return `count` blocks, each of which transposes a tile of 32 × 32 float32 numbers in padded shared memory."""
    return Geometry((count,), (32, THREADS // 32), 4 * 32 * 33)


def pack_tiles(shapes: Sequence[tuple[int, ...]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the tiles of all parameters in the order of their buffer, (tiles, 7): each row is a PackTile of
    `packing.cu`. A vector is a matrix of one row, whose transposition changes nothing."""
    tiles, start = [], 0
    for shape in shapes:
        *window, rows, columns = (1, *shape)[-max(2, len(shape)) :]
        taps = prod(window)
        for tap in range(taps):
            matrix = start + tap * rows * columns, start + tap * rows, rows, columns, taps * rows
            tiles += [(*matrix, i, j) for i in range(0, rows, 32) for j in range(0, columns, 32)]
        start += prod(shape)
    return np.array(tiles, np.int64)


def turned_gradients(taps: int, c_in: int, c_out: int, rows: int, lanes: int) -> tuple[Geometry, int, int, int]:
    """Return blocks that sum chunks of dy's rows, then blocks that transpose dw; how many sum; chunks; rows in each."""
    across, block = _ceil(c_out, SUM_STRIPS * lanes), (SUM_STRIPS, THREADS // SUM_STRIPS)
    each = SUM_ROWS * _ceil(rows, SUM_CHUNKS * SUM_ROWS)
    chunks = _ceil(rows, each)
    tiles = taps * _ceil(c_in, 32) * _ceil(c_out, 32)
    shared = 4 * max(32 * 33, THREADS * lanes + 1)
    return Geometry((chunks * across + tiles,), block, shared), chunks * across, chunks, each


def power_of_two(most: int) -> int:
    """Return the largest power of two up to `most`."""
    return 1 << (most.bit_length() - 1)


def _tiles(m: int, n: int, side: int) -> int:
    return _ceil(m, side) * _ceil(n, side)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
