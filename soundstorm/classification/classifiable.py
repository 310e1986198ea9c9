"""Clips that a classifier should not classify: it also predicts a class for silence and for single samples, but such a
prediction means nothing."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from soundstorm.audio.files import SAMPLE_RATE

SHORTEST_S = 0.1
"""A shorter clip is too short to be classified."""
SILENCE_DB = -70.0
"""A clip is silent if the RMS of its loudest tenth of a second is lower, in dB of full scale. The quietest of 300 clips
of ESC-50 has -48."""


class Unclassifiable(StrEnum):
    """Why a clip should not be classified."""

    SILENT = "silent"
    TOO_SHORT = "too short"


def unclassifiable(pcm: NDArray[np.int16]) -> Unclassifiable | None:
    """Why a clip, int16 (N,) at 24 kHz, should not be classified; None if it can be."""
    longest = round(SHORTEST_S * SAMPLE_RATE)
    if len(pcm) < longest:
        return Unclassifiable.TOO_SHORT
    starts = np.arange(0, len(pcm), longest)
    sizes = np.diff(np.append(starts, len(pcm)))
    power = np.add.reduceat(np.square(pcm, dtype=np.float64), starts) / sizes
    full_scale = 32768.0**2
    return Unclassifiable.SILENT if power.max() < full_scale * 10 ** (SILENCE_DB / 10) else None
