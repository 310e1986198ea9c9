"""Memorization: whether a generated clip repeats a training clip, measured by equal codes at equal times after any
shift in time.

Only the first level of codes is compared, which carries most of the sound. Real recordings share codes too (two barks
are both followed by digital silence), so a fraction means something only in comparison with that of real clips outside
the training data.

Legend: N clips, T frames, L shifts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from soundstorm.errors import SoundStormError

_BLOCK_FRAMES = 255
"""Frames compared at once: as many as 8 bits can count."""


def matching_fraction(codes_T: NDArray[np.integer], other_T: NDArray[np.integer]) -> float:
    """Largest fraction, over all shifts in time, of the frames of `codes_T` that equal those of `other_T`; 0 to 1.

    Frames without a counterpart in the other clip count as unequal: a copy of the first half of a clip, followed by
    something else, has about 0.5.

    Args:
        codes_T: codes of one level, at least one frame.
        other_T: the same of another clip, of any length.

    Raises:
        SoundStormError: codes of more than one level, or a clip without frames.
    """
    _check(codes_T, "codes")
    _check(other_T, "other codes")
    length, other_length = len(codes_T), len(other_T)
    equal_L = np.zeros(length + other_length - 1, dtype=np.int64)  # equal frames at each shift
    for start in range(0, length, _BLOCK_FRAMES):
        block = codes_T[start : start + _BLOCK_FRAMES]
        size, width = len(block), len(block) + other_length - 1
        # Reading rows of length width + 1 as rows of length width shifts each row by one more sample than the row
        # before: the diagonals of the matrix become columns.
        equal = np.zeros((size, width + 1), dtype=np.uint8)
        equal[:, :other_length] = block[::-1, None] == other_T
        diagonals = equal.reshape(-1)[: size * width].reshape(size, width)
        equal_L[length - start - size :][:width] += diagonals.sum(axis=0, dtype=np.uint8)
    return int(equal_L.max()) / length


def nearest_training_match(
    codes: Sequence[NDArray[np.integer]],
    categories: Sequence[str],
    training_codes: Sequence[NDArray[np.integer]],
    training_categories: Sequence[str],
) -> NDArray[np.float64]:
    """`matching_fraction` (N,) of each clip with the training clip of its class that matches best; of any class if its
    own has no training clips.

    Comparing a 5 s clip with 32 training clips takes 2 ms.

    Args:
        codes: first level of each clip, (T,) of any lengths.
        categories: the class of each clip.
        training_codes: first level of each training clip, at least one clip.
        training_categories: the class of each training clip.

    Raises:
        SoundStormError: numbers of clips and classes differ, there are no training clips, or as `matching_fraction`.
    """
    if len(codes) != len(categories) or len(training_codes) != len(training_categories):
        raise SoundStormError(
            f"{len(codes)} clips with {len(categories)} classes, {len(training_codes)} training clips with "
            f"{len(training_categories)}: "
            "each clip needs one class"
        )
    if not len(training_codes):
        raise SoundStormError("there are no training clips to compare with: give at least one")
    by_category: dict[str, list[NDArray[np.integer]]] = {}
    for other_T, category in zip(training_codes, training_categories, strict=True):
        by_category.setdefault(category, []).append(other_T)
    shares = [
        max(matching_fraction(codes_T, other_T) for other_T in by_category.get(category, training_codes))
        for codes_T, category in zip(codes, categories, strict=True)
    ]
    return np.array(shares, dtype=np.float64)


def _check(codes_T: NDArray[np.integer], what: str) -> None:
    if codes_T.ndim != 1 or len(codes_T) == 0:
        raise SoundStormError(
            f"{what} of shape {codes_T.shape}: expected one level of at least one frame, shape (T,), such as "
            "codes_QT[0]"
        )
