"""Keeping freed memory, so that the arrays of one step are made of those of the step before."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Names of glibc's `mallopt`."""

NEVER = -1


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed for the next arrays; return whether it could be told.

    As it comes, it gives large blocks back to the system at once, and every new array is then paid for page by page, at
    every step. Told so, it takes all blocks from one heap, whatever their size and thread, and never trims it: a step's
    arrays are made of those of the step before. This holds for the whole process. Other allocators are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    told = [mallopt(M_TRIM_THRESHOLD, NEVER), mallopt(M_MMAP_MAX, 0), mallopt(M_ARENA_MAX, 1)]
    return all(told)
