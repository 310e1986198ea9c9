"""Freed memory that stays with the process, for work that allocates and frees the same large arrays again and again.

By default glibc returns memory at the end of the heap to the system as soon as more than a few megabytes are free
there, and the next pass of a network gets the same pages anew, zeroed one by one: a tenth of the time of `generate`.
"""

import ctypes
import os
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
KEPT_BYTES = 256 * 2**20
"""Free bytes at the end of the heap that are kept."""
LARGEST_BYTES = 32 * 2**20
"""Larger blocks than this, the most that glibc accepts, come from the system and go back to it one by one."""
OWN_SETTINGS = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD")
"""Variables by which users choose how their processes allocate."""


@cache
def keep_freed_memory() -> bool:
    """Keep up to `KEPT_BYTES` of freed memory in this process from now on; returns whether it does. Without glibc, or
    if an environment variable already decides, nothing changes."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in OWN_SETTINGS):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
