"""Which clips a worker sees when: the same order on every number of tries, from (seed, epoch) alone."""

import math
from collections.abc import Iterator

import numpy as np


def steps_per_epoch(num_clips: int, batch_size: int, world_size: int) -> int:
    """Optimizer steps in which `world_size` workers pass over `num_clips` with batches of at most `batch_size` each."""
    return math.ceil(math.ceil(num_clips / world_size) / batch_size)


def epoch_batches(
    num_clips: int, batch_size: int, *, seed: int, epoch: int, rank: int, world_size: int
) -> Iterator[list[int]]:
    """The clips of each batch of one worker in one epoch.

    One permutation, which (seed, epoch) fix, is dealt over the workers like cards, and each hand is cut into batches
    whose sizes differ by at most one. All workers get the same number of batches, of the same sizes; where the clips do
    not come out even, the first of the permutation are dealt a second time. No clip is left out.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_clips)
    per_worker = math.ceil(num_clips / world_size)
    hand = np.resize(order, per_worker * world_size)[rank::world_size]
    for batch in np.array_split(hand, steps_per_epoch(num_clips, batch_size, world_size)):
        yield batch.tolist()
