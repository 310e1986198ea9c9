"""Noise that follows from a seed and a place alone: the same for a sample or frame whoever asks, alone, in a batch or
in windows.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a key and a counter into random
bits."""

import numpy as np
from numpy.typing import NDArray

WORDS = 4
"""64-bit words that a step of the counter gives."""
WHITE, TEXTURE = 0, 1
"""Streams of a seed."""
ORIGIN = 1 << 40
"""Counter of place 0; places before a clip's beginning have noise, too."""


def uniform(seed: int, stream: int, first: int, count: int) -> NDArray[np.float64]:
    """Numbers `first` to `first + count` of a stream, uniform in (0, 1); `first` is a multiple of 4 and may be
    negative."""
    step, rest = divmod(first, WORDS)
    if rest:
        raise ValueError(f"noise from place {first}: give a multiple of {WORDS}")
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, stream], dtype=np.uint64)
    bits = np.random.Philox(counter=ORIGIN + step, key=key).random_raw(count)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(seed: int, stream: int, first: int, count: int) -> NDArray[np.float64]:
    """Numbers `first` to `first + count` of a stream, normally distributed; both are multiples of 4.

    Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    radius, angle = uniform(seed, stream, first, count).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log(radius)), 2 * np.pi * angle
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
