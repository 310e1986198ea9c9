"""Batches of clips of equal length, so that no clip is padded."""

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
    """Apply `work` to batches of clips of equal length; returns a result per clip, in order.

    Args:
        clips: clips of any lengths.
        lengths: length of each clip.
        longest_batch: maximum total length of a batch; a longer clip is a batch of its own.
        work: maps clips of the same length to one result for each.
    """
    results: dict[int, np.ndarray] = {}
    for part in equal_batches(lengths, longest_batch):
        results.update(zip(part, work([clips[position] for position in part]), strict=True))
    return [results[position] for position in range(len(clips))]


def equal_batches(lengths: Sequence[int], longest_batch: float) -> Iterator[list[int]]:
    """Indices of clips of the same length, whose total length is at most `longest_batch`, or a single clip."""
    by_length: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        by_length.setdefault(length, []).append(position)
    for length, positions in by_length.items():
        size = max(1, int(longest_batch / max(length, 1)))
        yield from (positions[start : start + size] for start in range(0, len(positions), size))
