"""Whether there is anything to hear in a clip: a classifier names silence and single samples too, and what it says of
them means nothing."""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from soundstorm.audio.files import SAMPLE_RATE

SHORTEST_S = 0.1
"""A shorter clip is too short to be named."""
SILENCE_DB = -70.0
"""A clip whose loudest tenth of a second has a lower RMS, in dB of full scale, is silent. Of 300 clips of ESC-50 the
quietest has -48."""


class Unheard(StrEnum):
    """Why a clip should not be named."""

    SILENT = "silent"
    TOO_SHORT = "too short"


def unheard(pcm: NDArray[np.int16]) -> Unheard | None:
    """Why a clip, int16 (N,) at 24 kHz, should not be named; None where it can be."""
    longest = round(SHORTEST_S * SAMPLE_RATE)
    if len(pcm) < longest:
        return Unheard.TOO_SHORT
    starts = np.arange(0, len(pcm), longest)
    sizes = np.diff(np.append(starts, len(pcm)))
    power = np.add.reduceat(np.square(pcm, dtype=np.float64), starts) / sizes
    full_scale = 32768.0**2
    return Unheard.SILENT if power.max() < full_scale * 10 ** (SILENCE_DB / 10) else None
