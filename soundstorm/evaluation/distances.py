"""Distances between two sets of clips whose embeddings have one or more rows per clip: the Fréchet distance, and a
kernel distance that does not assume normal distributions.

The values mean little by themselves: their unit is that of the embedding, and they depend on the number of real rows.
Compare them with the distance between two halves of the real clips. All computations are in float64.

| case | value |
|---|---|
| all rows of both sets are the same point | 0 |
| all real rows are the same point, so they have no median distance | bandwidth: median distance to the other rows |
| `frechet_line` ends below 0, or with an error above a third of the plain distance | the plain distance |
| too few rows, unequal widths, NaN or infinity | SoundStormError |

Legend: N rows, D dimensions, R rank, min(N, D).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from soundstorm.errors import SoundStormError

MIN_ROWS_INFINITY = 8
"""With fewer rows, half of them are too few to estimate a covariance."""
_SIZES = 10
_DRAWS = 4
"""Random subsets per size, whose distances `frechet_line` averages."""
MAX_ERROR = 1 / 3
"""If the standard error of the extrapolated distance exceeds this fraction of the plain one, the plain distance is
used."""
_BLOCK_ROWS = 1024
_BANDWIDTH_ROWS = 2000
"""Maximum number of evenly spaced real rows from which the median distance is computed."""


def frechet_distance(real_ND: NDArray[np.floating], other_ND: NDArray[np.floating]) -> float:
    """Squared Fréchet distance between the Gaussians fitted to both sets, |m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½), at
    least 0.

    There may be fewer rows than dimensions. The estimate is biased upwards, by about a constant over the number of
    rows: see `frechet_line`.

    Args:
        real_ND: at least 2 rows.
        other_ND: at least 2 rows of the same width.

    Raises:
        SoundStormError: fewer than 2 rows, unequal widths, or values that are not finite.

    Source: Kilgour et al., "Fréchet Audio Distance", arXiv 1812.08466, section 3.
    """
    real_ND, other_ND = _checked(real_ND, other_ND, min_other=2)
    return max(0.0, _between(fit_gaussian(real_ND), fit_gaussian(other_ND)))


@dataclass(kw_only=True, frozen=True, slots=True)
class FrechetLine:
    """A Fréchet distance and its extrapolation to infinitely many rows."""

    plain: float
    """Distance from all rows, at least 0."""
    at_infinity: float
    """Extrapolated distance; as an estimate it may be below 0."""
    standard_error: float
    """Standard error of `at_infinity`, from the residuals of the linear fit."""
    num_rows: int
    """Number of other rows."""

    @property
    def problem(self) -> str | None:
        """Why the extrapolation is unreliable; None if it is reliable."""
        if self.at_infinity < 0:
            return f"not extrapolated: with {self.num_rows} rows the extrapolation is below 0"
        if self.standard_error > MAX_ERROR * self.plain:
            return f"not extrapolated: with {self.num_rows} rows its standard error is too large"
        return None

    @property
    def value(self) -> float:
        """The extrapolated distance if it is reliable; otherwise the plain one, which is biased upwards by about a
        constant over the number of rows."""
        return self.at_infinity if self.problem is None else self.plain


def frechet_line(
    real_ND: NDArray[np.floating], other_ND: NDArray[np.floating], seed: int = 0, real: "Gaussian | None" = None
) -> FrechetLine:
    """Fit a line to `frechet_distance` as a function of 1/n, for subsets of half to all of the other rows, and
    extrapolate it to 1/n = 0.

    All real rows are used each time, so the bias from their number remains. The subsets are drawn without replacement
    and contain at least half of the rows: on Gaussians of 16 and 128 dimensions this had the least bias, and subsets
    down to a tenth more than doubled it. If the sets share rows, as when a set is compared with itself, the line ends
    far below 0.

    Args:
        real_ND: at least 2 rows.
        other_ND: at least 8 rows of the same width.
        seed: seed of the random subsets.
        real: `fit_gaussian` of the real rows, if it is known.

    Raises:
        SoundStormError: too few rows, unequal widths, or values that are not finite.

    Source: Chong & Forsyth, "Effectively Unbiased FID", arXiv 1911.07023, section 4; for audio: Gui et al., arXiv
    2311.01616.
    """
    real_ND, other_ND = _checked(real_ND, other_ND, min_other=MIN_ROWS_INFINITY)
    generator, real, number = np.random.default_rng(seed), real or fit_gaussian(real_ND), len(other_ND)
    sizes = np.unique(np.rint(1 / np.linspace(2 / number, 1 / number, _SIZES)).astype(int))
    distances = []
    for size in sizes:
        subsets = (
            [other_ND] if size == number else [other_ND[generator.permutation(number)[:size]] for _ in range(_DRAWS)]
        )
        distances.append(np.mean([_between(real, fit_gaussian(subset)) for subset in subsets]))
    inverse, points = 1 / sizes, np.array(distances)
    slope, end = np.polyfit(inverse, points, 1)
    variance = np.square(points - slope * inverse - end).sum() / (len(sizes) - 2)
    error = np.sqrt(variance * np.square(inverse).mean() / np.square(inverse - inverse.mean()).sum())
    return FrechetLine(
        plain=max(0.0, float(points[-1])), at_infinity=float(end), standard_error=float(error), num_rows=number
    )


@dataclass(kw_only=True, frozen=True, slots=True)
class KernelBasis:
    """What `kernel_distance` computes from the real rows alone."""

    bandwidth: float
    """σ, above 0."""
    mean_within: float
    """Mean of the kernel over all pairs of different real rows."""


def kernel_basis(real_ND: NDArray[np.floating]) -> KernelBasis | None:
    """The basis of at least 2 real rows; None if all are the same point, so that σ depends on the other rows."""
    real_ND = _rows(real_ND, "real", 2)
    bandwidth = _median_distance(pdist(real_ND[:: -(-len(real_ND) // _BANDWIDTH_ROWS)]))
    return _basis(real_ND, bandwidth) if bandwidth else None


def kernel_distance(
    real_ND: NDArray[np.floating], other_ND: NDArray[np.floating], basis: KernelBasis | None = None
) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel exp(-d² / 2σ²), where σ is the median distance between
    two real rows; at most 2.

    The mean of the estimate is 0 for equal distributions and any number of rows, so it is negative about as often as
    positive. Time, but not memory, grows with the square of the number of rows: about 1 s for 4,000 and 4,000.

    Args:
        real_ND: at least 2 rows.
        other_ND: at least 2 rows of the same width.
        basis: `kernel_basis` of the real rows, if it is known.

    Raises:
        SoundStormError: fewer than 2 rows, unequal widths, or values that are not finite.

    Source: Chung et al., "KAD: No More FAD!", arXiv 2502.15602, section 3, without its constant factor; Gretton et al.,
    JMLR 13 (2012), lemma 6.
    """
    a_ND, b_ND = _checked(real_ND, other_ND, min_other=2)
    basis = basis or kernel_basis(a_ND)
    if basis is None:
        bandwidth = _median_distance(cdist(a_ND[:1], b_ND))
        if bandwidth == 0:
            return 0.0
        basis = _basis(a_ND, bandwidth)
    centre_D = a_ND.mean(axis=0)
    a_ND, b_ND = (a_ND - centre_D) / basis.bandwidth, (b_ND - centre_D) / basis.bandwidth
    return basis.mean_within + _mean_kernel_within(b_ND) - 2 * _kernel_sum(a_ND, b_ND) / (len(a_ND) * len(b_ND))


@dataclass(frozen=True, slots=True)
class Gaussian:
    """What a Fréchet distance is computed from: mean and a factor of the covariance: C = factorᵀ factor."""

    mean_D: NDArray[np.float64]
    factor_RD: NDArray[np.float64]


def fit_gaussian(rows_ND: NDArray[np.floating]) -> Gaussian:
    """The Gaussian of at least 2 rows; raises SoundStormError as `frechet_distance`."""
    rows_ND = _rows(rows_ND, "real", 2)
    mean_D = rows_ND.mean(axis=0)
    return Gaussian(mean_D, np.linalg.qr(rows_ND - mean_D, mode="r") / np.sqrt(len(rows_ND) - 1))


def _between(real: Gaussian, other: Gaussian) -> float:
    """Fréchet distance without a matrix square root: tr (C₁ C₂)^½ is the sum of the singular values of factor₁
    factor₂ᵀ."""
    cross = np.linalg.svd(real.factor_RD @ other.factor_RD.T, compute_uv=False).sum()
    spread = np.square(real.factor_RD).sum() + np.square(other.factor_RD).sum()
    return float(np.square(real.mean_D - other.mean_D).sum() + spread - 2 * cross)


def _basis(real_ND: NDArray[np.float64], bandwidth: float) -> KernelBasis:
    within = _mean_kernel_within((real_ND - real_ND.mean(axis=0)) / bandwidth)
    return KernelBasis(bandwidth=bandwidth, mean_within=within)


def _median_distance(distances: NDArray[np.float64]) -> float:
    """The median; if most are 0, of those above 0; 0 if all are."""
    if not distances.any():
        return 0.0
    return float(np.median(distances)) or float(np.median(distances[distances > 0]))


def _mean_kernel_within(rows_ND: NDArray[np.float64]) -> float:
    """Mean of the kernel over all pairs of different rows."""
    return (_kernel_sum(rows_ND, rows_ND) - len(rows_ND)) / (len(rows_ND) * (len(rows_ND) - 1))


def _kernel_sum(rows_ND: NDArray[np.float64], others_ND: NDArray[np.float64]) -> float:
    """Sum of exp(-d² / 2) over all pairs, computed in blocks of rows."""
    total, others_sq = 0.0, np.square(others_ND).sum(axis=1)
    for start in range(0, len(rows_ND), _BLOCK_ROWS):
        block_ND = rows_ND[start : start + _BLOCK_ROWS]
        squared = np.square(block_ND).sum(axis=1)[:, None] + others_sq - 2 * block_ND @ others_ND.T
        total += float(np.exp(-np.maximum(squared, 0) / 2).sum())
    return total


def _checked(
    real_ND: NDArray[np.floating], other_ND: NDArray[np.floating], min_other: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    real64_ND, other64_ND = _rows(real_ND, "real", 2), _rows(other_ND, "other", min_other)
    if real64_ND.shape[1] != other64_ND.shape[1]:
        raise SoundStormError(
            f"real embeddings have width {real64_ND.shape[1]}, other {other64_ND.shape[1]}: embed both with the same "
            "network"
        )
    return real64_ND, other64_ND


def _rows(embedding_ND: NDArray[np.floating], what: str, least: int) -> NDArray[np.float64]:
    rows_ND: NDArray[np.float64] = np.asarray(embedding_ND, dtype=np.float64)
    if rows_ND.ndim != 2 or len(rows_ND) < least or rows_ND.shape[1] == 0:
        raise SoundStormError(
            f"{what} embeddings of shape {rows_ND.shape}: a distance needs at least {least} rows, shape (N, D): add "
            "clips"
        )
    if not np.isfinite(rows_ND).all():
        raise SoundStormError(f"{what} embeddings contain NaN or infinity: embed these clips again")
    return rows_ND


def within_class_distance(embedding_ND: NDArray[np.floating], categories: Sequence[str]) -> float | None:
    """Mean Euclidean distance between two clips of the same class, averaged over classes; None if no class has two
    clips.

    Every class has the same weight. The unit is that of the embedding: compare the value with that of real clips.

    Args:
        embedding_ND: a row per clip.
        categories: the class of each row.

    Raises:
        SoundStormError: the numbers of rows and classes differ, or a value is not finite.
    """
    points_ND: NDArray[np.float64] = np.asarray(embedding_ND, dtype=np.float64)
    if points_ND.ndim != 2 or len(points_ND) != len(categories):
        raise SoundStormError(
            f"embeddings of shape {points_ND.shape} for {len(categories)} clips: expected one row per clip, shape "
            "(N, D)"
        )
    if not np.isfinite(points_ND).all():
        raise SoundStormError("embeddings contain NaN or infinity: embed these clips again")
    rows: dict[str, list[int]] = {}
    for row, category in enumerate(categories):
        rows.setdefault(category, []).append(row)
    distances = [_mean_distance(points_ND[members]) for members in rows.values() if len(members) > 1]
    return float(np.mean(distances)) if distances else None


def _mean_distance(points_ND: NDArray[np.float64]) -> float:
    """Mean distance over all pairs of different rows, computed in blocks of rows."""
    number = len(points_ND)
    total = sum(
        float(cdist(points_ND[start : start + _BLOCK_ROWS], points_ND).sum()) for start in range(0, number, _BLOCK_ROWS)
    )
    return total / (number * (number - 1))
