"""Features of clips, from which `soundstorm.evaluation.closeness` computes how similar generated clips are to real
ones.

The codes of a real clip are computed after passing it through the codec once, because generated clips are codec output,
too. Without that, a recording and a perfect copy of it by a model would share only a fifth of their codes: encoding
decoded sound does not return the same codes as encoding the original.

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
"""Longer clips are cut to this length, as in `tokenize`: comparing two clips takes memory proportional to the product
of their lengths."""


class Classifier(Protocol):
    """The interface of a classifier that features need, implemented by
    `soundstorm.classification.cnn.TrainedClassifier`."""

    @property
    def categories(self) -> Sequence[str]:
        """Its classes, in the order of its probabilities."""
        ...

    def predict(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
        """Probability of each class (len(clips), C) for clips int16 (N,) at 24 kHz."""
        ...

    def embed(self, clips: Sequence[NDArray[np.int16]]) -> NDArray[np.float32]:
        """Embeddings (len(clips), D) of clips int16 (N,) at 24 kHz."""
        ...


class FeatureExtractor:
    """Computes the features of clips.

    Args:
        codec: codec of the generated clips.
        classifier: predicts the class of the clips; None leaves its columns null.
        model: embeds the clips, one row each; None leaves its column null.
    """

    def __init__(self, codec: Codec, classifier: Classifier | None, model: Embedder | None = None) -> None:
        self.codec, self.classifier, self.model = codec, classifier, model
        self.embedder = CodecEmbedder(codec)

    def features(self, clips: Sequence[np.ndarray], through_codec: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """The columns of FEATURES that depend on the sound alone, a dict per clip.

        Args:
            clips: int16 (N,) at 24 kHz.
            through_codec: the same clips encoded and decoded by the codec, or unchanged if the codec made them.
        """
        if not clips:
            return []
        clips = [clip[:MAX_SAMPLES] for clip in clips]
        codes = [
            codes_QT[0]
            for codes_QT in self.codec.encode_clips([from_pcm16(clip[:MAX_SAMPLES]) for clip in through_codec])
        ]
        predictions = self._predictions(clips)
        in_model = [None] * len(clips) if self.model is None else [row_1D[0] for row_1D in self.model.embed(clips)]
        rows = []
        for clip, codes_T, embedding_WD, prediction, model_D in zip(
            clips, codes, self.embedder.embed(clips), predictions, in_model, strict=True
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
                | prediction
            )
        return rows

    def _predictions(self, clips: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        if self.classifier is None:
            return [{"classifier_embedding": None, "predicted": None, "probability": None}] * len(clips)
        probabilities = self.classifier.predict(clips)
        return [
            {
                "classifier_embedding": embedding_D,
                "predicted": self.classifier.categories[int(probability_C.argmax())],
                "probability": float(probability_C.max()),
            }
            for embedding_D, probability_C in zip(self.classifier.embed(clips), probabilities, strict=True)
        ]
