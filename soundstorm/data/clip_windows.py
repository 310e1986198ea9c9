"""Windows of a long recording: each is a clip of its own, named by the recording and its time range,
`dog/walk.wav#t=30,60` (W3C Media Fragments)."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise

_WINDOW = re.compile(r"(.+)#t=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A time range of a recording."""

    start_s: float
    duration_s: float

    def of(self, name: str) -> str:
        """The name, or URI, of this window of the recording `name`."""
        return f"{name}#t={_seconds(self.start_s)},{_seconds(self.start_s + self.duration_s)}"


def plan_windows(duration_s: float, longest_s: float) -> list[Window]:
    """Divide a recording into the smallest number of windows of at most `longest_s`, all of the same length (to a
    millisecond); empty if one window is enough."""
    count = math.ceil(round(duration_s / longest_s, 6))
    if count <= 1:
        return []
    edges = [round(duration_s * number / count, 3) for number in range(count + 1)]
    return [Window(start_s=start, duration_s=stop - start) for start, stop in pairwise(edges)]


def split_window(name: str) -> tuple[str, Window | None]:
    """The recording that a name or URI refers to, and the window of it; None for the whole recording."""
    match = _WINDOW.fullmatch(name)
    if match is None:
        return name, None
    start_s, stop_s = float(match[2]), float(match[3])
    return match[1], Window(start_s=start_s, duration_s=max(0.0, stop_s - start_s))


def _seconds(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
