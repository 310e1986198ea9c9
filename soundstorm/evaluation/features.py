"""Features of clips, from which `soundstorm.evaluation.closeness` says how close generated clips come to real ones.

The codes are those of a clip that went through the codec once, as generated clips have by nature: else a recording and
its perfect copy by a model have only a fifth of their codes in common, since what the codec makes is not what it was
given.

Legend: N samples, W windows, D dimensions, T frames, Q levels.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from soundstorm.audio.files import MAX_DURATION_S, SAMPLE_RATE, from_pcm16
from soundstorm.codec.codec import Codec
from soundstorm.evaluation.embeddings import CodecEmbedder, Embedder
from soundstorm.evaluation.temporal import modulation_spectrum, spectral_flux
from soundstorm.evaluation.transients import transients

MAX_SAMPLES = round(MAX_DURATION_S * SAMPLE_RATE)
"""Of a clip that is longer, the beginning is looked at, as `tokenize` does: comparing two clips takes memory by the
product of their lengths."""


class Classifier(Protocol):
    """What features need of a classifier: `soundstorm.classification.cnn.TrainedClassifier` has it."""

    @property
    def categories(self) -> Sequence[str]:
        """Its classes, in the order of its probabilities."""
        ...

    def predict(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
        """Clips int16 (N,) at 24 kHz to the probability of each class (len(clips), C)."""
        ...

    def embed(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
        """Clips int16 (N,) at 24 kHz to one row each, (len(clips), D)."""
        ...


class FeatureExtractor:
    """Finds the features of clips.

    Args:
        codec: what the generated clips were made with.
        classifier: names the clips; None leaves its columns null.
        model: embeds the clips, one row each; None leaves its column null.
    """

    def __init__(self, codec: Codec, classifier: Classifier | None, model: Embedder | None = None) -> None:
        self.codec, self.classifier, self.model = codec, classifier, model
        self.embedder = CodecEmbedder(codec)

    def features(self, clips: Sequence[np.ndarray], through_codec: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """The columns of FEATURES that depend on the sound alone, one dict a clip.

        Args:
            clips: int16 (N,) at 24 kHz.
            through_codec: the same clips through the codec and back, or as they are if the codec made them.
        """
        if not clips:
            return []
        clips = [clip[:MAX_SAMPLES] for clip in clips]
        codes = [
            codes_QT[0]
            for codes_QT in self.codec.encode_clips([from_pcm16(clip[:MAX_SAMPLES]) for clip in through_codec])
        ]
        names = self._names(clips)
        in_model = [None] * len(clips) if self.model is None else [row_1D[0] for row_1D in self.model.embed(clips)]
        rows = []
        for clip, codes_T, embedding_WD, name, model_D in zip(
            clips, codes, self.embedder.embed(clips), names, in_model, strict=True
        ):
            bands_K = modulation_spectrum(clip, SAMPLE_RATE)[1]
            onsets = transients(clip, SAMPLE_RATE)
            rows.append(
                {
                    "flux": spectral_flux(clip, SAMPLE_RATE),
                    "modulation": float(bands_K.sum()),
                    "modulation_bands": bands_K,
                    "onset_rate": onsets.per_second,
                    "onset_rise": onsets.rise_db,
                    "codec_embedding": list(embedding_WD),
                    "model_embedding": model_D,
                    "codes": codes_T,
                }
                | name
            )
        return rows

    def _names(self, clips: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        if self.classifier is None:
            return [{"classifier_embedding": None, "predicted": None, "probability": None}] * len(clips)
        best = self.classifier.predict(clips)
        return [
            {
                "classifier_embedding": embedding_D,
                "predicted": self.classifier.categories[int(probability_C.argmax())],
                "probability": float(probability_C.max()),
            }
            for embedding_D, probability_C in zip(self.classifier.embed(clips), best, strict=True)
        ]
