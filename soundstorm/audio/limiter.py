"""A look-ahead peak limiter: what exceeds full scale is turned down around its peaks, and the rest keeps its level.

Turning the whole clip down instead would make one click decide how loud the rain around it is. Clipping would add
harmonics. The gain follows the loudest sample within `LOOKAHEAD` before and after it, and is smoothed over as long, so
that it never falls within a wave.

Source: Giannoulis, Massberg and Reiss, "Digital dynamic range compressor design", JAES 60(6), 2012; the smoothed
minimum is the usual way to reach the gain before the peak does.

Legend: N samples.
"""

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from soundstorm.audio.files import PEAK, SAMPLE_RATE

LOOKAHEAD = round(0.005 * SAMPLE_RATE)
"""Samples before and after a peak within which the gain falls and rises again."""
_BLOCK = 1 << 20
"""Samples that are worked on at once."""


def within_full_scale(waveform_N: NDArray[np.floating]) -> NDArray[np.floating]:
    """A waveform whose samples are at most PEAK.

    Args:
        waveform_N: float at 24 kHz, of any length. One that is within PEAK is returned as it is.

    Returns:
        The same type and length. A sample further than twice LOOKAHEAD from any that exceeds PEAK is unchanged.
    """
    beyond_N = np.abs(waveform_N) > PEAK
    if not beyond_N.any():
        return waveform_N
    result_N, reach = waveform_N.copy(), 2 * LOOKAHEAD
    for first in range(0, len(waveform_N), _BLOCK):
        end = min(len(waveform_N), first + _BLOCK)
        low, high = max(0, first - reach), min(len(waveform_N), end + reach)
        if beyond_N[low:high].any():
            gain_N = _gain(np.abs(waveform_N[low:high]).astype(np.float64))[first - low :][: end - first]
            limited_N = waveform_N[first:end] * gain_N
            result_N[first:end] = np.clip(limited_N, -PEAK, PEAK)  # rounding alone can exceed it
    return result_N


def _gain(peak_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The gain at each sample, from magnitudes. A smoothed value is a mean of values none of which is above the gain
    that its own sample needs, so it is not above that either."""
    needed_N = PEAK / np.maximum(peak_N, PEAK)
    lowest_N = scipy.ndimage.minimum_filter1d(needed_N, 2 * LOOKAHEAD + 1, mode="nearest")
    window_L = np.hanning(2 * LOOKAHEAD + 3)[1:-1]
    return scipy.ndimage.convolve1d(lowest_N, window_L / window_L.sum(), mode="nearest")
