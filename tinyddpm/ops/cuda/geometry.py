"""How many blocks of how many threads, and how much shared memory, each kernel is launched with. Plain numbers.

None of the sizes has been tuned on a card.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

THREADS = 256
"""Threads in a block, where nothing else decides; a power of two."""

NORM_THREADS = 512
"""Most threads in a block of group norm."""

NORM_WIDTH = 16
"""Channels that a block of group norm takes at least, if there are so many: what lies side by side is read at once."""

MOST_WIDTH = 4096
"""Channels that a block of group norm takes at most: their sums lie in shared memory."""

PARTIAL_BLOCKS = 1024
"""Blocks, and so partial sums, of a sum over a whole buffer at most."""


@dataclass(frozen=True)
class Geometry:
    """Blocks in a grid, threads in a block, and the block's shared memory in bytes."""

    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int = 0


@dataclass(frozen=True)
class NormGeometry:
    """How a group norm is cut: whole groups to a block, and whether a block keeps what it reads in shared memory."""

    geometry: Geometry
    chunk: int
    tiled: bool


def elements(size: int) -> Geometry:
    """One thread an element."""
    return Geometry((_ceil(size, THREADS),), (THREADS,))


def pixels(count: int, length: int) -> Geometry:
    """One block a pixel, its threads over the `length` numbers there, in whole warps."""
    return Geometry((count,), (min(THREADS, 32 * _ceil(length, 32)),))


def counters(size: int, samples: int) -> Geometry:
    """One thread for four elements of a sample; blocks (counters, samples)."""
    return Geometry((_ceil(_ceil(size, 4), THREADS), samples), (THREADS,))


def partial_sums(size: int) -> Geometry:
    """Blocks that each take every so many elements, and sum them in shared memory."""
    return Geometry((min(PARTIAL_BLOCKS, _ceil(size, THREADS)),), (THREADS,), 4 * THREADS)


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
    chunk = next(k for k in range(1, groups + 1) if groups % k == 0 and (k * each >= NORM_WIDTH or k == groups))
    width = chunk * each
    if width > MOST_WIDTH:
        return None
    block = (min(width, NORM_THREADS), power_of_two(min(count, NORM_THREADS // min(width, NORM_THREADS))))
    arrays = 2 if backward else 1
    sums = 4 * (arrays * block[1] * width + 2 * chunk)
    tile = arrays * itemsize * count * width
    tiled = sums + tile <= shared_memory
    grid = (n * (groups // chunk),)
    return NormGeometry(Geometry(grid, block, sums + tile if tiled else sums), chunk, tiled)


def group_norm_parameters(samples: int, channels: int) -> Geometry:
    """Threads (channel, sample) that sum over samples."""
    block = (32, power_of_two(min(samples, THREADS // 32)))
    return Geometry((_ceil(channels, 32),), block, 2 * 4 * prod(block))


def power_of_two(most: int) -> int:
    """Return the largest power of two that is at most `most`."""
    return 1 << (most.bit_length() - 1)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
