"""A small neural codec with the geometry of EnCodec 24 kHz: 75 frames/s, 8 levels of 1024 codes, 6 kbps.

It works at the frame rate throughout (Siuzdak, "Vocos", arXiv 2306.00814): the spectrum of a 1280/320 short-time Fourier
transform goes through ConvNeXt blocks to a latent, a residual vector quantizer (Défossez et al., arXiv 2210.13438, from the
`encodec` package) turns the latent into codes, and the mirror image ends in log-magnitude and phase for the inverse transform.
There is no convolution over samples, which is what makes it fast enough to train and run on two CPU cores.

Where `mel_bands` is set the latent is the log-mel spectrum itself, and the decoder a vocoder: nothing is learned before the quantizer, whose
codebooks k-means finds in seconds. An encoder that is learned in few steps loses more of what tells sounds apart.

Legend: B batch, N samples, T frames, F frequency bins, M mel bands, D width, Q levels.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from encodec.quantization import ResidualVectorQuantizer
from torch import Tensor, nn

from soundstorm.errors import SoundStormError
from soundstorm.mel_bands import mel_bands

MOST = {"encoder_blocks": 256, "decoder_blocks": 256, "num_levels": 64, "codebook_size": 65_535, "sample_rate": 1_000_000}
"""The most of a setting."""
MOST_OTHERWISE = 65_536
LEAST = {"mel_bands": 0}
"""The least of a setting where that is not 1."""
MEL_FLOOR = 1e-9
"""Power added to each mel band: -85 dB of a full-scale sine in its middle."""
MEL_CENTER, MEL_SCALE = -5.0, 1.5
"""Taken from the decimal logarithm of a band's power, and by which the rest is divided: about the mean and deviation in recordings."""


@dataclass(kw_only=True, frozen=True)
class CompactCodecConfig:
    """Architecture of a `CompactCodec`; the defaults are those of the weights in the package."""

    sample_rate: int = 24_000
    """Samples per second."""
    hop: int = 320
    """Samples per frame; sample_rate / hop is the frame rate."""
    n_fft: int = 1280
    """Window of the transform in samples, an even multiple of hop."""
    encoder_width: int = 320
    """Channels of the encoder's ConvNeXt blocks."""
    encoder_blocks: int = 5
    """ConvNeXt blocks of the encoder."""
    decoder_width: int = 384
    """Channels of the decoder's ConvNeXt blocks."""
    decoder_blocks: int = 5
    """ConvNeXt blocks of the decoder."""
    latent_dim: int = 128
    """Size of a code vector."""
    num_levels: int = 8
    """Levels of the residual vector quantizer."""
    codebook_size: int = 1024
    """Codes per level."""
    mel_bands: int = 0
    """Mel bands of a latent that is the log-mel spectrum itself, as many as `latent_dim`; 0: the encoder is learned."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least, most = LEAST.get(name, 1), MOST.get(name, MOST_OTHERWISE)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise SoundStormError(f"codec setting {name} is {value!r}: give a whole number from {least} to {most}")
        if self.mel_bands not in (0, self.latent_dim):
            raise SoundStormError(f"codec setting mel_bands is {self.mel_bands}: give latent_dim {self.latent_dim}, or 0 for a learned encoder")
        if self.n_fft % (2 * self.hop):
            raise SoundStormError(f"codec setting n_fft is {self.n_fft}: give an even multiple of hop {self.hop}")
        if self.sample_rate % self.hop:
            raise SoundStormError(f"codec setting hop is {self.hop}: give a divisor of sample_rate {self.sample_rate}")

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over frames, then a two-layer perceptron per frame, added to the input with a learned scale.

    Source: Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545, in one dimension as in Vocos.
    """

    def __init__(self, width: int, scale: float, kernel: int = 7) -> None:
        super().__init__()
        # A channels-last Conv2d of height 1: the depthwise Conv1d of PyTorch is an order of magnitude slower on a CPU.
        self.depthwise = nn.Conv2d(width, width, (1, kernel), padding=(0, kernel // 2), groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, 3 * width)
        self.contract = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BD1T = x_BTD.unsqueeze(1).permute(0, 3, 1, 2)  # memory is already channels-last
        y_BTD = self.depthwise(y_BD1T).permute(0, 2, 3, 1).squeeze(1)
        y_BTD = self.contract(F.gelu(self.expand(self.norm(y_BTD))))
        return x_BTD + self.scale * y_BTD


class ConvNeXtStack(nn.Module):
    """Linear projection in, ConvNeXt blocks, normalization, linear projection out; (B, T, in) to (B, T, out)."""

    def __init__(self, in_dim: int, width: int, out_dim: int, blocks: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(in_dim, width)
        self.norm_in = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, 1.0 / blocks) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.project_out = nn.Linear(width, out_dim)

    def forward(self, x_BTI: Tensor) -> Tensor:
        x_BTD = self.norm_in(self.project_in(x_BTI))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.project_out(self.norm_out(x_BTD))


class CompactCodec(nn.Module):
    """Waveform to codes and back; `Codec` in `soundstorm.codec` is the interface the rest of the project uses."""

    window: Tensor
    mel_FM: Tensor

    def __init__(self, config: CompactCodecConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CompactCodecConfig()
        bins = config.n_fft // 2 + 1
        self.register_buffer("window", torch.hann_window(config.n_fft, device="cpu"), persistent=False)
        self.encoder: nn.Module = nn.Identity()
        if config.mel_bands:
            with torch.device("cpu"):  # also where the rest gets no memory, since it looks at the values
                bank_FM = mel_bands(config.n_fft, config.mel_bands, config.sample_rate)
            self.register_buffer("mel_FM", bank_FM, persistent=False)
        else:
            self.encoder = ConvNeXtStack(3 * bins, config.encoder_width, config.latent_dim, config.encoder_blocks)
        self.quantizer = ResidualVectorQuantizer(
            dimension=config.latent_dim,
            n_q=config.num_levels,
            bins=config.codebook_size,
            kmeans_init=False,
            threshold_ema_dead_code=0,  # training revives dead codes itself, see soundstorm.codec_training
        )
        self.decoder = ConvNeXtStack(config.latent_dim, config.decoder_width, 2 * bins, config.decoder_blocks)

    def spectrum(self, waveform_BN: Tensor) -> Tensor:
        """Complex spectrum of each frame, (B, N) to (B, F, ceil(N / hop))."""
        hop, n_fft = self.config.hop, self.config.n_fft
        overlap = (n_fft - hop) // 2
        frames = -(-waveform_BN.shape[-1] // hop)
        padded = F.pad(waveform_BN, (overlap, overlap + frames * hop - waveform_BN.shape[-1]))
        return torch.stft(padded, n_fft, hop, window=self.window, center=False, return_complex=True)

    def features(self, spectrum_BFT: Tensor) -> Tensor:
        """Log-magnitude and compressed real and imaginary parts of each frame: (B, T, 3 F)."""
        magnitude_BFT = spectrum_BFT.abs()
        compressed_BFT = spectrum_BFT * (magnitude_BFT + 1e-6).pow(-0.7)
        log_magnitude_BFT = torch.log(magnitude_BFT + 1e-5) / 4
        return torch.cat([log_magnitude_BFT, compressed_BFT.real, compressed_BFT.imag], dim=1).transpose(1, 2)

    def log_mel(self, spectrum_BFT: Tensor) -> Tensor:
        """Logarithm of the power in each mel band, about of mean 0 and variance 1: (B, T, M), float32."""
        with torch.autocast(spectrum_BFT.device.type, enabled=False):
            power_BFT = (spectrum_BFT.real.square() + spectrum_BFT.imag.square()) / self.window.sum().square()
            return (torch.log10(power_BFT.transpose(1, 2) @ self.mel_FM + MEL_FLOOR) - MEL_CENTER) / MEL_SCALE

    def encode_latent(self, waveform_BN: Tensor) -> Tensor:
        """(B, N) waveform to the continuous latent (B, D, T), T = ceil(N / hop)."""
        spectrum_BFT = self.spectrum(waveform_BN)
        latent_BTD = self.log_mel(spectrum_BFT) if self.config.mel_bands else self.encoder(self.features(spectrum_BFT))
        return latent_BTD.transpose(1, 2)

    def decode_latent(self, latent_BDT: Tensor) -> Tensor:
        """Latent (B, D, T) to a waveform (B, T * hop)."""
        magnitude_BTF, phase_BTF = self.decoder(latent_BDT.transpose(1, 2)).float().chunk(2, dim=-1)
        # A full-scale sine reaches exp(5.8) in a Hann frame of 1280; the bound keeps a stray frame from overflowing.
        magnitude_BTF = torch.exp(magnitude_BTF.clamp(max=7.0))
        spectrum_BFT = torch.polar(magnitude_BTF, phase_BTF).transpose(1, 2)
        return self._overlap_add(torch.fft.irfft(spectrum_BFT, n=self.config.n_fft, dim=1))

    def _overlap_add(self, frames_BNT: Tensor) -> Tensor:
        """Windowed frames (B, n_fft, T) to (B, T * hop), divided by the sum of squared windows."""
        hop, n_fft = self.config.hop, self.config.n_fft
        num_frames = frames_BNT.shape[-1]
        length = (num_frames - 1) * hop + n_fft
        overlap = (n_fft - hop) // 2
        windowed_BNT = frames_BNT * self.window[:, None]
        envelope_1NT = self.window.square()[None, :, None].expand(1, n_fft, num_frames)
        fold = {"output_size": (1, length), "kernel_size": (1, n_fft), "stride": (1, hop)}
        signal_BN = F.fold(windowed_BNT, **fold)[:, 0, 0, overlap : length - overlap]
        envelope_1N = F.fold(envelope_1NT, **fold)[:, 0, 0, overlap : length - overlap]
        return signal_BN / envelope_1N

    @torch.inference_mode()
    def encode(self, waveform_B1N: Tensor) -> Tensor:
        """Waveform (B, 1, N) to codes (B, Q, T); under autocast the encoder's linear layers are rounded, and the codes differ here and there."""
        latent_BDT = self.encode_latent(waveform_B1N[:, 0])
        with torch.autocast(waveform_B1N.device.type, enabled=False):  # which code is nearest must not be rounded
            return self.quantizer.vq.encode(latent_BDT.float()).transpose(0, 1)

    @torch.inference_mode()
    def decode(self, codes_BQT: Tensor) -> Tensor:
        """Codes (B, Q, T) to a waveform (B, 1, T * hop)."""
        latent_BDT = self.quantizer.vq.decode(codes_BQT.transpose(0, 1))
        return self.decode_latent(latent_BDT).unsqueeze(1)

    def forward(self, waveform_BN: Tensor, quantize: bool) -> tuple[Tensor, Tensor, Tensor]:
        """One training pass; call it through DistributedDataParallel.

        Args:
            waveform_BN: crops whose length is a multiple of hop.
            quantize: False trains encoder and decoder alone, before the codebooks are initialised.

        Returns:
            The decoded waveform (B, N), the commitment loss (scalar) and the continuous latent (B, D, T).
        """
        latent_BDT = self.encode_latent(waveform_BN).float()
        if not quantize:
            return self.decode_latent(latent_BDT), latent_BDT.new_zeros(()), latent_BDT
        with torch.autocast(waveform_BN.device.type, enabled=False):
            quantized_BDT, _, _ = self.quantizer.vq(latent_BDT)
        # The quantizer's own commitment reaches the encoder from its first level only; this one is of all levels together.
        commitment = F.mse_loss(latent_BDT, quantized_BDT.detach())
        return self.decode_latent(quantized_BDT), commitment, latent_BDT
