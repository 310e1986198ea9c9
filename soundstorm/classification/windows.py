"""Classification of long clips in windows: the probabilities of a clip are the mean over its windows.

Legend: N samples, C categories.
"""

from collections.abc import Callable, Sequence

import numpy as np


def windows(clip: np.ndarray, longest: int) -> list[np.ndarray]:
    """Divide a clip (N,) into the smallest number of windows of at most `longest` samples, all of the same length; a
    clip of at most that length is returned whole.

    Windows of the same length can be batched. Neighbouring windows overlap by a few samples if the clip cannot be
    divided evenly.
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
    """Probability of each category, float32 (clips, C), averaged over the windows of each clip.

    Args:
        predict: method of a classifier: maps clips (N,) to probabilities (clips, C).
        clips: of any lengths, each of at least one sample.
        longest: maximum number of samples in a window.
    """
    cut = [windows(clip, longest) for clip in clips]
    probability_WC = predict([window for parts in cut for window in parts])
    counts = np.array([len(parts) for parts in cut], np.int64)
    if not len(counts):
        return probability_WC
    return (np.add.reduceat(probability_WC, np.cumsum(counts) - counts, axis=0) / counts[:, None]).astype(np.float32)
