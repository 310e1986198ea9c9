"""Quality against cost: which settings are worth having, and where more passes stop paying. Less is better in both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from soundstorm.errors import SoundStormError


@dataclass(kw_only=True, frozen=True, slots=True)
class CurvePoint:
    """What several seeds of one setting came to."""

    iterations: int
    quality: float
    """Mean over the seeds."""
    spread: float
    """Standard deviation over the seeds (divided by n - 1); 0 for a single one."""
    cost: float
    """Mean over the seeds."""
    values: tuple[float, ...]
    """Quality of each seed."""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the (quality, cost) that no other beats in one without losing in the other, the cheapest first; of
    equals the first stays."""
    order = sorted(range(len(points)), key=lambda position: (points[position][1], points[position][0], position))
    front: list[int] = []
    for position in order:
        if not front or points[position][0] < points[front[-1]][0]:
            front.append(position)
    return front


def iterations_curve(results: Mapping[int, Sequence[tuple[float, float]]]) -> list[CurvePoint]:
    """Mean and spread for each number of iterations, in their order.

    Args:
        results: (quality, cost) of each seed, by number of iterations; a number without any is left out.
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
    """The fewest iterations whose quality is no further from the best than chance moves such a difference.

    Chance is the standard error of the difference of the two means, with one spread pooled over the whole curve: three
    seeds of one point say little about it. All further points are within this distance or worse, so more iterations
    cost more and show no gain.

    Raises:
        SoundStormError: the curve has no point.
    """
    if not curve:
        raise SoundStormError("the iterations curve has no point: not one of its trials came to an end")
    best = min(curve, key=lambda point: point.quality)
    spread = pooled_spread(curve)
    enough = (
        point
        for point in curve
        if point.quality <= best.quality + spread * np.sqrt(1 / len(point.values) + 1 / len(best.values))
    )
    return next(enough)


def pooled_spread(curve: Sequence[CurvePoint]) -> float:
    """Standard deviation over seeds, taken over all points together; 0 where no point has more than one."""
    freedom = sum(len(point.values) - 1 for point in curve)
    return (
        float(np.sqrt(sum(point.spread**2 * (len(point.values) - 1) for point in curve) / freedom)) if freedom else 0.0
    )
