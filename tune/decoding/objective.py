"""The objective of decoding studies: one figure for the distance between generated and real clips, cheap enough to be
computed hundreds of times.

It is the mean Kolmogorov-Smirnov distance of the six metrics, 0 to 1, plus a distance in the codec's embedding, 0 to
√2: the square root of `soundstorm.evaluation.distances.kernel_distance`, so that both parts are distances of a similar
scale. It detects neither clips of the wrong class nor copies of training clips; `soundstorm evaluate` does, and a model
should be judged with that.

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
class ClipStatistics:
    """Metrics and embeddings of a set of clips."""

    metrics_N6: NDArray[np.float64]
    """In the order of METRIC_NAMES."""
    rows_RD: NDArray[np.float32]
    """Embeddings by the codec, a row per second of sound."""

    @classmethod
    def of(cls, clips: Sequence[NDArray[np.int16]], codec: Codec) -> "ClipStatistics":
        """Compute the statistics of clips, int16 (N,) at 24 kHz, at least one."""
        metrics = [list(clip_metrics(clip, SAMPLE_RATE).values()) for clip in clips]
        return cls(np.array(metrics), np.concatenate(CodecEmbedder(codec).embed(clips)))

    @classmethod
    def joined(cls, parts: Sequence["ClipStatistics"]) -> "ClipStatistics":
        """The statistics of all parts together."""
        return cls(
            np.concatenate([part.metrics_N6 for part in parts]), np.concatenate([part.rows_RD for part in parts])
        )


def distribution_distances(real: ClipStatistics, made: ClipStatistics) -> dict[str, float]:
    """The objective `quality`, its two parts `ks_mean` and `embedding_distance`, and `ks_NAME` of each metric; lower is
    better for all of them.

    Raises:
        SoundStormError: a set is empty, has fewer than two rows, or contains values that are not finite.
    """
    ks = {
        f"ks_{name}": compare(real.metrics_N6[:, column], made.metrics_N6[:, column]).ks
        for column, name in enumerate(METRIC_NAMES)
    }
    mean = float(np.mean(list(ks.values())))
    distance = math.sqrt(max(0.0, kernel_distance(real.rows_RD, made.rows_RD)))
    return {"quality": mean + distance, "ks_mean": mean, "embedding_distance": distance} | ks


DISTANCE_NAMES = ("ks_mean", "embedding_distance", *(f"ks_{name}" for name in METRIC_NAMES))
"""What `distribution_distances` returns besides `quality`."""
