"""Distance between generated and real clips, and its baseline: the distance between two halves of the real clips, over
several random splits.

A split never puts clips of one recording into both halves. The generated clips then take the place of the second half,
with as many clips of each class, so that both distances are computed on the same number of clips. The result for the
generated clips is the mean over the splits. The baseline is the root mean square, because distances between samples of
the same distribution scatter around 0, and their scatter is the smallest difference that can be detected.

A Fréchet distance is extrapolated to infinitely many clips either for both or for neither, and is never reported below
0.
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
"""Number of random splits of the real clips."""

Rows = NDArray[np.float32]
Found = TypeVar("Found")


@dataclass(kw_only=True, frozen=True, slots=True)
class DistanceBasis:
    """What a distance was computed on; without this its value means nothing."""

    embedding: str
    """Name of the network."""
    embedding_sha256: str | None
    """SHA-256 of its weights, if known."""
    sample_rate_hz: int | None
    """Sample rate of its input."""
    reference: str
    """Which real clips the distance refers to."""
    generated_rows: int
    """Smallest number of embedding rows of generated clips in a split."""
    real_rows: int
    """Smallest number of embedding rows in the half of the real clips that they are compared with."""
    splits: int
    """Number of splits."""
    extrapolated: bool | None
    """Whether it is extrapolated to infinitely many clips; None for a distance that needs no extrapolation."""
    note: str | None
    """Why it is not extrapolated."""


@dataclass(kw_only=True, frozen=True, slots=True)
class SplitDistance:
    """Result of `frechet_over_splits` and `kernel_over_splits`."""

    generated: float
    floor: float
    generated_rows: int
    real_rows: int
    extrapolated: bool | None = None
    note: str | None = None


def frechet_over_splits(real: ClipSet, generated: ClipSet, embedding: str, seed: int) -> SplitDistance:
    """Fréchet distance in an embedding, extrapolated to infinitely many clips if that is reliable; both values are at
    least 0.

    Args:
        real: real clips.
        generated: generated clips.
        embedding: name of the column, without `_embedding`.
        seed: seed of the random splits.

    Raises:
        SoundStormError: the real clips cannot be split, or there are too few clips.
    """
    lines, floor, rows = _over_splits(real, generated, embedding, seed, frechet_line)
    problem = _problem("generated", lines) or _problem("real", floor)
    if problem is None:
        values, floors = [line.at_infinity for line in lines], [line.at_infinity for line in floor]
    else:
        values, floors = [line.plain for line in lines], [line.plain for line in floor]
    return SplitDistance(
        generated=max(0.0, float(np.mean(values))),
        floor=float(np.sqrt(np.mean(np.square(floors)))),
        generated_rows=rows[0],
        real_rows=rows[1],
        extrapolated=problem is None,
        note=problem,
    )


def kernel_over_splits(real: ClipSet, generated: ClipSet, embedding: str, seed: int) -> SplitDistance:
    """Kernel distance in an embedding. It is unbiased, so the value of the generated clips may be below 0 by chance;
    otherwise as `frechet_over_splits`."""
    values, floor, rows = _over_splits(real, generated, embedding, seed, kernel_distance)
    return SplitDistance(
        generated=float(np.mean(values)),
        floor=float(np.sqrt(np.mean(np.square(floor)))),
        generated_rows=rows[0],
        real_rows=rows[1],
    )


def _over_splits(
    real: ClipSet, generated: ClipSet, embedding: str, seed: int, measure: Callable[[Rows, Rows], Found]
) -> tuple[list[Found], list[Found], tuple[int, int]]:
    """`measure` of the generated clips and of the second half, each compared with the first half, and the smallest
    numbers of rows of both sides."""
    real_rows, generated_rows = real.embedding(embedding), generated.embedding(embedding)
    found, floor, sizes = [], [], []
    for split_seed in range(seed, seed + NUM_SPLITS):
        first, second = real.split_halves(split_seed)
        generated_positions = generated.sample_matching([real.categories[position] for position in second], split_seed)
        if not (len(first) and len(second) and len(generated_positions)):
            raise SoundStormError(
                "all real clips are of one recording, so they cannot be split into halves"
                if len(generated_positions)
                else "there are too few clips to compare"
            )
        base, others = (np.concatenate([real_rows[position] for position in half]) for half in (first, second))
        made = np.concatenate([generated_rows[position] for position in generated_positions])
        floor.append(measure(base, others))
        found.append(measure(base, made))
        sizes.append((len(made), len(base)))
    made_rows, base_rows = np.min(sizes, axis=0)
    return found, floor, (int(made_rows), int(base_rows))


def _problem(whose: str, lines: list[FrechetLine]) -> str | None:
    """Why these lines, averaged, are unreliable for extrapolation; None if they are reliable."""
    plain, end, error = (
        float(np.mean(values))
        for values in zip(*((line.plain, line.at_infinity, line.standard_error) for line in lines), strict=True)
    )
    problem = FrechetLine(
        plain=plain, at_infinity=end, standard_error=error, num_rows=min(line.num_rows for line in lines)
    ).problem
    return None if problem is None else f"{problem} ({whose} clips)"
