"""How long sounds take here, as measured on the last ones."""

from collections import deque
from dataclasses import dataclass, field

MEASURED = 40
"""Sounds that count."""


@dataclass
class Times:
    """Of the sounds that the page asked for."""

    _taken: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MEASURED))
    """Length of each sound, and the seconds from asking for it to having it."""
    in_the_making: int = 0
    """Sounds that visitors of the page wait for."""

    def add(self, duration_s: float, seconds: float) -> None:
        """Note that a sound of `duration_s` took `seconds`."""
        self._taken.append((duration_s, seconds))

    @property
    def sentence(self) -> str:
        """What it costs and how many wait, for people."""
        if not self._taken:
            cost = "No sound was made yet, so it is not known how long one takes."
        else:
            lengths, seconds = (sum(column) for column in zip(*self._taken, strict=True))
            count = len(self._taken)
            last = "the last sound" if count == 1 else f"each of the last {count} sounds"
            cost = (
                f"From pressing the button, {last} took {in_words(seconds / count)}, or {in_words(seconds / lengths)} "
                "for each second of sound, waiting included."
            )
        waiting = {0: "Nobody waits.", 1: "1 sound is in the making."}
        return f"{cost} {waiting.get(self.in_the_making, f'{self.in_the_making} sounds are in the making.')}"


def in_words(seconds: float) -> str:
    """`3.2 s`, `85 s` or `4 min`."""
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
