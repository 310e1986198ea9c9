"""Independent work items in parallel threads of one process."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_threads(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """Results of `work` for each item, in order.

    Args:
        work: called in several threads at once; torch and numpy release the GIL while they compute.
        items: its arguments.
        threads: number of threads. With several, each computes on one core, so that results do not depend on the
            number. 1: everything runs in the calling thread, with its own number of cores.
    """
    if threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(min(threads, len(items)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)  # the pool's number would be that of threads that start later
