"""`Codec` encodes waveforms to codes and decodes codes to waveforms, whatever model does the work.

Two kinds of weights are supported: safetensors files of this project's block codec, and the official EnCodec 24 kHz
`.th` file (its SHA-256 is checked before it is opened, and it is read with `weights_only=True`). The rest of the
project sees only codes and a fingerprint: each codec has its own number of levels and frame rate, and the frame rate
need not be a whole number.

Legend: B batch, N samples, T frames, Q levels, K codebook size, L size of a codebook vector, D dimensions.
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
"""Maximum duration in seconds of a batch, which bounds EnCodec's memory; a longer clip is a batch of its own."""


class CodecNetwork(Protocol):
    """The model behind a `Codec`, in evaluation mode and on the device to use."""

    @property
    def device(self) -> torch.device: ...

    @property
    def hop(self) -> int:
        """Samples per frame of codes."""
        ...

    @property
    def latent_rate(self) -> float:
        """Latent frames per second."""
        ...

    @property
    def codebooks(self) -> Tensor:
        """The codebook vectors, (Q, K, L) float32: a frame is represented by the sum of one vector per level."""
        ...

    def encode_batch(self, waveform_B1N: Tensor) -> Tensor:
        """Encode waveforms (B, 1, N), float32, to codes (B, Q, T), int64."""
        ...

    def decode_batch(self, codes_BQT: Tensor, seeds: Sequence[int]) -> Tensor:
        """Decode codes of all levels or of the first ones, with a seed for each clip, to waveforms (B, 1, T * hop)."""
        ...

    def latents(self, waveform_BN: Tensor) -> Tensor:
        """The continuous representation before quantization: waveforms (B, N) to (B, D, frames)."""
        ...


class Codec:
    """Encodes waveforms to codes and decodes codes to waveforms; its weights are frozen.

    Args:
        network: the model.
        fingerprint: identifies the codec, so that codes of different codecs are never mixed.
    """

    def __init__(self, network: CodecNetwork, fingerprint: CodecFingerprint) -> None:
        self.network, self.fingerprint, self.hop = network, fingerprint, network.hop
        self.sample_rate, self.frame_rate = fingerprint.sample_rate, fingerprint.frame_rate

    @property
    def device(self) -> torch.device:
        return self.network.device

    @torch.inference_mode()
    def encode(self, waveform_B1N: Tensor) -> Tensor:
        """Encode waveforms (B, 1, N), float32 in [-1, 1] at `sample_rate`, to codes (B, Q, T) with T = ceil(N /
        hop)."""
        if waveform_B1N.ndim != 3 or waveform_B1N.shape[1] != 1 or waveform_B1N.shape[2] == 0:
            raise ValueError(
                f"waveform has shape {tuple(waveform_B1N.shape)}, expected (batch, 1, samples) with at least one sample"
            )
        return self.network.encode_batch(waveform_B1N.to(self.device))

    @torch.inference_mode()
    def decode(self, codes_BQT: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Decode codes (B, Q, T) to waveforms (B, 1, T * hop), float32. Loud passages may slightly exceed 1; the caller
        scales or clips them.

        Q may be smaller than the codec's number of levels: the codes are those of the first levels, and each codec
        decides how to replace the missing ones. `seeds`, one per clip and 0 by default, determine the noise of a codec
        that decodes with noise: equal codes and seeds give equal samples.
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
        """Encode waveforms (N,) of any lengths to codes (Q, ceil(N / hop)), uint16, in order.

        Clips of equal length share a batch. Nothing is padded, so a clip's codes do not depend on the other clips.
        """
        return in_equal_batches(
            waveforms, [len(clip) for clip in waveforms], MAX_BATCH_S * self.sample_rate, self._encode_batch
        )

    def decode_clips(self, codes: Sequence[np.ndarray], seeds: Sequence[int] | None = None) -> list[np.ndarray]:
        """Decode codes (Q, T) of any lengths to waveforms (T * hop,), float32, in order; `seeds` as in `decode`."""
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
        raise ValueError(f"{len(seeds)} seeds for {count} clips: give one per clip")
    return [0] * count if seeds is None else seeds
