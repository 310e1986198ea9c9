"""Synthetic tones and clicks, on silence or faint noise: recordings contain too few of them to train codebooks on.

Legend: N samples.
"""

import numpy as np
from numpy.typing import NDArray

LOUDEST_DB, QUIETEST_DB = -3.0, -50.0
"""Range of the root mean square level, relative to full scale."""
LOWEST_HZ, HIGHEST_SHARE = 60.0, 0.48
"""Range of the fundamental frequency: from LOWEST_HZ to HIGHEST_SHARE of the sample rate."""
MAX_HARMONICS = 8
NOISE_DB = (-100.0, -50.0)
"""Range of the background noise level relative to the sound; half of the sounds have no noise."""


def simple_sounds(count: int, duration_s: float, sample_rate: int, seed: int) -> list[NDArray[np.float32]]:
    """`count` sounds (N,), two thirds of them tones and a third clicks; the same seed gives the same sounds."""
    sounds = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        make = _clicks if number % 3 == 2 else _tones
        sound_N = make(rng, round(duration_s * sample_rate), sample_rate)
        sound_N *= 10 ** (rng.uniform(QUIETEST_DB, LOUDEST_DB) / 20) / max(
            float(np.sqrt(np.square(sound_N).mean())), 1e-9
        )
        if rng.random() < 0.5:
            level = np.sqrt(np.square(sound_N).mean()) * 10 ** (rng.uniform(*NOISE_DB) / 20)
            sound_N += level * rng.standard_normal(len(sound_N))
        sounds.append(np.clip(sound_N, -1, 1).astype(np.float32))
    return sounds


def _tones(rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """A few tones one after another, each steady, gliding or decaying, with or without harmonics."""
    parts = []
    for length_N in np.array_split(np.arange(num_samples), rng.integers(4, 12)):
        time_s = (length_N - length_N[0]) / sample_rate
        ratio = HIGHEST_SHARE * sample_rate / LOWEST_HZ
        hz = LOWEST_HZ * ratio ** rng.random() * 2 ** (rng.choice([0, 0, 0.5, -0.5]) * time_s)
        phase_N = 2 * np.pi * np.cumsum(hz) / sample_rate
        tone_N = np.zeros(len(time_s))
        for harmonic in range(1, 1 + int(rng.choice([1, 1, MAX_HARMONICS]))):
            audible_N = harmonic * hz < HIGHEST_SHARE * sample_rate
            tone_N += audible_N * np.sin(harmonic * phase_N) * harmonic ** -rng.uniform(0, 2)
        parts.append(tone_N * np.exp(-time_s * rng.choice([0, 0, 2, 8])))
    return np.concatenate(parts)


def _clicks(rng: np.random.Generator, num_samples: int, sample_rate: int) -> NDArray[np.float64]:
    """Impulses at random positions, either bare or followed by some milliseconds of decaying noise."""
    impulses_N = np.zeros(num_samples)
    places = rng.integers(num_samples, size=max(1, round(num_samples / sample_rate * rng.uniform(2, 12))))
    impulses_N[places] = rng.choice([-1, 1], len(places)) * 10 ** rng.uniform(-1, 0, len(places))
    if rng.random() < 0.5:
        return impulses_N
    time_s = np.arange(round(0.05 * sample_rate)) / sample_rate
    ring_N = rng.standard_normal(len(time_s)) * np.exp(-time_s / 10 ** rng.uniform(-4, -2))
    return np.convolve(impulses_N, ring_N)[:num_samples]
