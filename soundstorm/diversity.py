"""How different the clips of one class are from each other: low where a generator makes the same clip again and again.

Legend: N clips, D dimensions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from soundstorm.errors import SoundStormError

_BLOCK_ROWS = 1024


def within_class_distance(embedding_ND: NDArray[np.floating], categories: Sequence[str]) -> float | None:
    """Mean over classes of the mean Euclidean distance of two clips of the class; None where no class has two clips.

    Classes count alike, whatever their number of clips. In units of the embedding: compare it with that of real clips.

    Args:
        embedding_ND: one row a clip.
        categories: the class of each row.

    Raises:
        SoundStormError: not one row a class name, or a value that is not finite.
    """
    points_ND: NDArray[np.float64] = np.asarray(embedding_ND, dtype=np.float64)
    if points_ND.ndim != 2 or len(points_ND) != len(categories):
        raise SoundStormError(f"embeddings of shape {points_ND.shape} for {len(categories)} clips: expected one row for each, shape (N, D)")
    if not np.isfinite(points_ND).all():
        raise SoundStormError("embeddings hold NaN or infinity; embed these clips again")
    rows: dict[str, list[int]] = {}
    for row, category in enumerate(categories):
        rows.setdefault(category, []).append(row)
    distances = [_mean_distance(points_ND[members]) for members in rows.values() if len(members) > 1]
    return float(np.mean(distances)) if distances else None


def _mean_distance(points_ND: NDArray[np.float64]) -> float:
    """Over all pairs of different rows, a block of rows at a time."""
    number = len(points_ND)
    total = sum(float(cdist(points_ND[start : start + _BLOCK_ROWS], points_ND).sum()) for start in range(0, number, _BLOCK_ROWS))
    return total / (number * (number - 1))
