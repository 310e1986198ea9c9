"""Regions of a recording that are replaced by new sound: given in seconds, converted to samples."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from soundstorm.errors import SoundStormError

MIN_S = 0.01
"""Minimum duration of a region: one cross-fade."""
ROUNDING_S = 1e-6
"""2.01 - 2 is less than 0.01 in binary fractions."""
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
        if self.end_s - self.start_s < MIN_S - ROUNDING_S:
            raise SoundStormError(f"region {self} is too short: give at least {MIN_S:g} s")

    def __str__(self) -> str:
        return f"{self.start_s:g}-{self.end_s:g}"


def parse_region(text: str) -> Region:
    """Parse a region in seconds such as `1.2-2.0`.

    Raises:
        SoundStormError: the text is not a region.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise SoundStormError(f"region '{text}' is not valid: give START-END in seconds, such as 1.2-2.0")
    return Region(float(found[1]), float(found[2]))


def merged(regions: Sequence[Region]) -> list[Region]:
    """The regions in order, with overlapping or touching ones merged."""
    found: list[Region] = []
    for region in sorted(regions):
        if found and region.start_s <= found[-1].end_s:
            found[-1] = Region(found[-1].start_s, max(found[-1].end_s, region.end_s))
        else:
            found.append(region)
    return found


def sample_spans(regions: Sequence[Region], num_samples: int, sample_rate: int) -> list[tuple[int, int]]:
    """First sample of each region and the one after its last, in order, with overlapping or touching regions merged.

    Args:
        regions: at least one.
        num_samples: length of the recording.
        sample_rate: samples per second.

    Raises:
        SoundStormError: there is no region, or one reaches beyond the recording's end.
    """
    if not regions:
        raise SoundStormError("no region: give the stretch to replace in seconds, such as 1.2-2.0")
    spans = []
    for region in merged(regions):
        first, end = round(region.start_s * sample_rate), round(region.end_s * sample_rate)
        if end > num_samples:
            raise SoundStormError(
                f"region {region} reaches beyond the end of the recording at {num_samples / sample_rate:.3f} s: give "
                "seconds within it"
            )
        spans.append((first, end))
    return spans
