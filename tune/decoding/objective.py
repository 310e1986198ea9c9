"""One figure for how like real clips generated ones are, cheap enough to be taken hundreds of times: what decoding
studies make small.

It is the mean Kolmogorov-Smirnov distance of the six metrics, 0 to 1, plus a distance in the codec's embedding, 0 to
√2: the root of `soundstorm.evaluation.distances.kernel_distance`, so that both are distances between distributions and
of one size. Neither hears whether a clip is of its class, nor copies: `soundstorm evaluate` does, and is what to judge
a model with.

Legend: N clips, R rows, D dimensions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstorm.audio.files import SAMPLE_RATE
from soundstorm.codec.codec import Codec
from soundstorm.evaluation.acoustic import clip_metrics
from soundstorm.evaluation.distances import kernel_distance
from soundstorm.evaluation.embeddings import CodecEmbedder
from soundstorm.evaluation.metric_info import METRIC_NAMES
from soundstorm.evaluation.summary import compare


@dataclass(frozen=True, eq=False)
class Measured:
    """What is compared of a set of clips."""

    metrics_N6: NDArray[np.float64]
    """In the order of METRIC_NAMES."""
    rows_RD: NDArray[np.float32]
    """In the codec's embedding, one a second of sound."""

    @classmethod
    def of(cls, clips: Sequence[NDArray[np.int16]], codec: Codec) -> "Measured":
        """Measure clips, int16 (N,) at 24 kHz, at least one."""
        metrics = [list(clip_metrics(clip, SAMPLE_RATE).values()) for clip in clips]
        return cls(np.array(metrics), np.concatenate(CodecEmbedder(codec).embed(clips)))

    @classmethod
    def joined(cls, parts: Sequence["Measured"]) -> "Measured":
        """The clips of all parts together."""
        return cls(
            np.concatenate([part.metrics_N6 for part in parts]), np.concatenate([part.rows_RD for part in parts])
        )


def unlikeness(real: Measured, made: Measured) -> dict[str, float]:
    """`quality`, its two parts `ks_mean` and `embedding_distance`, and `ks_NAME` of each metric; less is better in all.

    Raises:
        SoundStormError: a set is empty, has fewer than two rows, or holds values that are not finite.
    """
    ks = {
        f"ks_{name}": compare(real.metrics_N6[:, column], made.metrics_N6[:, column]).ks
        for column, name in enumerate(METRIC_NAMES)
    }
    mean = float(np.mean(list(ks.values())))
    distance = math.sqrt(max(0.0, kernel_distance(real.rows_RD, made.rows_RD)))
    return {"quality": mean + distance, "ks_mean": mean, "embedding_distance": distance} | ks


FIGURES = ("ks_mean", "embedding_distance", *(f"ks_{name}" for name in METRIC_NAMES))
"""What `unlikeness` gives beside `quality`."""
