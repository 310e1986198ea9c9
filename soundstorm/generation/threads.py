"""Draws that are independent of each other, side by side on the cores that one process has."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """`work` of each item, in their order.

    Args:
        work: is called in several threads at once; torch and numpy let go of Python's lock while they compute.
        items: what it is called with.
        threads: at once, each of which computes on one core, so that results do not depend on their number; 1: this
            thread does it, with as many cores as it has.
    """
    if threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(work, items))
