"""What the compact codec is trained on: short crops of recordings, varied so that it holds up on sounds that it was not trained on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from soundstorm.synthetic import CLASSES, synthesize

MIN_RMS = 3e-4
"""Quieter crops (-70 dB) are drawn again: much of ESC-10 is digital silence."""
MAX_DRAWS = 20
GAIN_DB = (-8.0, 8.0)
MIX_SHARE = 0.2
"""Share of crops to which another one is added, 10 dB below to 5 dB above."""
SPEED_SHARE = 0.3
"""Share of crops played at half to double speed, which moves all pitches."""
FILTER_SHARE = 0.3
"""Share of crops sent through a smooth random filter of about 8 dB."""
PEAK = 0.99
SYNTHETIC_GROUPS = 3
"""The synthetic classes share the weight of three classes of recordings, so that they broaden the codec without leading it."""
SYNTHETIC_SEED = 1000
SYNTHETIC_DURATION_S = 5.0


class CropSampler:
    """Random crops of recordings, equally often from each class, never of digital silence.

    Args:
        waveforms: mono recordings, int16 at the codec's rate.
        labels: class of each recording.
    """

    def __init__(self, waveforms: Sequence[np.ndarray], labels: Sequence[int]) -> None:
        if len(waveforms) == 0 or len(waveforms) != len(labels):
            raise ValueError(f"{len(waveforms)} recordings and {len(labels)} labels: need as many of one as of the other")
        self.waveforms = list(waveforms)
        self.by_class = [np.flatnonzero(np.asarray(labels) == label) for label in sorted(set(labels))]

    def draw(self, count: int, length: int, rng: np.random.Generator) -> Tensor:
        """`count` crops of `length` samples, float32, varied in level, speed, spectrum and company, without clipping: (B, N)."""
        return torch.from_numpy(np.stack([self._varied(length, rng) for _ in range(count)]).astype(np.float32))

    def _varied(self, length: int, rng: np.random.Generator) -> np.ndarray:
        speed = 2 ** rng.uniform(-1, 1) if rng.random() < SPEED_SHARE else 1.0
        crop = self._crop(round(length * speed), rng)
        if speed != 1.0:
            crop = np.interp(np.linspace(0, len(crop) - 1, length), np.arange(len(crop)), crop)
        if rng.random() < MIX_SHARE:
            other = self._crop(length, rng)
            crop = crop + other * (_rms(crop) / max(_rms(other), 1e-6)) * 10 ** (rng.uniform(-10, 5) / 20)
        if rng.random() < FILTER_SHARE:
            crop = _filtered(crop, rng)
        gain = 10 ** (rng.uniform(*GAIN_DB) / 20)
        return crop * min(gain, PEAK / max(float(np.abs(crop).max()), 1e-6))

    def _crop(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """A crop that is not silent, if one can be found; short recordings are followed by silence."""
        members = self.by_class[rng.integers(len(self.by_class))]
        crop = np.zeros(length)
        for _ in range(MAX_DRAWS):
            waveform = self.waveforms[members[rng.integers(len(members))]]
            start = rng.integers(max(1, len(waveform) - length + 1))
            part = waveform[start : start + length].astype(np.float64) / 32768
            crop = np.pad(part, (0, length - len(part)))
            if _rms(crop) > MIN_RMS:
                break
        return crop


def synthetic_recordings(clips_per_class: int, sample_rate: int) -> list[tuple[np.ndarray, int]]:
    """Synthetic sounds to train on beside recordings: int16 (N,), and a label below 0 that no recording has."""
    return [
        (
            np.rint(synthesize(category, SYNTHETIC_SEED + number, SYNTHETIC_DURATION_S, sample_rate) * 32767).astype(np.int16),
            -1 - index % SYNTHETIC_GROUPS,
        )
        for index, category in enumerate(CLASSES)
        for number in range(clips_per_class)
    ]


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform))))


def _filtered(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The waveform through a zero-phase filter whose gain in dB is a random smooth curve over the logarithm of frequency.

    Digital silence within the crop stays digital silence.
    """
    spectrum = np.fft.rfft(waveform)
    position = np.log2(1 + np.arange(len(spectrum)) / len(spectrum) * 255) / 8
    gain_db = np.interp(position, np.linspace(0, 1, 6), rng.normal(0, 8, 6))
    filtered = np.fft.irfft(spectrum * 10 ** (gain_db / 20), n=len(waveform))
    return np.where(waveform == 0, 0.0, filtered)
