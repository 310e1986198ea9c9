"""Temporal dynamics: how much a clip changes over time, which distinguishes a bark or a ticking clock from a sound that
is frozen or flickers.

Both metrics are computed from a log-mel spectrogram: frames of 25 ms every 10 ms, 64 mel bands from 0 Hz to half the
sample rate, in dB relative to approximately a full-scale sine, at least -80 dB. Frames lie completely within the clip,
so its ends do not count as changes.

| case | value |
|---|---|
| digital silence, or quieter than the floor in every band | 0 |
| shorter than two frames (35 ms) | 0: there is no change to measure |
| no samples, or samples that are not finite | SoundStormError |

Legend: N samples, T frames, M mel bands, F frequency bins, K modulation bands.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from soundstorm.audio.spectra import mel_bands
from soundstorm.errors import SoundStormError
from soundstorm.evaluation.acoustic import finite_float64

FRAME_S = 0.025
HOP_S = 0.010
MEL_BANDS = 64
FLOOR_DB = -80.0
MODULATION_EDGES_HZ = np.geomspace(0.5, 20.0, 17)
"""Edges of the 16 modulation bands, a third of an octave each: from one rise and fall in two seconds up to the rate at
which the ear begins to hear a pitch."""
_MODULATION_FFT = 8192
"""The level curves are zero-padded to at least 82 s before the transform, so that the narrowest band contains ten
bins."""


def spectral_flux(x_N: NDArray[np.floating] | NDArray[np.int16], sample_rate: int) -> float:
    """Mean change of the spectrum in 10 ms, in dB: root mean square over mel bands, then mean over frames.

    Digital silence has 0, a steady tone less than 1, white noise 3.8; the classes of ESC-10 lie between 1.6 (sneezes,
    mostly silence) and 4.7 (fire).

    Args:
        x_N: the clip, mono: int16 as stored, or the same divided by 32768.
        sample_rate: samples per second.

    Raises:
        SoundStormError: no samples, more than one channel, or a sample that is not finite.
    """
    mel_TM = log_mel(x_N, sample_rate)
    if len(mel_TM) < 2:
        return 0.0
    return float(np.sqrt(np.mean(np.diff(mel_TM, axis=0) ** 2, axis=1)).mean())


def modulation_energy(x_N: NDArray[np.floating] | NDArray[np.int16], sample_rate: int) -> float:
    """Variance in dB² of the mel bands' levels over time, restricted to modulation frequencies of 0.5 to 20 Hz; mean
    over bands.

    This excludes slow changes (a clip that fades out), and roughness that is perceived as timbre. Arguments and errors
    as `spectral_flux`.
    """
    return float(modulation_spectrum(x_N, sample_rate)[1].sum())


def modulation_spectrum(
    x_N: NDArray[np.floating] | NDArray[np.int16], sample_rate: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`modulation_energy` per modulation frequency: centre frequencies in Hz (K,) and energies in dB² (K,), K = 16 for
    a clip of any length.

    The level of each mel band minus its mean is a signal of 100 values per second; its power spectrum is summed within
    each band of MODULATION_EDGES_HZ. Arguments and errors as `spectral_flux`.
    """
    mel_TM = log_mel(x_N, sample_rate)
    num_frames = len(mel_TM)
    size = max(_MODULATION_FFT, 1 << (num_frames - 1).bit_length())
    power_F = np.mean(np.abs(np.fft.rfft(mel_TM - mel_TM.mean(axis=0), size, axis=0)) ** 2, axis=1)
    power_F *= 2 / (size * num_frames)  # Parseval: summed over all bins, this is the variance over time
    frequencies_hz = np.fft.rfftfreq(size, HOP_S)
    energy_K, _ = np.histogram(frequencies_hz, MODULATION_EDGES_HZ, weights=power_F)
    return np.sqrt(MODULATION_EDGES_HZ[:-1] * MODULATION_EDGES_HZ[1:]), energy_K


def log_mel(x_N: NDArray[np.floating] | NDArray[np.int16], sample_rate: int) -> NDArray[np.float64]:
    """Log-mel spectrogram (T, M) in dB, at least FLOOR_DB, T = 1 + (N - 25 ms) // 10 ms; a shorter clip has one frame.
    Errors as `spectral_flux`."""
    x = _as_float64(x_N)
    length, hop = round(FRAME_S * sample_rate), round(HOP_S * sample_rate)
    if hop < 1:
        raise SoundStormError(
            f"sample rate {sample_rate}: 10 ms contain less than one sample; give the rate in samples per second"
        )
    if len(x) < length:
        x = np.pad(x, (0, length - len(x)))
    n_fft = 1 << (length - 1).bit_length()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)
    frames = np.lib.stride_tricks.sliding_window_view(x, length)[::hop]
    power_TF = np.abs(np.fft.rfft(frames * (window * 2 / window.sum()), n_fft, axis=1)) ** 2
    return 10 * np.log10(np.maximum(power_TF @ _mel_bank(n_fft, sample_rate), 10 ** (FLOOR_DB / 10)))


@functools.lru_cache(maxsize=4)
def _mel_bank(n_fft: int, sample_rate: int) -> NDArray[np.float64]:
    bank_FM = mel_bands(n_fft, MEL_BANDS, sample_rate)
    return bank_FM.double().numpy()


def _as_float64(x_N: NDArray[np.floating] | NDArray[np.int16]) -> NDArray[np.float64]:
    x = np.asarray(x_N)
    if x.ndim != 1 or len(x) == 0:
        raise SoundStormError(
            f"a clip of shape {x.shape}: change over time is defined for mono clips of at least one sample, shape (N,)"
        )
    return finite_float64(x, "a clip with")
