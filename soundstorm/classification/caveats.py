"""Reasons why an accuracy is not meaningful, as phrases for messages and for the report."""

import math
from collections.abc import Mapping, Sequence

FEW_CLIPS = 30
"""With fewer test clips, the accuracy is reported with its confidence interval."""
CONFIDENCE_Z = 1.96
"""Half-width of the central 95% of a normal distribution, in standard deviations."""
MAX_NAMED = 3
"""Maximum number of classes that are listed."""


def accuracy_caveats(
    categories: Sequence[str], right: int, tested: Mapping[str, int], trained: Mapping[str, int] | None = None
) -> list[str]:
    """Why an accuracy is not meaningful, each a clause without full stop; empty if there is no reason.

    Args:
        categories: the classes that can be predicted.
        right: number of test clips classified correctly.
        tested: test clips per class.
        trained: training clips per class; None if unknown.
    """
    caveats = []
    if len(categories) == 1:
        caveats.append(f"'{categories[0]}' is the only class, so that every answer is right")
    if trained is not None:
        caveats += _lacking(categories, trained, "to train on")
    caveats += _lacking(categories, tested, "to test with")
    clips = sum(tested.values())
    if 0 < clips < FEW_CLIPS:
        low, high = wilson_interval(right, clips)
        caveats.append(
            f"{'1 clip leaves' if clips == 1 else f'{clips} clips leave'} it anywhere from {low:.0%} to {high:.0%} "
            "(95% confidence)"
        )
    return caveats


def wilson_interval(right: int, clips: int) -> tuple[float, float]:
    """95% confidence interval of a fraction of which `right` of `clips` were observed; clips at least 1.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927).
    """
    share, weight = right / clips, CONFIDENCE_Z**2 / clips
    centre = (share + weight / 2) / (1 + weight)
    reach = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def with_caveats(figures: str, caveats: Sequence[str]) -> str:
    """`figures`, a phrase with an accuracy, followed by its caveats."""
    return f"{figures}, which says little: {'; '.join(caveats)}" if caveats else figures


def _lacking(categories: Sequence[str], counts: Mapping[str, int], purpose: str) -> list[str]:
    """A clause on the classes that have no clips."""
    without = [category for category in categories if not counts.get(category)]
    if not without:
        return []
    named = ", ".join(f"'{category}'" for category in without[:MAX_NAMED])
    others = f" and {len(without) - MAX_NAMED} others" if len(without) > MAX_NAMED else ""
    return [f"{len(without)} of {len(categories)} classes ({named}{others}) had no clip {purpose}"]
