"""Sounds joined without a click: cross-fades of equal power, for sounds whose phases have nothing to do with each
other.

Legend: N samples.
"""

from collections.abc import Sequence

import numpy as np

FADE_S = 0.010
"""Seconds of a cross-fade."""


def fade_in(num_samples: int) -> np.ndarray:
    """Factors (num_samples,) that rise from above 0 to below 1; with those of its reverse, squared, they add up to
    1."""
    return np.sin((np.arange(num_samples) + 0.5) / max(1, num_samples) * (np.pi / 2)).astype(np.float32)


def crossfade(before_N: np.ndarray, after_N: np.ndarray) -> np.ndarray:
    """From one sound to another of the same length, over all of it."""
    rising_N = fade_in(len(before_N))
    return before_N * rising_N[::-1] + after_N * rising_N


def replaced(
    recording_N: np.ndarray, spans: Sequence[tuple[int, int]], new: Sequence[np.ndarray], sample_rate: int
) -> np.ndarray:
    """A recording, float32 (N,), with new sound in some spans; every sample outside of them is as it was.

    The cross-fades lie inside the spans, at both ends but where the recording begins or ends.

    Args:
        recording_N: the recording.
        spans: first sample and the one after the last, in order and apart from each other.
        new: the sound of each.
        sample_rate: samples per second.
    """
    result_N = recording_N.astype(np.float32)
    for (first, end), new_N in zip(spans, new, strict=True):
        fade = min(round(FADE_S * sample_rate), (end - first) // 2)
        result_N[first:end] = new_N
        if first > 0:
            inside = slice(first, first + fade)
            result_N[inside] = crossfade(recording_N[inside], new_N[:fade])
        if end < len(recording_N):
            inside = slice(end - fade, end)
            result_N[inside] = crossfade(new_N[len(new_N) - fade :], recording_N[inside])
    return result_N


def closed(waveform_N: np.ndarray, beyond_N: np.ndarray) -> np.ndarray:
    """A waveform (N,) that goes on without a click where it begins again.

    Args:
        waveform_N: the sound of one round.
        beyond_N: how the sound goes on after its end, as long as the cross-fade with its beginning.
    """
    result_N = waveform_N.copy()
    fade = min(len(beyond_N), len(result_N))
    result_N[:fade] = crossfade(beyond_N[:fade], result_N[:fade])
    return result_N
