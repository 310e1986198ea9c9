"""The distance of generated clips to real ones beside that of real ones to themselves: their floor, over several
halvings of the real clips.

The floor is the distance of two halves of the real clips, cut between recordings; generated clips then stand in for the
second half, as many of
each class, so that neither has more clips to go by. The generated clips' distance is the mean over the halvings, and
the floor the root mean square: distances of equal distributions lie around 0, and what they are off by is the least
that can be told.

A Fréchet distance is extrapolated to endless clips for both or for neither, and never shown below 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.clip_sets import ClipSet
from soundstorm.evaluation.distances import FrechetLine, frechet_line, kernel_distance

NUM_SPLITS = 10
"""Ways to halve the real clips that a distance is averaged over."""

Rows = NDArray[np.float32]
Found = TypeVar("Found")


@dataclass(kw_only=True, frozen=True, slots=True)
class DistanceBasis:
    """What a distance was measured on, without which its value says nothing."""

    embedding: str
    """Name of the network."""
    embedding_sha256: str | None
    """SHA-256 of its weights, where they are known."""
    sample_rate_hz: int | None
    """Of the sound that it was given."""
    reference: str
    """The real clips that the distance is to."""
    generated_rows: int
    """Embeddings of generated clips, the fewest of a halving."""
    real_rows: int
    """Embeddings in the half of the real clips that they are compared with, the fewest of a halving."""
    splits: int
    """Halvings of the real clips."""
    extrapolated: bool | None
    """Whether it is that of endless clips; None for a distance that needs no extrapolation."""
    note: str | None
    """Why it is not extrapolated."""


@dataclass(kw_only=True, frozen=True, slots=True)
class SplitDistance:
    """What `frechet_over_splits` and `kernel_over_splits` find."""

    generated: float
    floor: float
    generated_rows: int
    real_rows: int
    extrapolated: bool | None = None
    note: str | None = None


def frechet_over_splits(real: ClipSet, generated: ClipSet, embedding: str, seed: int) -> SplitDistance:
    """Fréchet distance in an embedding, extrapolated to endless clips where that can be relied on; both values at least
    0.

    Args:
        real: real clips.
        generated: generated clips.
        embedding: name of the column, without `_embedding`.
        seed: draws the halves.

    Raises:
        SoundStormError: the real clips cannot be halved, or there are too few clips.
    """
    found, floor, rows = _over_splits(real, generated, embedding, seed, frechet_line)
    problem = _problem("generated", found) or _problem("real", floor)
    if problem is None:
        values, least = [line.at_infinity for line in found], [line.at_infinity for line in floor]
    else:
        values, least = [line.plain for line in found], [line.plain for line in floor]
    return SplitDistance(
        generated=max(0.0, float(np.mean(values))),
        floor=float(np.sqrt(np.mean(np.square(least)))),
        generated_rows=rows[0],
        real_rows=rows[1],
        extrapolated=problem is None,
        note=problem,
    )


def kernel_over_splits(real: ClipSet, generated: ClipSet, embedding: str, seed: int) -> SplitDistance:
    """Kernel distance in an embedding, which is unbiased, so that chance may put the generated clips' below 0;
    otherwise as `frechet_over_splits`."""
    found, floor, rows = _over_splits(real, generated, embedding, seed, kernel_distance)
    return SplitDistance(
        generated=float(np.mean(found)),
        floor=float(np.sqrt(np.mean(np.square(floor)))),
        generated_rows=rows[0],
        real_rows=rows[1],
    )


def _over_splits(
    real: ClipSet, generated: ClipSet, embedding: str, seed: int, measure: Callable[[Rows, Rows], Found]
) -> tuple[list[Found], list[Found], tuple[int, int]]:
    """`measure` of the generated clips and of the second half, each to the first half, and the fewest rows of both
    sides."""
    real_rows, generated_rows = real.embedding(embedding), generated.embedding(embedding)
    found, floor, sizes = [], [], []
    for split_seed in range(seed, seed + NUM_SPLITS):
        first, second = real.split_halves(split_seed)
        guests = generated.like([real.categories[position] for position in second], split_seed)
        if not (len(first) and len(second) and len(guests)):
            raise SoundStormError(
                "the real clips are of one recording, which cannot be halved"
                if len(guests)
                else "there are too few clips to compare"
            )
        base, others = (np.concatenate([real_rows[position] for position in half]) for half in (first, second))
        made = np.concatenate([generated_rows[position] for position in guests])
        floor.append(measure(base, others))
        found.append(measure(base, made))
        sizes.append((len(made), len(base)))
    made_rows, base_rows = np.min(sizes, axis=0)
    return found, floor, (int(made_rows), int(base_rows))


def _problem(whose: str, lines: list[FrechetLine]) -> str | None:
    """Why the lines of these halvings, taken together, are no ground to extrapolate from; None where they are."""
    plain, end, error = (
        float(np.mean(values))
        for values in zip(*((line.plain, line.at_infinity, line.standard_error) for line in lines), strict=True)
    )
    problem = FrechetLine(
        plain=plain, at_infinity=end, standard_error=error, num_rows=min(line.num_rows for line in lines)
    ).problem
    return None if problem is None else f"{problem} ({whose} clips)"
