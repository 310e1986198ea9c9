"""`BlockCodec` encodes sound to codes and decodes codes to sound with fitted tables, without a neural network.

Legend: N samples, T mel frames, M mel bands, F frequency bins, Q levels, C columns of codes (one per block).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from soundstorm.codec.blocks import AXIS_STEPS, POINT_STEPS, BlockSpace
from soundstorm.codec.codebooks import Codebooks, Search
from soundstorm.codec.config import BlockCodecConfig
from soundstorm.codec.log_mel import Array, LogMel
from soundstorm.codec.streaming import log_mel_windows, sample_windows
from soundstorm.codec.synthesis import Synthesis
from soundstorm.optimization.threads import Item, Result, on_threads


@dataclass(frozen=True)
class BlockTables:
    """The tables that are fitted to recordings."""

    bank_FM: NDArray[np.float32]
    """The mel filter bank."""
    space: BlockSpace
    codebooks: Codebooks
    texture_M: NDArray[np.float32]
    """Quantization error in nats of each band, as root mean square, on clips that the codebooks were not fitted to."""


class BlockCodec(nn.Module):
    """Encodes waveforms to codes (Q, C) and decodes them.

    The nearest codes are searched on the module's device; everything else runs on the CPU in float64. The codes, and
    the samples rounded to 16 bits, are the same on every machine, whether a clip is processed whole or in windows.
    """

    centroids_QKD: Tensor

    def __init__(self, config: BlockCodecConfig, tables: BlockTables) -> None:
        super().__init__()
        self.config, self.tables = config, tables
        self.register_buffer("centroids_QKD", torch.from_numpy(tables.codebooks.centroids), persistent=False)
        self._log_mel = LogMel(config, tables.bank_FM)
        self._synthesis = Synthesis(config, tables.bank_FM)
        self._search: Search | None = None
        self._textures = {config.num_levels: config.texture * tables.texture_M.astype(np.float64)}

    @property
    def search(self) -> Search:
        """The code search, on the module's device."""
        if self._search is None or self._search.device != self.device:
            self._search = Search(self.centroids_QKD, self.config.beam)
        return self._search

    # ---- sound to codes

    def log_mel(self, waveform_N: NDArray) -> Array:
        """The log-mel frames (T, M) of a waveform in nats; T is a whole number of blocks."""
        return np.concatenate(list(log_mel_windows([waveform_N], self.config, self._log_mel)))

    def encode(self, waveform_N: NDArray) -> NDArray[np.uint16]:
        """Encode a waveform (N,) to codes (Q, ceil(N / block_hop))."""
        return np.concatenate(list(self.encode_stream([waveform_N])), axis=1)

    def encode_stream(self, parts: Iterable[NDArray]) -> Iterator[NDArray[np.uint16]]:
        """Encode a waveform that arrives in parts of any length: yields the same codes (Q, C) as `encode` of the whole,
        window by window, in bounded memory."""
        for log_mel_TM in log_mel_windows(parts, self.config, self._log_mel):
            yield self.encode_log_mel(log_mel_TM)

    def encode_log_mel(self, log_mel_TM: Array) -> NDArray[np.uint16]:
        """Encode log-mel frames (T, M), a whole number of blocks, to codes (Q, C)."""
        points_CD = torch.from_numpy(self.tables.space.points(log_mel_TM))
        return self.search(points_CD).T.cpu().numpy().astype(np.uint16)

    # ---- codes to sound

    def decode_log_mel(self, codes_QC: NDArray[np.integer]) -> Array:
        """The log-mel frames (T, M) that codes (Q, C) represent; Q may be smaller than the number of levels."""
        return self.tables.space.log_mel(self.tables.codebooks.sums(codes_QC), self.config.bands)

    def texture(self, num_levels: int) -> Array:
        """Standard deviation (M,) in nats of the noise that is added to each band in place of the detail that the first
        `num_levels` levels do not represent."""
        if num_levels not in self._textures:
            axes_VD = self.tables.space.axes_VD.astype(np.float64) / AXIS_STEPS
            covariances = [
                self.tables.codebooks.covariance(level) for level in range(num_levels, self.config.num_levels)
            ]
            variance_V = ((axes_VD @ np.sum(covariances, axis=0)) * axes_VD).sum(1) / POINT_STEPS**2
            missing_M = variance_V.reshape(-1, self.config.bands).mean(0)
            self._textures[num_levels] = np.sqrt(np.square(self._textures[self.config.num_levels]) + missing_M)
        return self._textures[num_levels]

    def decode(self, codes_QC: NDArray[np.integer], seed: int = 0) -> NDArray[np.float32]:
        """Decode codes (Q, C) to a waveform (C block_hop,); `seed` determines its noise.

        Q may be smaller than the number of levels: noise of the same variance then replaces the missing levels.
        """
        return np.concatenate(list(self.decode_stream([codes_QC], seed)))

    def decode_stream(self, parts: Iterable[NDArray[np.integer]], seed: int = 0) -> Iterator[NDArray[np.float32]]:
        """Decode codes that arrive in parts of any length: yields the same samples as `decode` of the whole, window by
        window, in bounded memory."""
        num_levels = self.config.num_levels

        def log_mels() -> Iterator[Array]:
            nonlocal num_levels
            for codes_QC in parts:
                num_levels = len(codes_QC)
                yield self.decode_log_mel(codes_QC)

        def synthesis(log_mel_TM: Array, first_frame: int) -> Array:
            return self._synthesis(log_mel_TM, first_frame, seed, self.texture(num_levels))

        for samples_N in sample_windows(log_mels(), self._synthesis.reach, synthesis):
            yield samples_N.astype(np.float32)

    # ---- as `soundstorm.codec.codec.CodecNetwork`

    @property
    def device(self) -> torch.device:
        return self.centroids_QKD.device

    @property
    def hop(self) -> int:
        """Samples per column of codes."""
        return self.config.block_hop

    @property
    def latent_rate(self) -> float:
        """Log-mel frames per second."""
        return self.config.sample_rate / self.config.hop

    @property
    def codebooks(self) -> Tensor:
        """The codebook vectors (Q, K, D) in nats, float32."""
        return self.centroids_QKD / POINT_STEPS

    def encode_batch(self, waveform_B1N: Tensor) -> Tensor:
        """Encode waveforms (B, 1, N) to codes (B, Q, C)."""
        codes = self._on_threads(self.encode, list(waveform_B1N[:, 0].cpu().numpy()))
        return torch.from_numpy(np.stack(codes).astype(np.int64)).to(self.device)

    def decode_batch(self, codes_BQC: Tensor, seeds: Sequence[int]) -> Tensor:
        """Decode codes (B, Q, C), with a seed for each clip, to waveforms (B, 1, C block_hop)."""
        waves = self._on_threads(
            lambda clip: self.decode(*clip), list(zip(codes_BQC.cpu().numpy(), seeds, strict=True))
        )
        return torch.from_numpy(np.stack(waves))[:, None].to(self.device)

    def _on_threads(self, work: Callable[[Item], Result], clips: Sequence[Item]) -> list[Result]:
        """Results of `work` for each clip; on a CPU each of PyTorch's threads does one at a time, since the operations
        on a clip are too small to be divided among them."""
        return on_threads(work, clips, torch.get_num_threads() if self.device.type == "cpu" else 1)

    def latents(self, waveform_BN: Tensor) -> Tensor:
        """Log-mel frames (B, M, T) of waveforms (B, N)."""
        return torch.from_numpy(np.stack([self.log_mel(waveform_N).T for waveform_N in waveform_BN.cpu().numpy()]))
