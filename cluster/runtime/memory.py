"""Bounded memory in a worker: little is held at once, and what it is done with is given back to the system before it
takes more."""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

Item = TypeVar("Item")


def held_together(items: Iterable[Item], size: Callable[[Item], float], most: float) -> Iterator[list[Item]]:
    """Items in groups of at most `most` in all, or of one that is larger; after each group its memory is given back.

    Args:
        items: made as they are asked for, in order.
        size: of an item.
        most: of a group.
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
    """Give back what was freed, where the C library is glibc; elsewhere nothing happens.

    glibc keeps freed blocks of up to 32 MB, and arrays of many lengths leave gaps among them that later ones do not
    fit: a worker that takes recording after recording grows though it holds no more. One call takes some milliseconds
    (malloc_trim(3)).
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
