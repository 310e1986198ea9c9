"""Distance between generated and real clips, and its baseline: the distance between two halves of the real clips, over
several random splits.

A split never puts clips of one recording into both halves. The generated clips then take the place of the second half,
with as many clips of each class, so that both distances are computed on the same number of clips. The result for the
generated clips is the mean over the splits. The baseline is the root mean square, because distances between samples of
the same distribution scatter around 0, and their scatter is the smallest difference that can be detected.

The baseline depends on the real clips alone, and takes most of the time where they are many: a store keeps it for later
evaluations.

A Fréchet distance is extrapolated to infinitely many clips either for both or for neither, and is never reported below
0.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.clip_sets import ClipSet
from soundstorm.evaluation.distances import (
    FrechetLine,
    KernelBasis,
    fit_gaussian,
    frechet_line,
    kernel_basis,
    kernel_distance,
)

NUM_SPLITS = 10
"""Number of random splits of the real clips."""

Rows = NDArray[np.float32]
Found = TypeVar("Found")
Kept = dict[str, float]
"""What a measure keeps of one split of the real clips."""
Measure = Callable[[Rows, Rows, Rows, Kept | None], tuple[Found, Found, Kept]]
"""Takes the rows of the first half, of the second, of the generated clips, and what it has kept of the same halves;
returns the distances of the generated clips and of the second half from the first, and what it keeps."""


class BaselineStore(Protocol):
    """Keeps what was computed from real clips, by a digest of all that it depends on."""

    def find(self, key: str) -> list[Kept] | None:
        """What was kept for each split, if anything."""

    def keep(self, key: str, splits: list[Kept]) -> None:
        """Keep it for later."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Splits:
    """How the real clips are split."""

    seed: int = 0
    """Seed of the random splits."""
    store: BaselineStore | None = None
    """Where baselines are kept for later evaluations; None: nowhere."""


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


def frechet_over_splits(real: ClipSet, generated: ClipSet, embedding: str, splits: Splits) -> SplitDistance:
    """Fréchet distance in an embedding, extrapolated to infinitely many clips if that is reliable; both values are at
    least 0.

    Args:
        real: real clips.
        generated: generated clips.
        embedding: name of the column, without `_embedding`.
        splits: how the real clips are split.

    Raises:
        SoundStormError: the real clips cannot be split, or there are too few clips.
    """
    lines, floor, rows = _over_splits(real, generated, embedding, splits, _frechet)
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


def kernel_over_splits(real: ClipSet, generated: ClipSet, embedding: str, splits: Splits) -> SplitDistance:
    """Kernel distance in an embedding. It is unbiased, so the value of the generated clips may be below 0 by chance;
    otherwise as `frechet_over_splits`."""
    values, floor, rows = _over_splits(real, generated, embedding, splits, _kernel)
    return SplitDistance(
        generated=float(np.mean(values)),
        floor=float(np.sqrt(np.mean(np.square(floor)))),
        generated_rows=rows[0],
        real_rows=rows[1],
    )


def _frechet(base: Rows, others: Rows, made: Rows, kept: Kept | None) -> tuple[FrechetLine, FrechetLine, Kept]:
    real = fit_gaussian(base)
    floor = frechet_line(base, others, real=real) if kept is None else FrechetLine(**kept)  # type: ignore[arg-type]
    return frechet_line(base, made, real=real), floor, asdict(floor)


def _kernel(base: Rows, others: Rows, made: Rows, kept: Kept | None) -> tuple[float, float, Kept]:
    if kept is None:
        basis = kernel_basis(base)
        floor = kernel_distance(base, others, basis)
        kept = {"floor": floor} | ({} if basis is None else asdict(basis))
    floor = kept["floor"]
    basis = KernelBasis(bandwidth=kept["bandwidth"], mean_within=kept["mean_within"]) if len(kept) > 1 else None
    return kernel_distance(base, made, basis), floor, kept


def _over_splits(
    real: ClipSet, generated: ClipSet, embedding: str, splits: Splits, measure: Measure[Found]
) -> tuple[list[Found], list[Found], tuple[int, int]]:
    """`measure` of the generated clips and of the second half, each compared with the first half, and the smallest
    numbers of rows of both sides."""
    real_rows, generated_rows = real.embedding(embedding), generated.embedding(embedding)
    key = _digest(real, real_rows, measure.__name__, splits.seed)
    known = None if splits.store is None else splits.store.find(key)
    found, floor, sizes, kept = [], [], [], list[Kept]()
    for split in range(NUM_SPLITS):
        first, second = real.split_halves(splits.seed + split)
        categories = [real.categories[position] for position in second]
        generated_positions = generated.sample_matching(categories, splits.seed + split)
        if not (len(first) and len(second) and len(generated_positions)):
            raise SoundStormError(
                "all real clips are of one recording, so they cannot be split into halves"
                if len(generated_positions)
                else "there are too few clips to compare"
            )
        base, others = (np.concatenate([real_rows[position] for position in half]) for half in (first, second))
        made = np.concatenate([generated_rows[position] for position in generated_positions])
        distance, baseline, of_real = measure(base, others, made, None if known is None else known[split])
        found.append(distance)
        floor.append(baseline)
        kept.append(of_real)
        sizes.append((len(made), len(base)))
    if splits.store is not None and known is None:
        splits.store.keep(key, kept)
    made_rows, base_rows = np.min(sizes, axis=0)
    return found, floor, (int(made_rows), int(base_rows))


def _digest(real: ClipSet, rows: list[Rows], measure: str, seed: int) -> str:
    """SHA-256 of all that the baseline depends on, beside the code."""
    about = [measure, seed, NUM_SPLITS, real.categories, real.table["recording"].to_pylist()]
    found = hashlib.sha256(json.dumps([*about, [row.shape for row in rows]]).encode())
    for row in rows:
        found.update(row.tobytes())
    return found.hexdigest()


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
