"""How many blocks of how many threads, and how much shared memory, each kernel is launched with. Plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

THREADS = 256
"""Threads in a block, where nothing else decides; a power of two."""

ROWS = 4
"""Rows of channels that a thread takes where it copies or maps them (common.cuh's ROWS)."""

NORM_THREADS = 512
"""Most threads in a block of group norm."""

NORM_WIDTHS = 16, 64
"""Channels that a block of group norm takes at least, if there are so many, of images with many pixels and with few:
what lies side by side is read at once."""

NORM_SIZE = 8192
"""Numbers that such a block takes at least, between those widths."""

NORM_PIXELS = 8
"""Pixels that each of its threads takes backwards, forwards twice as many, if there are enough to have four warps."""

MOST_WIDTH = 4096
"""Channels that a block of group norm takes at most: their sums lie in shared memory."""

PARTIAL_BLOCKS = 1024
"""Blocks, and so partial sums, of a sum over a whole buffer at most."""


TILES = (128, 64)
"""Sides of the tile that a block of a matrix product makes."""

PRODUCT_THREADS = 128
"""Threads in a block of a matrix product."""

FEWEST_STAGES, MOST_STAGES = 2, 4
"""Tiles of its operands that such a block holds at once: as many as let two blocks share what memory there is."""

ENOUGH_BLOCKS = 264
"""Blocks that keep a card busy: with fewer, a product takes smaller tiles, and a sum over pixels is split."""

SPLIT_STEPS = 16
"""Steps along the inner dimension that a split sum over pixels leaves to each part at least."""

SUM_STRIPS = 8
"""Strips of channels that a block of a sum over rows takes: 128 bytes, which memory gives at once."""

SUM_ROWS, SUM_CHUNKS = 256, 256
"""Rows that a block of a column sum adds up, or a multiple of them, and chunks of rows at most."""


@dataclass(frozen=True)
class Geometry:
    """Blocks in a grid, threads in a block, the block's shared memory in bytes, and the kernel's compiler options."""

    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int = 0
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class NormGeometry:
    """How a group norm is cut: whole groups to a block, how many channels a thread takes side by side, and whether a
    block keeps what it reads in shared memory."""

    geometry: Geometry
    chunk: int
    lanes: int
    tiled: bool


def elements(size: int, shared: int = 0) -> Geometry:
    """One thread an element; a block has so many bytes of shared memory."""
    return Geometry((_ceil(size, THREADS),), (THREADS,), shared)


def packs(size: int, itemsize: int) -> Geometry:
    """One thread 16 bytes of elements."""
    return elements(_ceil(size, 16 // itemsize))


def lanes(itemsize: int, *widths: int) -> int:
    """Return how many channels a thread takes side by side: 16 bytes where that divides all widths, else one."""
    pack = 16 // itemsize
    return pack if all(width % pack == 0 for width in widths) else 1


def rows(count: int, width: int, lanes: int) -> Geometry:
    """Threads (strip, row), a strip being `lanes` of `width` channels side by side; a thread takes ROWS rows."""
    strips = _ceil(width, lanes)
    across = _ceil(strips, _ceil(strips, THREADS))
    down = THREADS // across
    return Geometry((_ceil(count, ROWS * down),), (across, down))


def partial_sums(size: int) -> Geometry:
    """Blocks that each take every so many elements, and sum them in shared memory."""
    return blocks_that_sum(min(PARTIAL_BLOCKS, _ceil(size, THREADS)))


def blocks_that_sum(count: int) -> Geometry:
    """Blocks that each sum numbers in shared memory."""
    return Geometry((count,), (THREADS,), 4 * THREADS)


def one_block(itemsize: int = 4) -> Geometry:
    """A single block that sums numbers of `itemsize` bytes."""
    return Geometry((1,), (THREADS,), itemsize * THREADS)


def softmax_rows(rows: int) -> Geometry:
    """One warp a row."""
    return Geometry((_ceil(rows, THREADS // 32),), (32, THREADS // 32))


def group_norm(
    shape: tuple[int, int, int], groups: int, itemsize: int, shared_memory: int, backward: bool
) -> NormGeometry | None:
    """Return how to cut x, (N, pixels, channels) of numbers of `itemsize` bytes; None where a group is too wide.

    Args:
        shape: of x.
        groups: number of groups.
        itemsize: bytes of a stored number.
        shared_memory: bytes that a block can have.
        backward: whether dy is kept beside x, and two sums instead of one.
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
    each_takes = NORM_PIXELS if backward else 2 * NORM_PIXELS
    rows = min(count, NORM_THREADS // across, max(count // each_takes, _ceil(128, across)))
    block = (across, power_of_two(rows))
    arrays = 2 if backward else 1
    sums = 16 * _ceil(arrays * block[1] * width + 2 * chunk, 4)
    tile = arrays * itemsize * count * width
    tiled = sums + tile <= shared_memory
    grid = (n * (groups // chunk),)
    return NormGeometry(Geometry(grid, block, sums + tile if tiled else sums), chunk, lanes, tiled)


def channel_sums(rows: int, channels: int, lanes: int = 1, sums: int = 1, samples: int = 1) -> Geometry:
    """Threads (strip, row) that take sums over rows of `lanes` channels each, `sums` of a channel; blocks (sample,
    channels)."""
    block = (SUM_STRIPS, power_of_two(min(rows, THREADS // SUM_STRIPS)))
    return Geometry((samples, _ceil(channels, SUM_STRIPS * lanes)), block, 4 * sums * lanes * prod(block))


def product(m: int, n: int, count: int, itemsize: int, shared_memory: int) -> Geometry:
    """Blocks of a square tile each for `count` products, (m, n), of numbers of `itemsize` bytes.

    How many tiles are held at once changes no sum: k is gone through in one order.
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
    """Return the compiler's options for products in tiles of this side, so many of them held at once."""
    return (f"-DTILE={side}", f"-DSTAGES={stages}")


def split_product(m: int, n: int, count: int, k: int, itemsize: int, shared_memory: int) -> tuple[Geometry, int, int]:
    """Blocks for `count` products of inner dimension k, cut into parts; the parts and how much of k each takes."""
    step = 64 // itemsize
    steps = _ceil(k, step)
    most = max(1, steps // SPLIT_STEPS)
    cut = product(m, n, most * count, itemsize, shared_memory)
    blocks = cut.grid[0] // most
    each = _ceil(steps, min(most, _ceil(ENOUGH_BLOCKS, blocks)))
    parts = _ceil(steps, each)
    return replace(cut, grid=(parts * blocks,)), parts, each * step


def tiles_of_32(count: int) -> Geometry:
    """Blocks that each turn a tile of 32 × 32 float32 numbers, padded, in shared memory."""
    return Geometry((count,), (32, THREADS // 32), 4 * 32 * 33)


def pack_tiles(shapes: Sequence[tuple[int, ...]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the tiles of all parameters of these shapes, in the order of their buffer, (tiles, 7): what
    `packing.cu` calls PackTile. Of a vector the only row is turned to a column, which leaves it as it is."""
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
    """Blocks that sum chunks of dy's rows, then those that turn tiles of dw; how many sum, chunks, and rows in each."""
    across, block = _ceil(c_out, SUM_STRIPS * lanes), (SUM_STRIPS, THREADS // SUM_STRIPS)
    each = SUM_ROWS * _ceil(rows, SUM_CHUNKS * SUM_ROWS)
    chunks = _ceil(rows, each)
    tiles = taps * _ceil(c_in, 32) * _ceil(c_out, 32)
    shared = 4 * max(32 * 33, THREADS * lanes + 1)
    return Geometry((chunks * across + tiles,), block, shared), chunks * across, chunks, each


def power_of_two(most: int) -> int:
    """Return the largest power of two that is at most `most`."""
    return 1 << (most.bit_length() - 1)


def _tiles(m: int, n: int, side: int) -> int:
    return _ceil(m, side) * _ceil(n, side)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
