"""Keeps a long steady sound, such as rain, as loud as its first window.

A generator of windows can leave the loudness of the windows before: a window that turns out louder is the context of
the next one, which then is as loud. If the first window is steady, what follows is brought into the range of loudness
of that window by a slow gain.

1. Loudness is the RMS of parts of 0.1 s in dB relative to full scale, without a weighting of frequencies, and its
   running median over 2.5 s, half a window: a clap or a short pause does not change it.
2. A sound is steady if its parts vary by at most STEADY_DB. Of ESC-50's recordings these are nine of ten of rain and
   washing machines, seven of ten of wind, half of engines and airplanes, one of ten of clocks and clapping, and none of
   dogs, doors or footsteps.
3. A gain of MAX_BOOST_DB at most makes louder what is too quiet. A pause or an end, which is far quieter, has none.

Legend: N samples, P parts of PART_S seconds.
"""

from itertools import pairwise

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

PART_S = 0.1
"""Loudness is measured, and the gain computed, at this distance."""
STEADY_DB = 8.0
"""A sound is steady if the 5th and the 95th percentile of its parts' loudness are at most this far apart."""
AUDIBLE_DB = -60.0
"""A sound of less loudness is silent, not steady."""
TOLERANCE_DB = 1.0
"""What follows may be by this much louder or quieter than the range of the first window."""
MAX_BOOST_DB, MAX_CUT_DB = 6.0, 12.0
"""Largest gains, up and down."""
FULL_BOOST_DB, PAUSE_DB = 9.0, 15.0
"""From this far below the range on, the boost falls, to none at a pause."""
_MEDIAN_PARTS, _SMOOTHED_PARTS, _FEWEST_PARTS = 25, 11, 20
"""Lengths of the running median, and of each of two running means of the gain; shortest beginning that shows a range
of loudness."""
_BLOCK = 1 << 20
"""Samples that are worked on at once."""


def hold_loudness(
    waveform_N: NDArray[np.float32], sample_rate: int, reference: tuple[int, int], *, loop: bool = False
) -> bool:
    """Bring a waveform to the loudness of a part of it, in place, if that part is steady. The result may exceed full
    scale.

    Args:
        waveform_N: any length.
        sample_rate: samples per second.
        reference: first sample of the part, and the one after its last; about two seconds or more. What comes before it
            and, but for its last second, the part itself are unchanged.
        loop: whether the end of the waveform continues with its beginning; then the gain does too, and what comes
            before the reference is treated like what comes after it.

    Returns:
        Whether the waveform was changed.
    """
    part = round(PART_S * sample_rate)
    gain_P = _gain_db(_rms_db(waveform_N, part), reference[0] // part, reference[1] // part, loop)
    if not gain_P.any():
        return False
    wide_P = np.pad(gain_P, 1, mode="wrap" if loop else "edge")
    middle_P = (np.arange(len(wide_P)) - 0.5) * part
    for first in range(0, len(waveform_N), _BLOCK):
        block_N = waveform_N[first : first + _BLOCK]
        block_N *= 10 ** (np.interp(np.arange(first, first + len(block_N)), middle_P, wide_P) / 20)
    return True


def _rms_db(waveform_N: NDArray[np.float32], part: int) -> NDArray[np.float64]:
    """Loudness (P,) of each part of `part` samples; a rest belongs to the last part."""
    num_parts = len(waveform_N) // part
    edges = [*range(0, num_parts * part, part), len(waveform_N)]
    power = [np.square(waveform_N[start:end], dtype=np.float64).mean() for start, end in pairwise(edges)]
    return 10 * np.log10(np.maximum(np.array(power[:num_parts]), 1e-12))


def _gain_db(loudness_P: NDArray[np.float64], first: int, end: int, loop: bool) -> NDArray[np.float64]:
    """Gain (P,) that brings the loudness into its range in parts `first` to `end`; zeros if these are not steady."""
    none_P = np.zeros_like(loudness_P)
    reference_P = loudness_P[first:end]
    if len(reference_P) < _FEWEST_PARTS or not np.isfinite(loudness_P).all():
        return none_P
    low, high = np.percentile(reference_P, [5, 95])
    if high - low > STEADY_DB or low < AUDIBLE_DB:
        return none_P
    half = min(_MEDIAN_PARTS, len(reference_P) - 1) // 2
    range_P = scipy.ndimage.median_filter(reference_P, 2 * half + 1, mode="nearest")[half : len(reference_P) - half]
    ends = "wrap" if loop else "nearest"
    running_P = scipy.ndimage.median_filter(loudness_P, _MEDIAN_PARTS, mode=ends)
    excess_P = np.maximum(running_P - (range_P.max() + TOLERANCE_DB), 0)
    lack_P = np.maximum(range_P.min() - TOLERANCE_DB - running_P, 0)
    boost_P = np.interp(lack_P, [0, MAX_BOOST_DB, FULL_BOOST_DB, PAUSE_DB], [0, MAX_BOOST_DB, MAX_BOOST_DB, 0])
    gain_P = boost_P - np.minimum(excess_P, MAX_CUT_DB)
    gain_P[first if loop else 0 : end] = 0
    for _ in range(2):
        gain_P = scipy.ndimage.uniform_filter1d(gain_P, _SMOOTHED_PARTS, mode=ends)
    if not loop:
        gain_P[: max(0, end - _SMOOTHED_PARTS)] = 0  # running sums leave a rest of rounding
    return gain_P
