"""Bounds the memory of a worker: it processes small groups of items, and returns freed memory to the system after
each."""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

import pyarrow as pa

Item = TypeVar("Item")


def held_together(items: Iterable[Item], size: Callable[[Item], float], most: float) -> Iterator[list[Item]]:
    """Groups of items of at most `most` in total size, or of one larger item; after each group, freed memory is
    returned to the system.

    Args:
        items: iterated on demand, in order.
        size: size of an item.
        most: maximum size of a group.
    """
    held: list[Item] = []
    held_size = 0.0
    for item in items:
        if held and held_size + size(item) > most:
            yield held
            release_memory()
            held, held_size = [], 0.0
        held.append(item)
        held_size += size(item)
    if held:
        yield held
        release_memory()


def release_memory() -> None:
    """Return freed memory to the system: that of Arrow and, if the C library is glibc, that of all else.

    glibc keeps freed blocks of up to 32 MB, and arrays of many sizes fragment its heap: the memory of a worker that
    processes many recordings grows although it uses no more. A call takes some milliseconds (malloc_trim(3)).
    """
    pa.default_memory_pool().release_unused()
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # another system, or another C library
        return None
