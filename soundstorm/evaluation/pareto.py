"""Quality against cost: the Pareto-optimal settings, and the number of iterations beyond which quality no longer
improves. `quality` is a distance, so lower is better for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soundstorm.errors import SoundStormError


@dataclass(kw_only=True, frozen=True, slots=True)
class CurvePoint:
    """Results of several seeds of one setting."""

    iterations: int
    quality: float
    """Mean over the seeds."""
    spread: float
    """Standard deviation over the seeds (divided by n - 1); 0 for a single seed."""
    cost: float
    """Mean over the seeds."""
    values: tuple[float, ...]
    """Quality of each seed."""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal (quality, cost) pairs, cheapest first; of equal pairs, the first."""
    order = sorted(range(len(points)), key=lambda position: (points[position][1], points[position][0], position))
    front: list[int] = []
    for position in order:
        if not front or points[position][0] < points[front[-1]][0]:
            front.append(position)
    return front


def iterations_curve(results: Mapping[int, Sequence[tuple[float, float]]]) -> list[CurvePoint]:
    """Mean and standard deviation for each number of iterations, in ascending order.

    Args:
        results: (quality, cost) of each seed, by number of iterations; a number without seeds is left out.
    """
    curve = []
    for iterations, seeds in sorted(results.items()):
        if seeds:
            quality = np.array([value for value, _ in seeds])
            curve.append(
                CurvePoint(
                    iterations=iterations,
                    quality=float(quality.mean()),
                    spread=float(quality.std(ddof=1)) if len(seeds) > 1 else 0.0,
                    cost=float(np.mean([cost for _, cost in seeds])),
                    values=tuple(quality.tolist()),
                )
            )
    return curve


def fewest_sufficient_iterations(curve: Sequence[CurvePoint]) -> CurvePoint:
    """The smallest number of iterations whose quality does not differ from the best by more than chance.

    Chance is the standard error of the difference of two means, with one standard deviation pooled over the whole
    curve, because three seeds of a single point are too few to estimate it. More iterations than this cost more without
    measurable gain.

    Raises:
        SoundStormError: the curve has no points.
    """
    if not curve:
        raise SoundStormError("the iterations curve has no point: none of its trials finished")
    best = min(curve, key=lambda point: point.quality)
    std = pooled_std(curve)
    sufficient = (
        point
        for point in curve
        if point.quality <= best.quality + std * np.sqrt(1 / len(point.values) + 1 / len(best.values))
    )
    return next(sufficient)


def pooled_std(curve: Sequence[CurvePoint]) -> float:
    """Standard deviation over seeds, pooled over all points; 0 if no point has more than one seed."""
    freedom = sum(len(point.values) - 1 for point in curve)
    return (
        float(np.sqrt(sum(point.spread**2 * (len(point.values) - 1) for point in curve) / freedom)) if freedom else 0.0
    )
