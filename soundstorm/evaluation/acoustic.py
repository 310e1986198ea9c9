"""The six metrics of single clips and the two of pairs, computed in float64 from 16-bit samples divided by 32768.

The formulas are the published ones, with x the clip, N its length and X = |rFFT(x)| over the whole clip. Where a
formula is undefined, this table sets its value, so that no result is NaN or infinite:

| case | value |
|---|---|
| digital silence | all six metrics are 0 |
| one sample | snr_db 0 (there is no difference to measure), spectral metrics 0 (the only bin is 0 Hz) |
| constant and not zero | snr_db is SNR_CAP_DB (the mean squared difference is 0) |
| both clips of a pair silent | spectral_convergence 0, log_spectral_distance 0 |
| real clip of a pair silent, or nearly | spectral_convergence is at most SPECTRAL_CONVERGENCE_CAP |
| STFT magnitude 0 | replaced by STFT_FLOOR before the logarithm |
| no samples, or samples that are not finite | SoundStormError |
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.metric_info import METRIC_NAMES

N_FFT = 2048
HOP_LENGTH = 512
_STFT_FRAMES = 256
"""Frames that are transformed at once (4 MB)."""
ROLLOFF_SHARE = 0.85

SNR_CAP_DB = 200.0
"""Higher than any 16-bit clip that is not constant can reach, so this value means "constant"."""
SPECTRAL_CONVERGENCE_CAP = 1000.0
"""An error of a thousand times the real clip only says that the real clip is nearly silent."""
STFT_FLOOR = 1e-5
"""Less than one 16-bit step (1/32768) in a frame: only digital silence and the outermost window samples are raised to
it."""


def clip_metrics(x_N: NDArray[np.float64] | NDArray[np.int16], sample_rate: int) -> dict[str, float]:
    """The six metrics of a clip, with the keys and the order of METRIC_NAMES; every value is finite.

    Args:
        x_N: the clip, mono: int16 as stored, or the same divided by 32768.
        sample_rate: samples per second.

    Raises:
        SoundStormError: no samples, more than one channel, or a sample that is not finite.
    """
    x = _as_float64(x_N, "clip")
    spectrum = np.abs(np.fft.rfft(x))
    frequencies_hz = np.fft.rfftfreq(len(x), 1 / sample_rate).astype(np.float64)
    values = (
        _snr_db(x),
        float(np.abs(np.diff(np.sign(x))).sum() / (2 * len(x))),
        math.sqrt(float(np.mean(x**2))),
        _entropy(spectrum),
        _centroid(spectrum, frequencies_hz),
        _rolloff(spectrum, frequencies_hz),
    )
    return dict(zip(METRIC_NAMES, values, strict=True))


def spectral_convergence(
    real_N: NDArray[np.float64] | NDArray[np.int16], generated_N: NDArray[np.float64] | NDArray[np.int16]
) -> float:
    """‖S_real - S_gen‖_F / ‖S_real‖_F of STFT magnitudes over the length of the shorter clip, at most
    SPECTRAL_CONVERGENCE_CAP.

    Raises:
        SoundStormError: as `clip_metrics`.
    """
    real, generated = _pair_magnitudes(real_N, generated_N)
    error, norm = float(np.linalg.norm(real - generated)), float(np.linalg.norm(real))
    if error == 0:
        return 0.0
    return error / norm if error < SPECTRAL_CONVERGENCE_CAP * norm else SPECTRAL_CONVERGENCE_CAP


def log_spectral_distance(
    real_N: NDArray[np.float64] | NDArray[np.int16], generated_N: NDArray[np.float64] | NDArray[np.int16]
) -> float:
    """sqrt(mean((ln S_real - ln S_gen)^2)) in nats over all bins and frames of the shorter clip; magnitudes below
    STFT_FLOOR are raised to it.

    Raises:
        SoundStormError: as `clip_metrics`.
    """
    real, generated = (np.log(np.maximum(S, STFT_FLOOR)) for S in _pair_magnitudes(real_N, generated_N))
    return math.sqrt(float(np.mean((real - generated) ** 2)))


def stft_magnitudes(x_N: NDArray[np.float64], n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> NDArray[np.float64]:
    """STFT magnitudes (n_fft // 2 + 1, 1 + N // hop_length): periodic Hann window, frames centred on multiples of the
    hop, zero padding at both ends."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    padded = np.pad(np.asarray(x_N, dtype=np.float64), n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    magnitudes = np.empty((len(frames), n_fft // 2 + 1))
    for first in range(0, len(frames), _STFT_FRAMES):
        block = slice(first, first + _STFT_FRAMES)
        magnitudes[block] = np.abs(np.fft.rfft(frames[block] * window, axis=1))
    return magnitudes.T


def _snr_db(x: NDArray[np.float64]) -> float:
    power = float(np.mean(x**2))
    if power == 0 or len(x) == 1:
        return 0.0
    change = float(np.mean(np.diff(x) ** 2))
    if change == 0:
        return SNR_CAP_DB
    return min(10 * (math.log10(power) - math.log10(change)), SNR_CAP_DB)


def _entropy(spectrum: NDArray[np.float64]) -> float:
    total = float(spectrum.sum())
    if total == 0:
        return 0.0
    share = spectrum[spectrum > 0] / total
    share = share[share > 0]  # a denormal magnitude can vanish in the division
    return max(0.0, float(-(share * np.log(share)).sum()))


def _centroid(spectrum: NDArray[np.float64], frequencies_hz: NDArray[np.float64]) -> float:
    total = float(spectrum.sum())
    return float((frequencies_hz * spectrum).sum() / total) if total else 0.0


def _rolloff(spectrum: NDArray[np.float64], frequencies_hz: NDArray[np.float64]) -> float:
    running = np.cumsum(spectrum)
    return float(frequencies_hz[np.searchsorted(running, ROLLOFF_SHARE * running[-1])])


def _pair_magnitudes(
    real_N: NDArray[np.float64] | NDArray[np.int16], generated_N: NDArray[np.float64] | NDArray[np.int16]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    real, generated = _as_float64(real_N, "real clip"), _as_float64(generated_N, "generated clip")
    length = min(len(real), len(generated))
    return stft_magnitudes(real[:length]), stft_magnitudes(generated[:length])


def _as_float64(x_N: NDArray[np.float64] | NDArray[np.int16], what: str) -> NDArray[np.float64]:
    x = np.asarray(x_N)
    if x.ndim != 1:
        raise SoundStormError(
            f"{what} has shape {x.shape}: metrics are defined for mono clips of shape (N,): mix it down to mono first"
        )
    if len(x) == 0:
        raise SoundStormError(
            f"{what} has no samples: metrics need at least one sample; leave it out or record why it is empty"
        )
    return finite_float64(x, f"{what} has")


def finite_float64(x: NDArray[Any], subject: str) -> NDArray[np.float64]:
    """Samples from -1 to 1, given as such or as int16; raises SoundStormError, which begins with `subject`, for others
    and for those that are not finite."""
    if x.dtype == np.int16:
        return x.astype(np.float64) / 32768
    if not np.issubdtype(x.dtype, np.floating):
        raise SoundStormError(f"{subject} samples of type {x.dtype}: pass int16 as stored, or floats from -1 to 1")
    if not np.isfinite(x).all():
        raise SoundStormError(
            f"{subject} {np.count_nonzero(~np.isfinite(x))} samples that are NaN or infinite: reject it before "
            "measuring"
        )
    return x.astype(np.float64)
