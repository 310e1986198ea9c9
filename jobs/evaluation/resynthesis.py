"""Clips through the codec. Their codes are kept by content, because a codec searches long for them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from jobs.caching.result_cache import ResultCache
from soundstorm.audio.files import from_pcm16, to_pcm16
from soundstorm.codec.codec import Codec
from soundstorm.optimization.threads import on_threads


class Resynthesizer:
    """Encodes and decodes clips.

    Args:
        codec: the codec.
        folder: path or URI of the folder with codes of earlier runs; None: all clips are encoded.
    """

    def __init__(self, codec: Codec, folder: str | None = None) -> None:
        self._codec, self._results = codec, ResultCache(folder)

    def __call__(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Clips, int16 (N,) at 24 kHz, as the codec decodes them, of the same lengths."""
        about = [self._about(clip) for clip in clips]
        kept = [self._results.find("codes", one) for one in about]
        missing = [position for position, found in enumerate(kept) if found is None]
        for position, codes_QT in zip(missing, self._encoded([clips[one] for one in missing]), strict=True):
            kept[position] = codes_QT
            self._results.keep("codes", about[position], codes_QT)
        decoded = self._codec.decode_clips([np.array(codes_QT, np.uint16) for codes_QT in kept])
        return [to_pcm16(waveform[: len(clip)]) for waveform, clip in zip(decoded, clips, strict=True)]

    def _encoded(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Codes of each clip, alone and on one core: the last bits of a network depend on both."""
        threads = torch.get_num_threads() if self._codec.device.type == "cpu" else 1
        return on_threads(lambda clip: self._codec.encode_clips([from_pcm16(clip)])[0], clips, threads)

    def _about(self, clip: np.ndarray) -> dict[str, Any]:
        return {
            "samples": hashlib.sha256(clip.tobytes()).hexdigest() if self._results.is_on else "",
            "codec": self._codec.fingerprint.sha256,
            "device": str(self._codec.device),
        }
