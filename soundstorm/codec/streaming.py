"""Encoding and decoding in windows: clips of any length in bounded memory, with the same result as in one piece.

Windows begin at fixed positions of a clip, however it is divided into parts.

Legend: N samples, T mel frames, M mel bands.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from soundstorm.codec.config import BlockCodecConfig
from soundstorm.codec.log_mel import Array, mirrored

ENCODED_FRAMES, DECODED_FRAMES = 768, 192
"""Mel frames per window (10.24 s and 2.56 s), a whole number of blocks of every length; the spectra of a decoded window
fit into the processor's cache."""


def log_mel_windows(
    parts: Iterable[NDArray], config: BlockCodecConfig, log_mel: Callable[[NDArray], Array]
) -> Iterator[Array]:
    """Log-mel frames (T, M), window by window, of a waveform that arrives in parts.

    Args:
        parts: waveforms (N,), one after another.
        config: settings of the codec.
        log_mel: computes log-mel frames of samples with an extra half hop at both ends.
    """
    edge, window = config.hop // 2, ENCODED_FRAMES * config.hop
    held_N, is_begun = np.zeros(0, dtype=np.float32), False
    for part_N in parts:
        held_N = np.concatenate([held_N, part_N.astype(np.float32)])
        if not is_begun and len(held_N) >= config.block_hop + 2 * edge:
            held_N, is_begun = np.concatenate([held_N[:edge][::-1], held_N]), True
        while (
            is_begun and len(held_N) > window + config.block_hop + 2 * edge
        ):  # the rest is long enough to be mirrored at its end
            yield log_mel(held_N[: window + 2 * edge])
            held_N = held_N[window:]
    if not is_begun:
        if len(held_N):
            yield log_mel(mirrored(held_N, config))
        return
    missing = -(len(held_N) - edge) % config.block_hop
    yield log_mel(np.pad(held_N, (0, missing + edge), mode="symmetric"))


def sample_windows(parts: Iterable[Array], reach: int, synthesis: Callable[[Array, int], Array]) -> Iterator[Array]:
    """Samples (N,), window by window, from log-mel frames (T, M) that arrive in parts.

    Args:
        parts: frames, one after another; the first and the last frame are repeated beyond the ends.
        reach: number of frames on both sides on which a frame's samples depend.
        synthesis: maps frames and the index of the first one to samples; the samples of `reach` frames at both ends are
            dropped.
    """
    held: list[Array] = []
    count, first = 0, -reach
    for part_TM in parts:
        if not len(part_TM):
            continue
        if not held:
            held, count = [np.repeat(part_TM[:1], reach, axis=0)], reach
        held.append(part_TM)
        count += len(part_TM)
        while count >= DECODED_FRAMES + 2 * reach + 1:
            frames_TM = np.concatenate(held)
            yield _inner(synthesis(frames_TM[: DECODED_FRAMES + 2 * reach], first), reach, DECODED_FRAMES)
            held, first = [frames_TM[DECODED_FRAMES:]], first + DECODED_FRAMES
            count -= DECODED_FRAMES
    if held:
        frames_TM = np.concatenate(held)
        frames_TM = np.concatenate([frames_TM, np.repeat(frames_TM[-1:], reach, axis=0)])
        yield _inner(synthesis(frames_TM, first), reach, len(frames_TM) - 2 * reach)


def _inner(samples_N: Array, reach: int, num_frames: int) -> Array:
    hop = len(samples_N) // (num_frames + 2 * reach)
    return samples_N[reach * hop : (reach + num_frames) * hop]
