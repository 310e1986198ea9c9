"""Reranking: of several candidates of a sample, keep the one to which a classifier gives the highest probability of its
class.

The reranker is another classifier than the one that `evaluate` measures with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from soundstorm.audio.files import to_pcm16
from soundstorm.codec.codec import Codec
from soundstorm.data.categories import find_category, listed, normalized
from soundstorm.errors import SoundStormError
from soundstorm.generation.seeds import candidate_seed, window_seed
from soundstorm.generation.windows import Window
from soundstorm.optimization.threads import on_threads

PACKAGED_RERANKER = "listener.safetensors"
"""File of the reranker in the package; it knows the classes of ESC-50."""
MIN_HEARD_S = 1.0
"""Shortest part of a window by which its candidates are compared."""
SHOWN_CLASSES = 5
"""Maximum number of classes in an error message."""


class Classifier(Protocol):
    """What reranking needs of a classifier; `soundstorm.classification.cnn.TrainedClassifier` is one."""

    @property
    def categories(self) -> Sequence[str]:
        """Its classes, in the order of its probabilities."""
        ...

    def predict(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
        """Clips int16 (N,) at 24 kHz to the probability of each class (len(clips), C)."""
        ...


def require_known_classes(reranker: Classifier, categories: Sequence[str], where: str) -> None:
    """Raises SoundStormError, which names `where`, if `reranker` does not know one of `categories`."""
    known = {normalized(category) for category in reranker.categories}
    unknown = [category for category in categories if normalized(category) not in known]
    if unknown:
        raise SoundStormError(
            f"{where} cannot rerank --candidates: it does not know {listed(unknown, SHOWN_CLASSES)}, only "
            f"{listed(reranker.categories, SHOWN_CLASSES)}. Give --candidates 1, or --listener with a classifier that "
            "`train-classifier` trained on your recordings"
        )


def best_indices(
    candidates: Sequence[Sequence[np.ndarray]], categories: Sequence[str], reranker: Classifier, threads: int = 1
) -> list[int]:
    """For each sample the index of the candidate to which `reranker` gives the highest probability of its class; ties
    go to the first.

    Args:
        candidates: one or more lists with a waveform (N,) of every sample, at 24 kHz in [-1, 1].
        categories: class of each sample.
        reranker: a classifier that knows all of these classes.
        threads: as in `soundstorm.optimization.threads.on_threads`.
    """
    if len(candidates) == 1:
        return [0] * len(categories)
    column_B = [
        find_category(category, reranker.categories, "a sample's class", "the classifier") for category in categories
    ]

    def probabilities(waves: Sequence[np.ndarray]) -> NDArray[np.float32]:
        return reranker.predict([to_pcm16(wave) for wave in waves])[range(len(waves)), column_B]

    return [int(best) for best in np.stack(on_threads(probabilities, candidates, threads)).argmax(0)]


def best_candidates(
    candidates: Sequence[Sequence[np.ndarray]], categories: Sequence[str], reranker: Classifier
) -> list[np.ndarray]:
    """The waveform of each sample chosen by `best_indices`."""
    return [candidates[best][sample] for sample, best in enumerate(best_indices(candidates, categories, reranker))]


@dataclass(kw_only=True, frozen=True)
class WindowReranker:
    """Chooses among the candidates of each window of some samples."""

    reranker: Classifier
    codec: Codec
    categories: Sequence[str]
    """Class of each sample."""
    seeds: Sequence[int]
    """Seed of each sample."""
    num_samples: int
    """Length of the samples."""
    heard_T: Tensor
    """True at the frames by which candidates are chosen, from the first to the last in a window; at least
    MIN_HEARD_S of a window are heard."""
    threads: int = 1

    def best(self, candidates: Sequence[Sequence[Tensor]], number: int, window: Window) -> list[int]:
        """The index of the best candidate of each sample, given the candidates (codes (Q, T) of each sample) of window
        number `number`."""
        length = self.num_samples - window.first * self.codec.hop
        if length <= 0:  # the window holds padding only
            return [0] * len(self.seeds)
        heard = self.heard_T[window.first : window.end].nonzero()[:, 0]
        missing = max(0, round(MIN_HEARD_S * self.codec.frame_rate) - int(heard[-1] - heard[0] + 1))
        first = max(0, int(heard[0]) - missing // 2) * self.codec.hop
        end = min(length, (int(heard[-1]) + 1 + missing // 2) * self.codec.hop)

        def decode(candidate: int) -> list[np.ndarray]:
            seeds = [candidate_seed(window_seed(seed, number), candidate) for seed in self.seeds]
            waveforms = self.codec.decode_clips([codes_QT.numpy() for codes_QT in candidates[candidate]], seeds)
            return [waveform_N[first:end] for waveform_N in waveforms]

        sounds = on_threads(decode, range(len(candidates)), self.threads)
        return best_indices(sounds, self.categories, self.reranker, self.threads)
