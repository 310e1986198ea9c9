"""Data augmentation of recordings for training a classifier: random variations of them.

An excerpt starts anywhere in the recording, is played faster or slower, louder or quieter, through a random equalizer,
and may be mixed with another excerpt ("between-class" examples, Tokozume et al., arXiv 1711.10282). All changes are
made to the waveform, so a codec can encode the result as it encodes a recording.
`soundstorm.classification.training.cnn_trainer` varies spectrograms instead, which is cheaper and enough where no
codec is involved.

Legend: N samples.
"""

import math
from dataclasses import dataclass

import numpy as np

from soundstorm.audio.files import SAMPLE_RATE

EQUALIZER_KNOTS = 6
"""Number of frequencies, evenly spaced in mel, at which a random gain is drawn; gains in between are interpolated."""
QUIETEST_RMS = 3e-4
"""A quieter excerpt (below -70 dB) is drawn again: many clips of ESC-10 are mostly digital silence, which belongs to no
class."""
MAX_DRAWS = 20
LEVEL_FRAME = SAMPLE_RATE // 10
"""Samples in a frame whose RMS is measured; the level of a clip is that of its loudest frame."""
MIN_RMS = 1e-5


@dataclass(kw_only=True, frozen=True)
class Variation:
    """Strength of the augmentation."""

    speed_octaves: float
    """Playback is up to this much faster or slower, which shifts the pitch too."""
    gain_db: float
    """The gain is at most this much up or down."""
    equalizer_db: float
    """Standard deviation of the gains at the knots of the random equalizer."""


def vary(recording_N: np.ndarray, length: int, variation: Variation, rng: np.random.Generator) -> np.ndarray:
    """A randomly varied excerpt of a recording, float32 (length,).

    The recording (N,), float32, is repeated as often as needed. Digital silence stays digital silence.
    """
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
    """Whether an excerpt is loud enough to be mixed with another one at a given ratio."""
    return _level(excerpt_N) > MIN_RMS


def blend(first_N: np.ndarray, second_N: np.ndarray, share: float) -> np.ndarray:
    """Mix two excerpts of the same length so that the first contributes the fraction `share` of the perceived sound.

    The amplitudes follow the published formula: each is weighted against the level of the loudest tenth of a second of
    its excerpt. The level of the mix is about that of one excerpt.
    """
    amplitude = 1 / (1 + _level(first_N) / _level(second_N) * (1 - share) / share)
    return ((amplitude * first_N + (1 - amplitude) * second_N) / math.hypot(amplitude, 1 - amplitude)).astype(
        np.float32
    )


def _played(recording_N: np.ndarray, start: int, speed: float, length: int) -> np.ndarray:
    """`length` samples from `start` at a speed; cubic (Catmull-Rom) interpolation between samples, and wrap-around at
    the end of the recording."""
    if speed == 1.0:
        return np.take(recording_N, start + np.arange(length), mode="wrap")
    position = start + speed * np.arange(length)
    below = position.astype(np.int64)
    t = (position - below).astype(np.float32)
    a, b, c, d = (np.take(recording_N, below + offset, mode="wrap") for offset in (-1, 0, 1, 2))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _level(excerpt_N: np.ndarray) -> float:
    """Root mean square of the loudest frame of `LEVEL_FRAME` samples, or of the whole excerpt if it is shorter."""
    size = min(LEVEL_FRAME, len(excerpt_N))
    stretches = excerpt_N[: len(excerpt_N) // size * size].reshape(-1, size)
    return max(MIN_RMS, float(np.sqrt(np.square(stretches, dtype=np.float64).mean(1).max())))
