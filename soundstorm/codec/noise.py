"""Noise that depends only on a seed and a position in the clip, so it is the same whether a clip is processed alone, in
a batch or in windows.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a key and a counter to random bits.
"""

import numpy as np
from numpy.typing import NDArray

WORDS = 4
"""Number of 64-bit words per value of the counter."""
WHITE, TEXTURE = 0, 1
"""Independent streams of noise of a seed."""
ORIGIN = 1 << 40
"""Counter of position 0; positions before the beginning of a clip have noise, too."""


def uniform(seed: int, stream: int, first: int, count: int) -> NDArray[np.float64]:
    """Numbers `first` to `first + count` of a stream, uniform in (0, 1); `first` must be a multiple of 4 and may be
    negative."""
    step, rest = divmod(first, WORDS)
    if rest:
        raise ValueError(f"noise from position {first}: give a multiple of {WORDS}")
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, stream], dtype=np.uint64)
    bits = np.random.Philox(counter=ORIGIN + step, key=key).random_raw(count)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(seed: int, stream: int, first: int, count: int) -> NDArray[np.float64]:
    """Numbers `first` to `first + count` of a stream, normally distributed; both must be multiples of 4.

    Source: Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    radius, angle = uniform(seed, stream, first, count).reshape(-1, 2).T
    radius, angle = np.sqrt(-2 * np.log(radius)), 2 * np.pi * angle
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
