"""Stretches of a recording that are made anew: named in seconds, kept as samples."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from soundstorm.errors import SoundStormError

LEAST_S = 0.01
"""Of a region: one cross-fade."""
_TEXT = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*s?\s*-\s*(\d+\.?\d*|\.\d+)\s*s?\s*")


@dataclass(frozen=True, order=True)
class Region:
    """From `start_s` to `end_s`, seconds from the recording's beginning.

    Raises:
        SoundStormError: it does not end after its start, or is shorter than a cross-fade.
    """

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and math.isfinite(self.end_s) and self.start_s >= 0):
            raise SoundStormError(f"region {self}: give seconds from 0 on, such as 1.2-2.0")
        if self.end_s <= self.start_s:
            raise SoundStormError(f"region {self} does not end after its start: give START-END, such as 1.2-2.0")
        if self.end_s - self.start_s < LEAST_S:
            raise SoundStormError(f"region {self} is too short to be made anew: give at least {LEAST_S:g} s")

    def __str__(self) -> str:
        return f"{self.start_s:g}-{self.end_s:g}"


def parse_region(text: str) -> Region:
    """The region that `1.2-2.0` names, in seconds.

    Raises:
        SoundStormError: it names none.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise SoundStormError(f"region '{text}' is not understood: give START-END in seconds, such as 1.2-2.0")
    return Region(float(found[1]), float(found[2]))


def merged(regions: Sequence[Region]) -> list[Region]:
    """The regions in order, those that overlap or touch as one."""
    found: list[Region] = []
    for region in sorted(regions):
        if found and region.start_s <= found[-1].end_s:
            found[-1] = Region(found[-1].start_s, max(found[-1].end_s, region.end_s))
        else:
            found.append(region)
    return found


def sample_spans(regions: Sequence[Region], num_samples: int, sample_rate: int) -> list[tuple[int, int]]:
    """First sample of each region and the one after its last, in order; regions that overlap or touch are one.

    Args:
        regions: at least one.
        num_samples: of the recording.
        sample_rate: samples per second.

    Raises:
        SoundStormError: there is no region, or one reaches beyond the recording's end.
    """
    if not regions:
        raise SoundStormError("no region: say what to make anew, in seconds, such as 1.2-2.0")
    spans = []
    for region in merged(regions):
        first, end = round(region.start_s * sample_rate), round(region.end_s * sample_rate)
        if end > num_samples:
            raise SoundStormError(
                f"region {region} reaches beyond the recording, which has {num_samples / sample_rate:.3f} s: give "
                "seconds within it"
            )
        spans.append((first, end))
    return spans
