"""Transients of a clip: how often sounds start, and how sharply. Barks, ticks and clicks depend on them, and a
generator that smooths loses them first.

The onset strength of a frame is the mean over mel bands (of `soundstorm.evaluation.temporal.log_mel`) of their rise in
dB within 10 ms; falling bands count as 0. This is librosa's `onset_strength`, after Böck and Widmer, "Maximum filter
vibrato suppression for onset detection" (DAFx 2013), without its maximum filter. An onset is a frame that is the
strongest within 30 ms before and after it, and stronger by ONSET_DB than the mean of the 100 ms around it. The strength
is not normalized by the loudest onset, so that steady noise has no onsets.

| case | value |
|---|---|
| digital silence, steady tones and noises | no onset |
| shorter than two frames (35 ms) | no onset |
| no samples, or samples that are not finite | SoundStormError |

Legend: N samples, T frames.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from soundstorm.evaluation.temporal import log_mel

ONSET_DB = 3.0
"""Minimum prominence of an onset in dB per 10 ms: twice the maximum in white noise."""
_NEIGHBOURS, _SURROUNDINGS = 7, 21
"""Number of frames among which an onset is the strongest, and over which the mean is computed: odd, with the onset in
the middle."""


@dataclass(kw_only=True, frozen=True)
class Transients:
    """The onsets of a clip."""

    per_second: float
    """Onsets per second."""
    rise_db: float
    """Mean strength of the onsets, in dB per 10 ms; 0 if there are none."""


def transients(x_N: NDArray[np.floating] | NDArray[np.int16], sample_rate: int) -> Transients:
    """Rate and strength of the onsets of a clip.

    Five clicks a second give five onsets of more than 10 dB per 10 ms; white noise has none.

    Args:
        x_N: the clip, mono: int16 as stored, or the same divided by 32768.
        sample_rate: samples per second.

    Raises:
        SoundStormError: no samples, more than one channel, or a sample that is not finite.
    """
    strength_T = onset_strength(x_N, sample_rate)
    if not len(strength_T):
        return Transients(per_second=0.0, rise_db=0.0)
    is_strongest_T = strength_T == maximum_filter1d(strength_T, _NEIGHBOURS, mode="constant")
    around_T = uniform_filter1d(strength_T, _SURROUNDINGS, mode="nearest")
    onsets = strength_T[is_strongest_T & (strength_T > around_T + ONSET_DB)]
    seconds = len(x_N) / sample_rate
    return Transients(per_second=len(onsets) / seconds, rise_db=float(onsets.mean()) if len(onsets) else 0.0)


def onset_strength(x_N: NDArray[np.floating] | NDArray[np.int16], sample_rate: int) -> NDArray[np.float64]:
    """Mean rise in dB of the mel bands from each frame to the next, (T - 1,); errors as `transients`."""
    rise_TM = np.diff(log_mel(x_N, sample_rate), axis=0)
    return np.maximum(rise_TM, 0).mean(axis=1)
