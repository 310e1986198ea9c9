"""Which of several draws of a sample to keep: the one that a classifier takes most surely for the class that was asked
for.

The classifier is another one than that which `evaluate` measures with.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from soundstorm.audio.files import to_pcm16
from soundstorm.data.categories import find_category, normalized
from soundstorm.errors import SoundStormError

PACKAGED_LISTENER = "listener.safetensors"
"""The classifier in the package that chooses; it knows the classes of ESC-10."""


class Classifier(Protocol):
    """What choosing needs of a classifier: `soundstorm.classification.cnn.TrainedClassifier` has it."""

    @property
    def categories(self) -> Sequence[str]:
        """Its classes, in the order of its probabilities."""
        ...

    def predict(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
        """Clips int16 (N,) at 24 kHz to the probability of each class (len(clips), C)."""
        ...


def require_known(listener: Classifier, categories: Sequence[str], where: str) -> None:
    """Raises SoundStormError if `listener`, which came from `where`, does not know one of the classes to choose for."""
    known = {normalized(category) for category in listener.categories}
    unknown = [category for category in categories if normalized(category) not in known]
    if unknown:
        raise SoundStormError(
            f"{where} cannot choose among --candidates: it does not know "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}, only "
            f"{', '.join(listener.categories)}. Give --candidates 1, or --listener with a classifier that "
            "`train-classifier` made of your recordings"
        )


def draw_seed(seed: int, draw: int) -> int:
    """The seed, 63 bits, of draw `draw` of a sample: the first has the sample's own."""
    return (
        seed if draw == 0 else int.from_bytes(hashlib.sha256(f"{seed}/draw {draw}".encode()).digest()[:8], "big") >> 1
    )


def most_convincing(
    draws: Sequence[Sequence[np.ndarray]], categories: Sequence[str], listener: Classifier
) -> list[np.ndarray]:
    """For each sample the draw that `listener` takes most surely for its class; of equals the first.

    Args:
        draws: one or more draws of every sample, waveforms (N,) at 24 kHz in [-1, 1].
        categories: class of each sample.
        listener: knows all of these classes.
    """
    if len(draws) == 1:
        return list(draws[0])
    column_B = [
        find_category(category, listener.categories, "a sample's class", "the classifier") for category in categories
    ]
    sure_DB = np.stack(
        [listener.predict([to_pcm16(wave) for wave in draw])[range(len(draw)), column_B] for draw in draws]
    )
    return [draws[best][sample] for sample, best in enumerate(sure_DB.argmax(0))]
