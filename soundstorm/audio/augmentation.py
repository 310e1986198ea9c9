"""Variations of a recording for a classifier: what it could have sounded like, drawn anew each time it is heard.

An excerpt begins anywhere in the recording, is played faster or slower, louder or softer, through a random equalizer,
and may have another one mixed in ("between-class" examples, Tokozume et al., arXiv 1711.10282). All of it is made of
the waveform, so that a codec hears the result as it hears a recording. Where no codec is between,
`soundstorm.classification.cnn_training` varies spectrograms in the same way for less.

Legend: N samples.
"""

import math
from dataclasses import dataclass

import numpy as np

from soundstorm.audio.files import SAMPLE_RATE

EQUALIZER_KNOTS = 6
"""Frequencies, evenly spaced in mel, whose gains are drawn; between them they are interpolated."""
QUIETEST_RMS = 3e-4
"""A quieter excerpt (-70 dB) is drawn again: in ESC-10 much is digital silence, which is of no class."""
MAX_DRAWS = 20
LEVEL_FRAME = SAMPLE_RATE // 10
"""Samples over which a level is taken; the loudest of a clip counts."""
MIN_RMS = 1e-5


@dataclass(kw_only=True, frozen=True)
class Variation:
    """How far examples are from the recording."""

    speed_octaves: float
    """They are played up to this much faster or slower, pitch and all."""
    gain_db: float
    """They are up to this much louder or softer."""
    equalizer_db: float
    """Standard deviation of the gain at the knots of the random equalizer."""


def vary(recording_N: np.ndarray, length: int, variation: Variation, rng: np.random.Generator) -> np.ndarray:
    """A varied excerpt, float32 (length,), of a recording (N,), float32, that is repeated without end; digital silence
    stays digital silence."""
    octaves, limit = variation.speed_octaves, variation.gain_db
    speed = 2 ** rng.uniform(-octaves, octaves) if octaves else 1.0
    for _ in range(MAX_DRAWS):
        excerpt = _played(recording_N, int(rng.integers(len(recording_N))), speed, length)
        if float(np.sqrt(np.mean(np.square(excerpt)))) > QUIETEST_RMS:
            break
    gain_db = rng.uniform(-limit, limit) + rng.normal(0, variation.equalizer_db, EQUALIZER_KNOTS)
    if not gain_db.any():
        return excerpt
    spectrum = np.fft.rfft(excerpt)
    mel = np.log1p(np.linspace(0, SAMPLE_RATE / 2, len(spectrum)) / 700)
    curve_db = np.interp(mel, np.linspace(0, mel[-1], EQUALIZER_KNOTS), gain_db)
    filtered = np.fft.irfft(spectrum * 10 ** (curve_db / 20), length)
    return np.where(excerpt == 0, 0.0, filtered).astype(np.float32)


def is_audible(excerpt_N: np.ndarray) -> bool:
    """Whether there is sound in it that another could be weighed against."""
    return _level(excerpt_N) > MIN_RMS


def blend(first_N: np.ndarray, second_N: np.ndarray, share: float) -> np.ndarray:
    """Two excerpts of one length together, so that `share` of what is heard is the first, at about the level of one.

    Their amplitudes are weighted by the published formula, each against the level of its loudest tenth of a second.
    """
    amplitude = 1 / (1 + _level(first_N) / _level(second_N) * (1 - share) / share)
    return ((amplitude * first_N + (1 - amplitude) * second_N) / math.hypot(amplitude, 1 - amplitude)).astype(
        np.float32
    )


def _played(recording_N: np.ndarray, start: int, speed: float, length: int) -> np.ndarray:
    """`length` samples from `start` at a speed, between samples along a cubic (Catmull-Rom), and on from the beginning
    after the end."""
    if speed == 1.0:
        return np.take(recording_N, start + np.arange(length), mode="wrap")
    position = start + speed * np.arange(length)
    below = position.astype(np.int64)
    t = (position - below).astype(np.float32)
    a, b, c, d = (np.take(recording_N, below + offset, mode="wrap") for offset in (-1, 0, 1, 2))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _level(excerpt_N: np.ndarray) -> float:
    """Root mean square of the loudest stretch of `LEVEL_FRAME` samples, or of all, if there are fewer."""
    size = min(LEVEL_FRAME, len(excerpt_N))
    stretches = excerpt_N[: len(excerpt_N) // size * size].reshape(-1, size)
    return max(MIN_RMS, float(np.sqrt(np.square(stretches, dtype=np.float64).mean(1).max())))
