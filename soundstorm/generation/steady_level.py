"""Keeps a long steady sound, such as rain, at the level of its first window.

A generator of windows can leave the level of the windows before: a window that turns out louder is the context of the
next one, which then is as loud. If the first window is steady, every later second is brought into the range of levels
of that window by a slow gain. A sound whose first window is not steady, such as a barking dog, is unchanged: its pauses
are part of it.

Of ESC-50's recordings, rain, wind, engines, helicopters and crickets are mostly steady in this sense; dogs, doors and
coughs are not.

Legend: N samples, P parts of PART_S seconds.
"""

from typing import Literal

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

STEADY_DB = 6.0
"""A sound is steady if the level of a second varies by at most this in its first window."""
AUDIBLE_DB = -60.0
"""Level, relative to full scale, below which a first window counts as silent, not as steady."""
MAX_GAIN_DB = 15.0
"""Largest correction."""
PART_S = 0.1
"""The level is measured, and the gain computed, at this distance."""
_LEVEL_PARTS = 10
"""Parts whose mean power is the level of the one in their middle: a second."""
_SMOOTHED_PARTS = 7
"""Parts over which the gain is smoothed, twice."""
_PASSES = 4
"""A smoothed gain does not reach the range at once: it is corrected this often."""
_BLOCK = 1 << 20
"""Samples that are worked on at once."""

Ends = Literal["nearest", "wrap"]


def keep_steady(
    waveform_N: NDArray[np.float32], sample_rate: int, first_window: int, *, ends: Ends = "nearest"
) -> NDArray[np.float32]:
    """A waveform at the level of its beginning, if that is steady.

    Args:
        waveform_N: float, any level.
        sample_rate: samples per second.
        first_window: length of the beginning in samples. One of less than two seconds does not show a range of levels.
        ends: wrap: the waveform is a loop, whose end continues with its beginning; the gain does too.

    Returns:
        A waveform (N,); the same object if the beginning shows no range, or if every second is within it.
    """
    gain_P = _gain_db(_power(waveform_N, round(PART_S * sample_rate)), round(first_window / sample_rate / PART_S), ends)
    if not gain_P.any():
        return waveform_N
    part, wide_P = round(PART_S * sample_rate), np.pad(gain_P, 1, mode="wrap" if ends == "wrap" else "edge")
    middle_P = (np.arange(len(wide_P)) - 0.5) * part
    result_N = np.empty_like(waveform_N)
    for first in range(0, len(waveform_N), _BLOCK):
        block_N = waveform_N[first : first + _BLOCK]
        at_N = np.arange(first, first + len(block_N))
        result_N[first : first + _BLOCK] = block_N * 10 ** (np.interp(at_N, middle_P, wide_P) / 20)
    return result_N


def _power(waveform_N: NDArray[np.float32], part: int) -> NDArray[np.float64]:
    """Mean square (P,) of each part of `part` samples; the last one may be shorter."""
    starts = range(0, len(waveform_N), part)
    return np.array([np.square(waveform_N[start : start + part], dtype=np.float64).mean() for start in starts])


def _level_db(power_P: NDArray[np.float64], ends: Ends) -> NDArray[np.float64]:
    """Level (P,) of the second around each part."""
    mean_P = scipy.ndimage.uniform_filter1d(power_P, _LEVEL_PARTS, mode=ends)
    return 10 * np.log10(np.maximum(mean_P, 1e-12))


def _gain_db(power_P: NDArray[np.float64], first_parts: int, ends: Ends) -> NDArray[np.float64]:
    """Gain (P,) that brings the level of each second into the range that it has within the first parts; zeros if these
    show no range."""
    gain_P = np.zeros_like(power_P)
    half = _LEVEL_PARTS // 2
    range_P = _level_db(power_P[:first_parts], "nearest")[half : first_parts - half + 1]
    if first_parts < 2 * _LEVEL_PARTS or np.ptp(range_P) > STEADY_DB or range_P.min() < AUDIBLE_DB:
        return gain_P
    for _ in range(_PASSES):
        level_P = _level_db(power_P * 10 ** (gain_P / 10), ends)
        missing_P = np.clip(level_P, range_P.min(), range_P.max()) - level_P
        for _ in range(2):
            missing_P = scipy.ndimage.uniform_filter1d(missing_P, _SMOOTHED_PARTS, mode=ends)
        gain_P = np.clip(gain_P + missing_P, -MAX_GAIN_DB, MAX_GAIN_DB)
    return gain_P
