"""The six metrics of one clip and the two of a pair, in float64, on the 16-bit values as stored divided by 32768.

The formulas are the published ones, with x the clip, N its length and X = |rFFT(x)| over the whole clip. Where a
formula has no value,
the value is fixed here, so that no table ever holds NaN or infinity:

| case | value |
|---|---|
| digital silence | snr_db 0, zero_crossing_rate 0, rms 0, spectral_entropy 0, spectral_centroid_hz 0,
spectral_rolloff_hz 0 | | one sample | snr_db 0 (there is no difference to measure), the spectral metrics 0 (the only
bin is 0 Hz) | | constant and not zero | snr_db is SNR_CAP_DB (the mean squared difference is 0) |
| both clips of a pair silent | spectral_convergence 0, log_spectral_distance 0 |
| real clip of a pair silent, or nearly | spectral_convergence is at most SPECTRAL_CONVERGENCE_CAP |
| STFT magnitude 0 | the logarithm is taken of STFT_FLOOR |
| no samples, or samples that are not finite | SoundStormError |
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soundstorm.errors import SoundStormError

N_FFT = 2048
HOP_LENGTH = 512
_STFT_FRAMES = 256
"""Frames that are transformed at once, 4 MB of them."""
ROLLOFF_SHARE = 0.85

SNR_CAP_DB = 200.0
"""Above what any 16-bit clip that is not constant can reach, so that it stands for "constant" only."""
SPECTRAL_CONVERGENCE_CAP = 1000.0
"""An error a thousand times the real clip says only that the real clip is next to silence."""
STFT_FLOOR = 1e-5
"""Below one 16-bit step (1/32768) in a frame: only digital silence and the outermost window taps are lifted to it."""


@dataclass(kw_only=True, frozen=True, slots=True)
class MetricInfo:
    """What a reader needs to know of one metric."""

    name: str
    """Column name in the tables."""
    title: str
    """Name in a heading."""
    unit: str
    """Unit, empty for a pure number."""
    meaning: str
    """One sentence for someone who meets it for the first time."""
    decimals: int
    """Digits after the point that are worth showing."""

    @property
    def label(self) -> str:
        """Title with the unit, as an axis carries it."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


CLIP_METRICS = (
    MetricInfo(
        name="snr_db",
        title="SNR",
        unit="dB",
        meaning="Power of the clip over the power of its sample-to-sample change: high for smooth, low-pitched sound, "
        "low for hiss.",
        decimals=2,
    ),
    MetricInfo(
        name="zero_crossing_rate",
        title="Zero-crossing rate",
        unit="per sample",
        meaning="How often the waveform changes sign: high for noisy or high-pitched sound, 0 in digital silence.",
        decimals=4,
    ),
    MetricInfo(
        name="rms", title="RMS level", unit="full scale = 1", meaning="How strong the clip is on average.", decimals=4
    ),
    MetricInfo(
        name="spectral_entropy",
        title="Spectral entropy",
        unit="nats",
        meaning="How evenly the energy is spread over frequency: low for a pure tone, high for noise.",
        decimals=3,
    ),
    MetricInfo(
        name="spectral_centroid_hz",
        title="Spectral centroid",
        unit="Hz",
        meaning="The centre of gravity of the spectrum: how bright the clip sounds.",
        decimals=0,
    ),
    MetricInfo(
        name="spectral_rolloff_hz",
        title="Spectral roll-off",
        unit="Hz",
        meaning="The frequency below which 85% of the spectrum lies: where the treble ends.",
        decimals=0,
    ),
)
PAIR_METRICS = (
    MetricInfo(
        name="spectral_convergence",
        title="Spectral convergence",
        unit="",
        meaning="Size of the difference of two spectrograms over the size of the real one: 0 for equal, about 1 or "
        "more for unrelated clips.",
        decimals=3,
    ),
    MetricInfo(
        name="log_spectral_distance",
        title="Log-spectral distance",
        unit="nats",
        meaning="Typical distance of two spectrograms in log magnitude (1 nat is 8.7 dB): 0 for equal; weak and "
        "strong parts count alike.",
        decimals=3,
    ),
)
METRIC_NAMES = tuple(metric.name for metric in CLIP_METRICS)
PAIR_METRIC_NAMES = tuple(metric.name for metric in PAIR_METRICS)


def clip_metrics(x_N: NDArray[np.float64] | NDArray[np.int16], sample_rate: int) -> dict[str, float]:
    """The six metrics of one clip, keyed and ordered as METRIC_NAMES; every value is finite.

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
    """‖S_real - S_gen‖_F / ‖S_real‖_F on STFT magnitudes over the length of the shorter clip, at most
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
    """sqrt(mean((ln S_real - ln S_gen)^2)) over all bins and frames of the shorter clip, magnitudes no smaller than
    STFT_FLOOR, in nats.

    Raises:
        SoundStormError: as `clip_metrics`.
    """
    real, generated = (np.log(np.maximum(S, STFT_FLOOR)) for S in _pair_magnitudes(real_N, generated_N))
    return math.sqrt(float(np.mean((real - generated) ** 2)))


def stft_magnitudes(x_N: NDArray[np.float64], n_fft: int = N_FFT, hop_length: int = HOP_LENGTH) -> NDArray[np.float64]:
    """Magnitudes (n_fft // 2 + 1, 1 + N // hop_length): periodic Hann window, frames centred on multiples of the hop,
    zeros beyond the ends."""
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
            f"{what} has shape {x.shape}: metrics are defined for mono clips of shape (N,); mix it to mono first"
        )
    if len(x) == 0:
        raise SoundStormError(
            f"{what} has no samples: metrics need at least one; leave it out or record why it is empty"
        )
    if x.dtype == np.int16:
        return x.astype(np.float64) / 32768
    if not np.issubdtype(x.dtype, np.floating):
        raise SoundStormError(f"{what} has samples of type {x.dtype}: pass int16 as stored, or floats from -1 to 1")
    if not np.isfinite(x).all():
        raise SoundStormError(
            f"{what} has {np.count_nonzero(~np.isfinite(x))} samples that are NaN or infinite; reject it before "
            "measuring"
        )
    return x.astype(np.float64)
