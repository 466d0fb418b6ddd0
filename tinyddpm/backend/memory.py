"""Settings of glibc's allocator, so that each step's arrays reuse the memory of the previous step's."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
"""Parameters of glibc's `mallopt`."""

NEVER = -1
"""Threshold at which the allocator never returns freed memory to the system."""


def keep_freed_memory() -> bool:
    """Make glibc's allocator keep freed memory for the next arrays; return whether it accepted the settings.

    By default it returns large blocks to the system at once, and the system must map every new array page by page, at
    every step. With these settings it takes all blocks from one heap, whatever their size and thread, and never trims
    it: each step's arrays reuse the memory of the previous step's. The settings hold for the whole process. Other
    allocators are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    told = [mallopt(M_TRIM_THRESHOLD, NEVER), mallopt(M_MMAP_MAX, 0), mallopt(M_ARENA_MAX, 1)]
    return all(told)
