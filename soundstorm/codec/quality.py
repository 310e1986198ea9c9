"""Quality of a codec on recordings: scale-invariant distortion, log-mel distance and codebook usage.

Legend: N samples, Q levels, T frames, F frequency bins, M mel bands.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from soundstorm.audio.spectra import mel_bands
from soundstorm.codec.codec import Codec

SI_SDR_LIMIT_DB = 120.0
"""Values of `si_sdr_db` are limited to this magnitude, in place of infinity."""
MEL_FFT = 1024
MEL_HOP = 256
MEL_BANDS = 80
LOG_FLOOR = 1e-3
"""Added to magnitudes before the logarithm."""
RESOLUTIONS = (512, 1024, 2048)
"""Window lengths of `multi_resolution_distance`."""


@dataclass(kw_only=True, frozen=True)
class CodecQuality:
    """Quality of a codec on a set of recordings."""

    clips: int
    """Recordings measured."""
    si_sdr_db: float | None
    """Mean over the recordings that are not silent; None if all are."""
    log_mel_distance: float
    """Mean absolute difference of log-mel magnitudes, in nats."""
    codes_in_use: tuple[float, ...]
    """Fraction of each level's codes that occur at least once."""


def si_sdr_db(real_N: np.ndarray, decoded_N: np.ndarray) -> float | None:
    """Scale-invariant signal-to-distortion ratio in dB, limited to -120 to 120; None if `real_N` is digital silence.

    Source: Le Roux et al., "SDR - half-baked or well done?", arXiv 1811.02508, equation 1.
    """
    real_N, decoded_N = _same_length(real_N, decoded_N)
    energy = float(real_N @ real_N)
    if energy == 0:
        return None
    target_N = (real_N @ decoded_N) / energy * real_N
    signal, distortion = float(np.square(target_N).sum()), float(np.square(decoded_N - target_N).sum())
    if distortion == 0:
        return SI_SDR_LIMIT_DB if signal > 0 else -SI_SDR_LIMIT_DB
    ratio_db = 10 * np.log10(max(signal / distortion, 1e-300))
    return float(np.clip(ratio_db, -SI_SDR_LIMIT_DB, SI_SDR_LIMIT_DB))


def log_mel_distance(real_N: np.ndarray, decoded_N: np.ndarray, sample_rate: int) -> float:
    """Mean absolute difference in nats of log-mel magnitudes: 80 bands, Hann window of 1024 samples, hop 256, floor
    1e-3."""
    real_N, decoded_N = _same_length(real_N, decoded_N)
    bank_FM = mel_bands(MEL_FFT, MEL_BANDS, sample_rate)
    spectra_2FT = _magnitudes([real_N, decoded_N], MEL_FFT, MEL_HOP)
    real_TM, decoded_TM = torch.log(spectra_2FT.transpose(1, 2) @ bank_FM + LOG_FLOOR)
    return float((real_TM - decoded_TM).abs().mean())


def multi_resolution_distance(real_N: np.ndarray, decoded_N: np.ndarray) -> float:
    """Spectral convergence plus the mean absolute difference of log magnitudes, averaged over windows of 512, 1024 and
    2048 samples.

    Source: Yamamoto et al., "Parallel WaveGAN", arXiv 1910.11480, equations 5 to 7.
    """
    real_N, decoded_N = _same_length(real_N, decoded_N)
    distances = []
    for n_fft in RESOLUTIONS:
        real_FT, decoded_FT = _magnitudes([real_N, decoded_N], n_fft, n_fft // 4)
        convergence = float((real_FT - decoded_FT).norm() / real_FT.norm().clamp(min=LOG_FLOOR))
        log_distance = float((torch.log(real_FT + LOG_FLOOR) - torch.log(decoded_FT + LOG_FLOOR)).abs().mean())
        distances.append(convergence + log_distance)
    return float(np.mean(distances))


def codes_in_use(codes: Sequence[np.ndarray], codebook_size: int) -> tuple[float, ...]:
    """Fraction of each level's codes that occur at least once in `codes`, arrays (Q, T) of any lengths."""
    all_QT = np.concatenate(list(codes), axis=1)
    return tuple(len(np.unique(level_T)) / codebook_size for level_T in all_QT)


def measure_codec(codec: Codec, waveforms: Sequence[np.ndarray]) -> CodecQuality:
    """Encode and decode `waveforms`, float32 (N,) at the codec's rate, one by one, and compare.

    Raises:
        ValueError: there are no recordings.
    """
    if not waveforms:
        raise ValueError("no recordings to measure the codec on")
    distortions, distances, codes = [], [], []
    for real_N in waveforms:
        [codes_QT] = codec.encode_clips([real_N])
        [decoded_N] = codec.decode_clips([codes_QT])
        decoded_N = decoded_N[: len(real_N)]
        distortions.append(si_sdr_db(real_N, decoded_N))
        distances.append(log_mel_distance(real_N, decoded_N, codec.sample_rate))
        codes.append(codes_QT)
    defined = [value for value in distortions if value is not None]
    return CodecQuality(
        clips=len(waveforms),
        si_sdr_db=float(np.mean(defined)) if defined else None,
        log_mel_distance=float(np.mean(distances)),
        codes_in_use=codes_in_use(codes, codec.fingerprint.codebook_size),
    )


def _magnitudes(waveforms: list[np.ndarray], n_fft: int, hop: int) -> torch.Tensor:
    """Magnitudes (B, F, T) of the short-time Fourier transform (Hann window) of waveforms of the same length; waveforms
    shorter than a window are padded with silence, because the transform mirrors their ends."""
    padding = max(0, n_fft - len(waveforms[0]))
    waveform_BN = torch.from_numpy(np.stack([np.pad(x, (0, padding)) for x in waveforms])).float()
    spectrum_BFT = torch.stft(
        waveform_BN, n_fft, hop, window=torch.hann_window(n_fft), center=True, return_complex=True
    )
    return (spectrum_BFT.real.square() + spectrum_BFT.imag.square() + 1e-10).sqrt()


def _same_length(real_N: np.ndarray, decoded_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if real_N.ndim != 1 or real_N.shape != decoded_N.shape or len(real_N) == 0:
        raise ValueError(
            f"waveforms of shape {real_N.shape} and {decoded_N.shape}: give two waveforms of the same length, with at "
            "least one sample"
        )
    return real_N.astype(np.float64), decoded_N.astype(np.float64)
