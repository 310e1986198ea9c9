"""Recordings in ever new views, as codes in memory, for trials that train a generator without any table.

A view is the recording begun elsewhere, played faster or slower, louder or softer, through a smooth random equalizer.
Encoding is cheap enough that training can replace a view by a new one in every step.

Legend: N samples, Q levels, T places.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torchaudio.functional

from soundstorm.audio.files import from_pcm16
from soundstorm.codec.codec import Codec

SPEED_PERCENT = (91, 110)
GAIN_DB = 8.0
"""Standard deviation is a half of it; no view is louder than PEAK."""
EQUALIZER_KNOTS = 8
EQUALIZER_DB = 3.0
PEAK = 0.99


def fresh_view(waveform_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A view of a recording, float32, as long as the recording; what was digital silence in it stays so unless the
    speed changes."""
    speed = int(rng.integers(SPEED_PERCENT[0], SPEED_PERCENT[1] + 1))
    played_N = torchaudio.functional.resample(torch.from_numpy(waveform_N), speed, 100).numpy()
    view_N = np.take(played_N, np.arange(len(waveform_N)) + int(rng.integers(len(played_N))), mode="wrap")
    view_N = np.where(view_N == 0, 0.0, _equalized(view_N, rng)) * 10 ** (
        np.clip(rng.normal(0, GAIN_DB / 2), -2 * GAIN_DB, GAIN_DB) / 20
    )
    return (view_N / max(1.0, float(np.abs(view_N).max()) / PEAK)).astype(np.float32)


def _equalized(waveform_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Through a zero-phase filter whose gain in dB is a random smooth curve over the logarithm of frequency."""
    spectrum_F = np.fft.rfft(waveform_N)
    position_F = np.log2(1 + np.arange(len(spectrum_F)) / len(spectrum_F) * 255) / 8
    gain_db = np.interp(position_F, np.linspace(0, 1, EQUALIZER_KNOTS), rng.normal(0, EQUALIZER_DB, EQUALIZER_KNOTS))
    return np.fft.irfft(spectrum_F * 10 ** (gain_db / 20), n=len(waveform_N))


@dataclass
class ViewPool:
    """The recordings to train on and the codes of some views of each, the first as recorded."""

    pcms: list[np.ndarray]
    labels: list[int]
    codec: Codec
    views: list[list[np.ndarray]] = field(default_factory=list)

    def fill(self, num_views: int, seed: int) -> None:
        """Encode every recording as it is and in `num_views` fresh views."""
        for index in range(len(self.views), len(self.pcms)):
            waveform_N = from_pcm16(self.pcms[index])
            fresh = [fresh_view(waveform_N, np.random.default_rng([seed, index, view])) for view in range(num_views)]
            self.views.append(self.codec.encode_clips([waveform_N, *fresh]))

    def save(self, path: Path) -> None:
        """Write the codes of all views."""
        flat = [view for views in self.views for view in views]
        lengths = [view.shape[1] for view in flat]
        np.savez(path, codes=np.concatenate(flat, axis=1), lengths=lengths, counts=[len(views) for views in self.views])

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        with np.load(path) as stored:
            flat = np.split(stored["codes"], np.cumsum(stored["lengths"])[:-1], axis=1)
            ends = np.cumsum(stored["counts"])
        self.views = [flat[end - count : end] for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)]

    def refresh(self, rng: np.random.Generator) -> None:
        """Replace one view of one recording by a new one, never the recording itself."""
        index = int(rng.integers(len(self.pcms)))
        if len(self.views[index]) > 1:
            place = int(rng.integers(1, len(self.views[index])))
            self.views[index][place] = self.codec.encode_clips([fresh_view(from_pcm16(self.pcms[index]), rng)])[0]

    def draw(self, members: Sequence[int], recorded_share: float, rng: np.random.Generator) -> list[np.ndarray]:
        """Codes (Q, T) of a view of each of these recordings: as recorded in `recorded_share` of them."""
        drawn = []
        for index in members:
            views = self.views[index]
            drawn.append(
                views[0]
                if len(views) == 1 or rng.random() < recorded_share
                else views[int(rng.integers(1, len(views)))]
            )
        return drawn
