"""Log-mel spectra of waveforms, which the codec quantizes.

Frame t is centred on sample hop (t + 1/2) and is two hops long, so T frames cover exactly T hops of sound.

Legend: N samples, T frames, F frequency bins, M mel bands.
"""

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

from soundstorm.audio.spectra import mel_bands
from soundstorm.codec.config import STEPS_PER_NAT, BlockCodecConfig

Array = NDArray[np.float64]


def mel_bank(config: BlockCodecConfig) -> NDArray[np.float32]:
    """The mel filter bank (F, M), each column of which sums to 1.

    A band that is narrower than the spacing of the bins consists of the bin nearest to its centre.
    """
    edges_hz = config.lowest_hz, config.highest_hz
    bank_FM = mel_bands(config.window, config.bands, config.sample_rate, *edges_hz).numpy().astype(np.float64)
    for band in np.flatnonzero(bank_FM.sum(0) == 0):
        # A filter bank with a finer frequency resolution has its centres at the same frequencies.
        fine_F = mel_bands(64 * config.window, config.bands, config.sample_rate, *edges_hz)[:, band]
        bank_FM[round(int(fine_F.argmax()) / 64), band] = 1.0
    return (bank_FM / bank_FM.sum(0)).astype(np.float32)


def hann(size: int) -> Array:
    """The periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def num_frames(num_samples: int, config: BlockCodecConfig) -> int:
    """Number of frames for `num_samples` of sound: a whole number of blocks."""
    return -(-num_samples // config.block_hop) * config.frames_per_block


def mirrored(waveform_N: NDArray, config: BlockCodecConfig) -> NDArray:
    """The waveform, extended by mirroring at both ends so that its first and last frames are complete."""
    edge = config.hop // 2
    missing = num_frames(len(waveform_N), config) * config.hop - len(waveform_N)
    return np.pad(waveform_N, (edge, missing + edge), mode="symmetric")


class LogMel:
    """Computes log-mel spectra of waveforms that `mirrored` has extended.

    Args:
        config: settings of the codec.
        bank_FM: from `mel_bank`.
    """

    def __init__(self, config: BlockCodecConfig, bank_FM: NDArray) -> None:
        self.config = config
        self._bank_MF = scipy.sparse.csr_array(bank_FM.T.astype(np.float64))
        window_N = hann(config.window)
        self._window_N = window_N / np.sqrt(
            np.square(window_N).sum()
        )  # so that white noise of variance v has power v in every bin

    def power(self, padded_N: NDArray) -> Array:
        """Power (T, M) in each band of samples (T hop + hop,), which begin half a hop before the first frame's hop."""
        config = self.config
        pieces = padded_N.astype(np.float64).reshape(-1, config.hop)
        frames_TN = np.concatenate([pieces[:-1], pieces[1:]], axis=1) * self._window_N
        spectrum_TF = scipy.fft.rfft(frames_TN, axis=1, workers=1)
        power_TF = np.square(spectrum_TF.real) + np.square(spectrum_TF.imag)
        return np.ascontiguousarray((self._bank_MF @ np.ascontiguousarray(power_TF.T)).T)

    def __call__(self, padded_N: NDArray) -> Array:
        """Log-mel values ln(sqrt(power) + floor) in nats, (T, M), rounded to 1/256 nat; the input is that of
        `power`."""
        return on_grid(np.log(np.sqrt(self.power(padded_N)) + self.config.floor))


def on_grid(log_mel: Array) -> Array:
    """Log-mel values rounded to multiples of 1/256 nat."""
    return np.rint(log_mel * STEPS_PER_NAT) / STEPS_PER_NAT
