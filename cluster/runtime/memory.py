"""Memory that a worker is done with, given back to the system before it takes more."""

import ctypes
from functools import cache
from typing import Any


def release_memory() -> None:
    """Give back what was freed, where the C library is glibc; elsewhere nothing happens.

    glibc keeps freed blocks of up to 32 MB, and arrays of many lengths leave gaps among them that later ones do not fit: a worker that takes
    recording after recording grows though it holds no more. One call takes some milliseconds (malloc_trim(3)).
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # another system, or another C library
        return None
