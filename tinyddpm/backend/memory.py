"""Keeping freed memory, so that the arrays of one step are made of those of the step before."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's `mallopt`."""

MOST_TRIM, MOST_MMAP = 2**31 - 1, 2**25
"""The largest values that glibc takes, in bytes."""


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed for the next arrays; return whether it could be told.

    As it comes, it gives large blocks back to the system at once, and every new array is then paid for page by page, at
    every step. This holds for the whole process. Other allocators are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    told = [mallopt(M_TRIM_THRESHOLD, MOST_TRIM), mallopt(M_MMAP_THRESHOLD, MOST_MMAP)]
    return all(told)
