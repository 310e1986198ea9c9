"""Choice among the candidates of a window: by class, and in windows after the first by level too.

A clip of several windows drifts in level if each window is chosen by its class alone: the network sees the level of the
2.5 s before, so that small deviations add up. The level of the first window is therefore the reference of all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from soundstorm.codec.codec import Codec
from soundstorm.generation.reranking import Classifier, best_indices, candidate_seed
from soundstorm.generation.threads import on_threads
from soundstorm.generation.windows import Window, window_seed

LEVEL_STEP_DB = 3.0
"""Deviations of the level that are equal in this unit are not distinguished."""
SILENCE = 1e-10
"""Added to the mean square of a waveform, so that silence has a level: -100 dB."""


@dataclass(kw_only=True)
class WindowChoice:
    """A `soundstorm.generation.windows.ChooseCandidates` for the windows of one call, in order."""

    codec: Codec
    reranker: Classifier
    categories: Sequence[str]
    """Class of each sample."""
    seeds: Sequence[int]
    """Seed of each sample."""
    num_samples: int
    """Length of the clips; what lies behind is padding."""
    threads: int = 1
    _reference_B: np.ndarray | None = field(default=None, init=False)
    _until: int = field(default=0, init=False)

    def __call__(self, candidates: list[list[Tensor]], number: int, window: Window) -> list[int]:
        """Index of the chosen candidate of each sample."""
        length = self.num_samples - window.first * self.codec.hop
        if length <= 0:  # the window holds padding only
            return [0] * len(self.seeds)

        def decode(candidate: int) -> list[np.ndarray]:
            own_seeds = [candidate_seed(window_seed(seed, number), candidate) for seed in self.seeds]
            waveforms = self.codec.decode_clips([codes_QT.numpy() for codes_QT in candidates[candidate]], own_seeds)
            return [waveform_N[:length] for waveform_N in waveforms]

        sounds = on_threads(decode, range(len(candidates)), self.threads)
        deviations_CB = None
        if self._reference_B is not None and window.first < self._until:  # it continues the window before
            new = slice((self._until - window.first) * self.codec.hop, (window.until - window.first) * self.codec.hop)
            levels_CB = np.array([[level_db(sound_N[new]) for sound_N in of_candidate] for of_candidate in sounds])
            deviations_CB = np.abs(levels_CB - self._reference_B) // LEVEL_STEP_DB
        best = best_indices(sounds, self.categories, self.reranker, self.threads, deviations_CB)
        if self._reference_B is None or window.first >= self._until:
            self._reference_B = np.array([level_db(sounds[index][sample]) for sample, index in enumerate(best)])
        self._until = window.until
        return best


def level_db(waveform_N: np.ndarray) -> float:
    """RMS level of a waveform in [-1, 1], dB re full scale; that of silence if it is empty."""
    power = float(np.mean(np.square(waveform_N, dtype=np.float64))) if len(waveform_N) else 0.0
    return float(10 * np.log10(power + SILENCE))
