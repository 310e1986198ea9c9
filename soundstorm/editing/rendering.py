"""Decodes parts of a clip's codes to sound.

Legend: Q levels, T frames, N samples.
"""

import math

import numpy as np
import torch
from torch import Tensor

from soundstorm.audio.joining import closed
from soundstorm.codec.codec import Codec

LOOP_FADE_S = 0.05
"""Seconds of the cross-fade at the start of a generated loop, between two decodings of the same codes with different
phases."""
CONTEXT_S = 0.25
"""Seconds of context that the codec gets on both sides of a decoded part."""


def decoded_span(codec: Codec, codes_QT: Tensor, first: int, end: int, seed: int) -> np.ndarray:
    """Decode samples `first` to `end` of codes (Q, T)."""
    hop, around = codec.hop, math.ceil(CONTEXT_S * codec.frame_rate)
    first_frame, end_frame = max(0, first // hop - around), min(codes_QT.shape[1], math.ceil(end / hop) + around)
    [waveform_N] = codec.decode_clips([codes_QT[:, first_frame:end_frame].numpy()], [seed])
    return waveform_N[first - first_frame * hop : end - first_frame * hop]


def decoded_loop(codec: Codec, codes_QT: Tensor, num_samples: int, seed: int) -> np.ndarray:
    """Decode codes (Q, T) whose end continues with their beginning to a waveform (num_samples,)."""
    around = min(math.ceil(CONTEXT_S * codec.frame_rate), codes_QT.shape[1])
    round_QT = torch.cat((codes_QT[:, -around:], codes_QT, codes_QT[:, :around]), 1)
    [waveform_N] = codec.decode_clips([round_QT.numpy()], [seed])
    first, fade = around * codec.hop, round(LOOP_FADE_S * codec.sample_rate)
    end = first + num_samples
    return closed(waveform_N[first:end], waveform_N[end : end + fade])
