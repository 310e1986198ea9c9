"""Pictures of a sound: its waveform as numbers, which the browser draws in the colours of the theme, and its
spectrogram as a small PNG file."""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib import colormaps
from PIL import Image

from soundstorm.reports.spectrograms import COLOR_MAP, DYNAMIC_RANGE_DB, QUIETEST_PEAK_DB, log_mel_db

MAX_WIDTH = 960
"""Maximum number of columns of a spectrogram."""
NUM_PEAKS = 320
"""Number of columns of a waveform."""


@dataclass(kw_only=True, frozen=True)
class Picture:
    """Waveform and spectrogram of a sound."""

    duration_s: float
    peaks: list[int]
    """Minimum and maximum of each column in turn, in percent of full scale."""
    spectrogram_png: bytes
    """Log-mel, low frequencies at the bottom, colour scale from the maximum to 80 dB below."""


def picture_of(samples_N: np.ndarray, sample_rate: int) -> Picture:
    """The picture of int16 (N,)."""
    waveform_N = samples_N.astype(np.float64) / 32768.0
    starts = np.linspace(0, len(waveform_N), min(NUM_PEAKS, len(waveform_N)), endpoint=False).astype(int)
    lowest, highest = np.minimum.reduceat(waveform_N, starts), np.maximum.reduceat(waveform_N, starts)
    return Picture(
        duration_s=len(waveform_N) / sample_rate,
        peaks=np.rint(100 * np.stack((lowest, highest), axis=1)).astype(int).ravel().tolist(),
        spectrogram_png=_spectrogram_png(log_mel_db(waveform_N, sample_rate)),
    )


def _spectrogram_png(level_db: np.ndarray) -> bytes:
    if level_db.shape[1] > MAX_WIDTH:
        starts = np.linspace(0, level_db.shape[1], MAX_WIDTH, endpoint=False).astype(int)
        level_db = np.maximum.reduceat(level_db, starts, axis=1)
    top_db = max(float(level_db.max()), QUIETEST_PEAK_DB)
    shades = np.clip((level_db - top_db) / DYNAMIC_RANGE_DB + 1, 0, 1)
    image = Image.fromarray(np.rint(255 * shades[::-1]).astype(np.uint8), mode="P")
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=6)
    return file.getvalue()


@lru_cache(maxsize=1)
def _palette() -> list[int]:
    colors = colormaps[COLOR_MAP](np.arange(256))[:, :3]
    return np.rint(255 * colors).astype(int).ravel().tolist()
