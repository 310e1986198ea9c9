"""The order in which workers process the clips. It depends on (seed, epoch) only, so a resumed run has the same
order."""

import math
from collections.abc import Iterator

import numpy as np


def steps_per_epoch(num_clips: int, batch_size: int, world_size: int) -> int:
    """Optimizer steps per epoch if `world_size` workers pass over `num_clips` with batches of at most `batch_size`
    each."""
    return math.ceil(math.ceil(num_clips / world_size) / batch_size)


def epoch_batches(
    num_clips: int, batch_size: int, *, seed: int, epoch: int, rank: int, world_size: int
) -> Iterator[list[int]]:
    """The clips of each batch of a worker in an epoch.

    A permutation that depends on (seed, epoch) is distributed over the workers in turn, and each worker's clips are
    divided into batches whose sizes differ by at most one. All workers get the same number of batches, of the same
    sizes; if the clips cannot be divided evenly, the first ones of the permutation are used twice. No clip is left out.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_clips)
    per_worker = math.ceil(num_clips / world_size)
    worker_indices = np.resize(order, per_worker * world_size)[rank::world_size]
    for batch in np.array_split(worker_indices, steps_per_epoch(num_clips, batch_size, world_size)):
        yield batch.tolist()
