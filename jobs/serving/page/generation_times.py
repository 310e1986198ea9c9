"""Recent generation times, for display."""

from collections import deque
from dataclasses import dataclass, field

MEASURED = 40
"""Number of recent sounds that are averaged."""


@dataclass
class GenerationTimes:
    """Generation times of the sounds of the page."""

    _taken: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MEASURED))
    """Duration of each sound, and seconds from request to result."""
    num_pending: int = 0
    """Number of requested sounds that are not finished."""

    def add(self, duration_s: float, seconds: float) -> None:
        """Add a sound of `duration_s` that took `seconds`."""
        self._taken.append((duration_s, seconds))

    @property
    def sentence(self) -> str:
        """Display text with the mean time and the number of pending sounds."""
        if not self._taken:
            cost = "No sound has been generated yet, so the time per sound is unknown."
        else:
            lengths, seconds = (sum(column) for column in zip(*self._taken, strict=True))
            count = len(self._taken)
            last = "the last sound" if count == 1 else f"each of the last {count} sounds"
            cost = (
                f"From pressing the button, {last} took {in_words(seconds / count)}, or {in_words(seconds / lengths)} "
                "for each second of sound, waiting included."
            )
        waiting = {0: "No sound is pending.", 1: "1 sound is pending."}
        return f"{cost} {waiting.get(self.num_pending, f'{self.num_pending} sounds are pending.')}"


def in_words(seconds: float) -> str:
    """`3.2 s`, `85 s` or `4 min`."""
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
