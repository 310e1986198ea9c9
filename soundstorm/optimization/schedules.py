"""Parts of learning-rate schedules: a linear warm-up and a cosine."""

import math


def warm_up(step: int, total_steps: int, share: float) -> float:
    """Factor of the learning rate at `step` (from 0): it rises evenly to 1 during the first `share` of all steps."""
    return min(1.0, (step + 1) / max(1.0, share * total_steps))


def cosine_between(start: float, end: float, progress: float) -> float:
    """The value at `progress` of a half cosine from `start` (progress 0) to `end` (1 and above)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
