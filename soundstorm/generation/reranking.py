"""Reranking: of several candidates of a sample, keep one to which a classifier gives a high probability of its class.

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
from soundstorm.generation.candidates import Candidate
from soundstorm.generation.seeds import candidate_seed, window_seed
from soundstorm.generation.windows import Window

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


def class_probabilities(
    waveforms: Sequence[np.ndarray], categories: Sequence[str], reranker: Classifier
) -> list[float]:
    """The probability that `reranker` gives the class of each waveform (N,), at 24 kHz in [-1, 1].

    Raises:
        SoundStormError: it does not know a class.
    """
    columns = [
        find_category(category, reranker.categories, "a sample's class", "the classifier") for category in categories
    ]
    probability_BC = reranker.predict([to_pcm16(waveform_N) for waveform_N in waveforms])
    return [float(row_C[column]) for row_C, column in zip(probability_BC, columns, strict=True)]


@dataclass(kw_only=True, frozen=True)
class WindowReranker:
    """Scores the candidates of each window of some samples."""

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

    def score(
        self, candidates: Sequence[Candidate], codes: Sequence[Tensor], *, number: int, window: Window
    ) -> list[float]:
        """The probability of its class that the reranker gives each candidate of window number `number`, given its
        codes (Q, T)."""
        length = self.num_samples - window.first * self.codec.hop
        if length <= 0:  # the window holds padding only
            return [1.0] * len(candidates)
        heard = self.heard_T[window.first : window.end].nonzero()[:, 0]
        missing = max(0, round(MIN_HEARD_S * self.codec.frame_rate) - int(heard[-1] - heard[0] + 1))
        first = max(0, int(heard[0]) - missing // 2) * self.codec.hop
        end = min(length, (int(heard[-1]) + 1 + missing // 2) * self.codec.hop)
        seeds = [
            candidate_seed(window_seed(self.seeds[candidate.sample], number), candidate.number)
            for candidate in candidates
        ]
        waveforms = self.codec.decode_clips([codes_QT.numpy() for codes_QT in codes], seeds)
        return class_probabilities(
            [waveform_N[first:end] for waveform_N in waveforms],
            [self.categories[candidate.sample] for candidate in candidates],
            self.reranker,
        )
