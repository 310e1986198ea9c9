"""Rule-based synthesis of sound from log-mel frames, with random noise in place of the information that a spectrum
lacks.

Richardson-Lucy deconvolution turns power in mel bands into power in frequency bins. The phases start as those of white
noise and are refined by a few iterations of Griffin-Lim; few, so that they stay partly random, as in sounds that are
not tonal. No signal has exactly the requested spectrum, and the nearest one is some tenths too quiet, for clicks more
than for noise: the last iteration raises each band by what it lacks.

Everything is computed per frame or depends on a short range of time only, in float64: a sample depends on the frames
within `reach` of it and on nothing else.

Legend: N samples, T mel frames, K frames at half a hop, F frequency bins, M mel bands.
"""

import numpy as np
import scipy.fft
import scipy.sparse
from numpy.typing import NDArray

from soundstorm.codec.config import BlockCodecConfig
from soundstorm.codec.log_mel import Array, hann
from soundstorm.codec.noise import TEXTURE, WHITE, normal, uniform

TINY = 1e-12
MAX_CORRECTION = 4.0
"""Maximum factor, up or down, by which the amplitude of a band is corrected."""
ACCELERATION = 1.8
"""Exponent of the Richardson-Lucy factors: with it, an iteration counts almost twice."""
TONAL_NATS = (1.0, 3.0)
"""Contrast of a band, in nats of power, above which it counts as partly and as fully tonal."""
SINE_WIDTH, MAX_NARROWING = 0.85, 8.0
"""Distance in bins from the centre of a Hann window's spectrum to 1/e of its power, and the largest exponent of the
narrowing factors."""
SILENT = 0.25 / 32_768
"""A frame whose samples have a lower standard deviation is digital silence: they would round to 0 in a 16-bit file."""


class Synthesis:
    """Turns log-mel frames into samples.

    Args:
        config: settings of the codec.
        bank_FM: from `soundstorm.codec.log_mel.mel_bank`.
    """

    def __init__(self, config: BlockCodecConfig, bank_FM: NDArray) -> None:
        self.config = config
        bank_FM = bank_FM.astype(np.float64)
        self._bank_FM = scipy.sparse.csr_array(bank_FM)
        self._bank_MF = scipy.sparse.csr_array(bank_FM.T)
        self._spread_FM = scipy.sparse.csr_array(bank_FM / np.maximum(bank_FM.sum(1, keepdims=True), TINY))
        self._share_F1 = 1 / np.maximum(bank_FM.sum(1, keepdims=True), TINY)
        self._bin_F1 = np.arange(len(bank_FM), dtype=np.float64)[:, None]
        self._around_FF = _neighbourhoods(bank_FM)
        window_N = hann(config.window)
        energy = np.square(window_N).sum()
        self._analysis_N = window_N / np.sqrt(energy)
        self._synthesis_N = (
            window_N / np.sqrt(energy) * (config.hop / 2)
        )  # squared windows add up to energy / (hop / 2)

    @property
    def reach(self) -> int:
        """Number of mel frames on both sides on which a frame's samples depend, a multiple of 4: two per iteration of
        Griffin-Lim, plus three."""
        return -(-(2 * self.config.phase_rounds + 3) // 4) * 4

    def __call__(self, log_mel_TM: Array, first_frame: int, seed: int, texture_M: Array) -> Array:
        """Samples (T hop,) of log-mel frames; those of the `reach` frames at both ends are not valid yet.

        Args:
            log_mel_TM: in nats.
            first_frame: index in the clip of the first of these frames.
            seed: seed of the noise.
            texture_M: standard deviation in nats of the noise that is added to each band.
        """
        hop, bands = self.config.hop, self.config.bands
        num_frames = len(log_mel_TM)
        texture_TM = (
            normal(seed, TEXTURE, first_frame * bands, num_frames * bands).reshape(num_frames, bands) * texture_M
        )
        amplitude_TM = self._amplitude(log_mel_TM, texture_TM)
        power_MT = np.ascontiguousarray(np.square(amplitude_TM).T)
        white_N = (uniform(seed, WHITE, first_frame * hop, num_frames * hop) - 0.5) * np.sqrt(12)
        samples_N = self._with_phases(power_MT, white_N)
        self._silence(samples_N, self._amplitude(log_mel_TM, 0.0))
        return samples_N

    def _amplitude(self, log_mel_TM: Array, texture_TM: Array | float) -> Array:
        """Square root of each band's power: the inverse of ln(a + floor). Texture is weighted by how far the sound is
        above the floor."""
        above_TM = np.maximum(1 - self.config.floor * np.exp(-log_mel_TM), 0)
        return np.exp(log_mel_TM) * above_TM * np.exp(above_TM * texture_TM)

    def _deconvolved(self, power_MT: Array) -> Array:
        """Turn power in bands (M, T) into power in bins (F, T).

        Source: Richardson, "Bayesian-based iterative method of image restoration", 1972; Lucy, "An iterative technique
        for the rectification of observed distributions", 1974. An exponent speeds up the convergence.
        """
        power_FT, rounds = self._spread_FM @ power_MT + TINY, self.config.deconvolution_rounds
        for number in range(rounds):
            if number == rounds // 2:
                power_FT *= self._narrowing(power_FT, power_MT)
            ratio_MT = power_MT / (self._bank_MF @ power_FT + TINY)
            power_FT *= ((self._bank_FM @ ratio_MT) * self._share_F1) ** ACCELERATION
        return power_FT

    def _narrowing(self, power_FT: Array, power_MT: Array) -> Array:
        """Factors (F, T) that concentrate tonal power around its centre of gravity, as narrowly as the spectrum of a
        windowed sine: the bands alone would leave it spread over their width."""
        gravity_FT = (self._around_FF @ (self._bin_F1 * power_FT)) / (self._around_FF @ power_FT + TINY**2)
        squared_FT = np.square((self._bin_F1 - gravity_FT) / SINE_WIDTH)
        return np.exp(-self._tonality(power_MT) * np.minimum(squared_FT, MAX_NARROWING))

    def _tonality(self, power_MT: Array) -> Array:
        """Tonality (F, T) of each bin, 0 to 1: the contrast between its bands and the second next bands on both
        sides."""
        padded_MT = np.pad(power_MT, ((2, 2), (0, 0)), mode="edge") + TINY
        contrast_MT = np.log(padded_MT[2:-2] / np.maximum(padded_MT[:-4], padded_MT[4:]))
        least, most = TONAL_NATS
        return self._spread_FM @ np.clip((contrast_MT - least) / (most - least), 0, 1)

    def _with_phases(self, power_MT: Array, white_N: Array) -> Array:
        """Samples with about the given power in each band; their phases start as those of `white_N`.

        Source: Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984; the momentum is
        that of Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm", 2013.
        """
        amplitude_KF = _at_half_hops(np.sqrt(self._deconvolved(power_MT)))
        spectrum_KF = self._spectrum(white_N)
        before_KF, rounds, momentum = None, self.config.phase_rounds, self.config.momentum
        for number in range(rounds):
            found_KF = self._spectrum(self._samples(_with_amplitude(spectrum_KF, amplitude_KF)))
            spectrum_KF = found_KF if before_KF is None else (1 + momentum) * found_KF - momentum * before_KF
            before_KF = found_KF
            if number == rounds - 1:
                amplitude_KF *= self._correction(power_MT, found_KF)
        return self._samples(_with_amplitude(spectrum_KF, amplitude_KF))

    def _correction(self, power_MT: Array, found_KF: NDArray[np.complex128]) -> Array:
        """Factors (K, F) for the amplitudes, by which the spectrum `found_KF` misses the requested power."""
        at_frames_KF = found_KF[1::2]
        found_FT = np.ascontiguousarray((np.square(at_frames_KF.real) + np.square(at_frames_KF.imag)).T)
        ratio_MT = (power_MT[:, 1:-1] + TINY) / (self._bank_MF @ found_FT + TINY)
        factor_MT = np.sqrt(np.clip(ratio_MT, MAX_CORRECTION**-2, MAX_CORRECTION**2))
        return _at_half_hops(np.pad(self._spread_FM @ factor_MT, ((0, 0), (1, 1)), mode="edge"))

    def _spectrum(self, samples_N: Array) -> NDArray[np.complex128]:
        """Spectra of the K = 2 T - 3 windows, two hops long and half a hop apart, that lie within the samples."""
        parts = samples_N.reshape(-1, self.config.hop // 2)
        frames_KN = np.concatenate([parts[:-3], parts[1:-2], parts[2:-1], parts[3:]], axis=1)
        frames_KN *= self._analysis_N
        return scipy.fft.rfft(frames_KN, axis=1, workers=1, overwrite_x=True)

    def _samples(self, spectrum_KF: NDArray[np.complex128]) -> Array:
        """Overlap-add of the frames of `_spectrum`; four frames overlap at each sample, except at the ends."""
        part = self.config.hop // 2
        frames_KN = scipy.fft.irfft(spectrum_KF, self.config.window, axis=1, workers=1, overwrite_x=True)
        frames_KN *= self._synthesis_N
        parts = np.zeros((len(frames_KN) + 3, part))
        for place in range(4):
            parts[place : place + len(frames_KN)] += frames_KN[:, place * part : (place + 1) * part]
        return parts.reshape(-1)

    def _silence(self, samples_N: Array, amplitude_TM: Array) -> None:
        """Set the samples of silent frames to 0. A frame is half a hop longer than its hop on both sides, and all
        samples in that range were zeros."""
        power_T = np.square(self._spread_FM @ np.ascontiguousarray(amplitude_TM.T)).mean(0)
        halves = samples_N.reshape(-1, self.config.hop // 2)
        silent_T = power_T < SILENT**2
        silent_H = np.repeat(silent_T, 2)
        silent_H[:-1] |= np.repeat(silent_T, 2)[1:]
        silent_H[1:] |= np.repeat(silent_T, 2)[:-1]
        halves[silent_H] = 0.0


def _neighbourhoods(bank_FM: Array) -> scipy.sparse.csr_array:
    """A matrix (F, F) with 1 where two bins are at most as far from each other as the centres of neighbouring bands at
    that frequency."""
    bins_F = np.arange(len(bank_FM), dtype=np.float64)
    centres_M = bins_F @ bank_FM
    distance_F = np.maximum(np.interp(bins_F, centres_M[:-1], np.diff(centres_M)), 1)
    return scipy.sparse.csr_array((np.abs(bins_F[:, None] - bins_F) <= distance_F[:, None]).astype(np.float64))


def _at_half_hops(amplitude_FT: Array) -> Array:
    """Interpolate amplitudes (F, T) at the centres of frames to (2 T - 3, F) at every half hop, from between the first
    two to between the last two; the interpolation is linear in the logarithm."""
    num_frames = amplitude_FT.shape[1]
    between_FT = np.sqrt(amplitude_FT[:, :-1] * amplitude_FT[:, 1:])
    result_FK = np.empty((len(amplitude_FT), 2 * num_frames - 3))
    result_FK[:, 0::2] = between_FT
    result_FK[:, 1::2] = amplitude_FT[:, 1:-1]
    return np.ascontiguousarray(result_FK.T)


def _with_amplitude(spectrum_KF: NDArray[np.complex128], amplitude_KF: Array) -> NDArray[np.complex128]:
    """A spectrum with the same phases and other amplitudes."""
    parts_KF2 = spectrum_KF.view(np.float64).reshape(*spectrum_KF.shape, 2)
    magnitude_KF = np.square(parts_KF2[..., 0])
    magnitude_KF += np.square(parts_KF2[..., 1])
    np.maximum(np.sqrt(magnitude_KF, out=magnitude_KF), TINY, out=magnitude_KF)
    factor_KF = np.divide(amplitude_KF, magnitude_KF, out=magnitude_KF)
    return (parts_KF2 * factor_KF[..., None]).view(np.complex128)[..., 0]
