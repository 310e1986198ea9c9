"""Clips of equal length together, so that none is padded."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

Clip = TypeVar("Clip")


def in_equal_batches(
    clips: Sequence[Clip],
    lengths: Sequence[int],
    longest_batch: float,
    work: Callable[[list[Clip]], Sequence[np.ndarray]],
) -> list[np.ndarray]:
    """What `work` makes of each clip, in order; it is given clips of equal length together, so that nothing needs
    padding.

    Args:
        clips: of any lengths.
        lengths: of each clip.
        longest_batch: most of these lengths in one batch, in all; a clip that is longer is a batch of its own.
        work: clips of one length to one result for each.
    """
    results: dict[int, np.ndarray] = {}
    for part in equal_batches(lengths, longest_batch):
        results.update(zip(part, work([clips[position] for position in part]), strict=True))
    return [results[position] for position in range(len(clips))]


def equal_batches(lengths: Sequence[int], longest_batch: float) -> Iterator[list[int]]:
    """Positions of clips of one and the same length, at most `longest_batch` of these lengths in all, or one clip."""
    by_length: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        by_length.setdefault(length, []).append(position)
    for length, positions in by_length.items():
        size = max(1, int(longest_batch / max(length, 1)))
        yield from (positions[start : start + size] for start in range(0, len(positions), size))
