"""Long clips in windows: a classifier hears one window after the other, and what it says of a clip is the mean of what
it says of its windows.

Legend: N samples, C categories.
"""

from collections.abc import Callable, Sequence

import numpy as np


def windows(clip: np.ndarray, longest: int) -> list[np.ndarray]:
    """A clip (N,) in as few windows of at most `longest` samples as hold all of it, all of one length; a clip that is
    no longer is the only one.

    Windows of one length can be heard together. Neighbours share a few samples where the clip cannot be divided evenly.
    """
    count = -(-len(clip) // longest)
    if count <= 1:
        return [clip]
    length = -(-len(clip) // count)
    starts = np.linspace(0, len(clip) - length, count).round().astype(np.int64)
    return [clip[start : start + length] for start in starts.tolist()]


def predict_in_windows(
    predict: Callable[[Sequence[np.ndarray]], np.ndarray], clips: Sequence[np.ndarray], longest: int
) -> np.ndarray:
    """Mean over a clip's windows of the probability of each category, float32 (clips, C).

    Args:
        predict: a classifier's: from clips (N,) to probabilities (clips, C).
        clips: of any lengths, each of at least one sample.
        longest: samples of a window at most.
    """
    cut = [windows(clip, longest) for clip in clips]
    probability_WC = predict([window for parts in cut for window in parts])
    counts = np.array([len(parts) for parts in cut], np.int64)
    if not len(counts):
        return probability_WC
    return (np.add.reduceat(probability_WC, np.cumsum(counts) - counts, axis=0) / counts[:, None]).astype(np.float32)
