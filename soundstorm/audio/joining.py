"""Joining sounds without clicks: equal-power cross-fades, for sounds with unrelated phases.

Legend: N samples.
"""

from collections.abc import Sequence

import numpy as np

FADE_S = 0.010
"""Duration of a cross-fade in seconds."""


def fade_in(num_samples: int) -> np.ndarray:
    """Rising gains (num_samples,) between 0 and 1; their squares and the squares of the reversed gains add up to 1."""
    return np.sin((np.arange(num_samples) + 0.5) / max(1, num_samples) * (np.pi / 2)).astype(np.float32)


def crossfade(before_N: np.ndarray, after_N: np.ndarray) -> np.ndarray:
    """Cross-fade from one sound to another of the same length, over its whole length."""
    rising_N = fade_in(len(before_N))
    return before_N * rising_N[::-1] + after_N * rising_N


def replaced(
    recording_N: np.ndarray, spans: Sequence[tuple[int, int]], new: Sequence[np.ndarray], sample_rate: int
) -> np.ndarray:
    """A recording, float32 (N,), with new sound in some spans; every sample outside of them is unchanged.

    The cross-fades lie inside the spans, at both ends, except where a span touches the start or the end of the
    recording.

    Args:
        recording_N: the recording.
        spans: first sample and the one after the last, sorted and disjoint.
        new: the new sound of each span.
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
    """A waveform (N,) that can be played in a loop without a click.

    Args:
        waveform_N: the sound of one round.
        beyond_N: how the sound continues after its end, as long as the cross-fade into its beginning.
    """
    result_N = waveform_N.copy()
    fade = min(len(beyond_N), len(result_N))
    result_N[:fade] = crossfade(beyond_N[:fade], result_N[:fade])
    return result_N
