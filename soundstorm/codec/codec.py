"""`Codec`: waveform to codes and back, whichever network stands behind it.

Two kinds of weights are understood: safetensors files of this project's block codec, and the official EnCodec 24 kHz
`.th` file (verified by SHA-256 before it is opened, then read with `weights_only=True`). Everything after the codec
sees only codes and a fingerprint: level count and frame rate are the codec's own, and a rate need not be a whole
number.

Legend: B batch, N samples, T frames, Q levels, K codebook size, L size of a code's vector, D dimensions.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from soundstorm.data.equal_lengths import in_equal_batches
from soundstorm.schemas import CodecFingerprint

OFFICIAL_FILE = "encodec_24khz-d7cc33bc.th"
OFFICIAL_SIZE = 93_171_529
OFFICIAL_URL = f"https://dl.fbaipublicfiles.com/encodec/v0/{OFFICIAL_FILE}"
MAX_BATCH_S = 30.0
"""Seconds of audio in one batch at most, for EnCodec's memory; a clip that is longer is a batch of its own."""


class CodecNetwork(Protocol):
    """What stands behind a `Codec`: in evaluation mode, on the device to use."""

    @property
    def device(self) -> torch.device: ...

    @property
    def hop(self) -> int:
        """Samples of a frame of codes."""
        ...

    @property
    def latent_rate(self) -> float:
        """Latents per second."""
        ...

    @property
    def codebooks(self) -> Tensor:
        """The centroid of each code of each level, (Q, K, L) float32: a frame is the sum of one of each level."""
        ...

    def encode_batch(self, waveform_B1N: Tensor) -> Tensor:
        """Waveforms (B, 1, N), float32, to codes (B, Q, T), int64."""
        ...

    def decode_batch(self, codes_BQT: Tensor, seeds: Sequence[int]) -> Tensor:
        """Codes of the first levels or of all, and a seed for each clip, to waveforms (B, 1, T * hop)."""
        ...

    def latents(self, waveform_BN: Tensor) -> Tensor:
        """What is known of a sound before it is quantized: waveforms (B, N) to (B, D, frames)."""
        ...


class Codec:
    """Encodes waveforms to codes and decodes codes to waveforms; frozen.

    Args:
        network: what does it.
        fingerprint: what its codes are comparable with.
    """

    def __init__(self, network: CodecNetwork, fingerprint: CodecFingerprint) -> None:
        self.network, self.fingerprint, self.hop = network, fingerprint, network.hop
        self.sample_rate, self.frame_rate = fingerprint.sample_rate, fingerprint.frame_rate

    @property
    def device(self) -> torch.device:
        return self.network.device

    @torch.inference_mode()
    def encode(self, waveform_B1N: Tensor) -> Tensor:
        """Waveforms (B, 1, N), float32 in [-1, 1] at `sample_rate`, to codes (B, Q, T) with T = ceil(N / hop)."""
        if waveform_B1N.ndim != 3 or waveform_B1N.shape[1] != 1 or waveform_B1N.shape[2] == 0:
            raise ValueError(
                f"waveform has shape {tuple(waveform_B1N.shape)}, expected (batch, 1, samples) with at least one sample"
            )
        return self.network.encode_batch(waveform_B1N.to(self.device))

    @torch.inference_mode()
    def decode(self, codes_BQT: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Codes (B, Q, T) to waveforms (B, 1, T * hop), float32; loud passages may exceed 1 a little, and the caller
        scales or clips.

        Q may be less than the codec's number of levels: they are the first ones, and what the others would add is left
        to the codec. `seeds`, one a clip and 0 by default, decide the noise of a codec that decodes with noise: equal
        codes and seed give equal samples.
        """
        levels, size = self.fingerprint.num_levels, self.fingerprint.codebook_size
        if codes_BQT.ndim != 3 or not 1 <= codes_BQT.shape[1] <= levels or codes_BQT.shape[2] == 0:
            raise ValueError(
                f"codes have shape {tuple(codes_BQT.shape)}, expected (batch, 1 to {levels}, frames) with at least "
                "one frame"
            )
        if int(codes_BQT.min()) < 0 or int(codes_BQT.max()) >= size:
            raise ValueError(f"codes lie in {int(codes_BQT.min())}..{int(codes_BQT.max())}, expected 0..{size - 1}")
        return self.network.decode_batch(codes_BQT.to(self.device), _seeds(seeds, len(codes_BQT)))

    def encode_clips(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waveforms (N,) of any lengths to codes (Q, ceil(N / hop)), uint16, in order.

        Clips of equal length share a batch; nothing is padded, so a clip's codes do not depend on the clips beside it.
        """
        return in_equal_batches(
            waveforms, [len(clip) for clip in waveforms], MAX_BATCH_S * self.sample_rate, self._encode_batch
        )

    def decode_clips(self, codes: Sequence[np.ndarray], seeds: Sequence[int] | None = None) -> list[np.ndarray]:
        """Codes (Q, T) of any lengths to waveforms (T * hop,), float32, in order; `seeds` as `decode` takes them."""
        clips = list(zip(codes, _seeds(seeds, len(codes)), strict=True))
        return in_equal_batches(
            clips, [clip.shape[1] for clip in codes], MAX_BATCH_S * self.frame_rate, self._decode_batch
        )

    def _encode_batch(self, waveforms: list[np.ndarray]) -> list[np.ndarray]:
        batch_B1N = torch.from_numpy(np.stack(waveforms).astype(np.float32))[:, None]
        return list(self.encode(batch_B1N).cpu().numpy().astype(np.uint16))

    def _decode_batch(self, clips: list[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        batch_BQT = torch.from_numpy(np.stack([codes_QT for codes_QT, _ in clips]).astype(np.int64))
        return list(self.decode(batch_BQT, [seed for _, seed in clips])[:, 0].cpu().numpy())


def _seeds(seeds: Sequence[int] | None, count: int) -> Sequence[int]:
    if seeds is not None and len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} clips: give one a clip")
    return [0] * count if seeds is None else seeds
