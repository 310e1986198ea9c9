"""The way back: log-mel frames to sound by rule, with noise in place of what a spectrum does not say.

Power in mel bands becomes power in frequency bins by Richardson-Lucy deconvolution; the phases are those of white noise
after a few rounds of Griffin-Lim, which keep some of its randomness, as in sounds that are not tones. No sound has
exactly the spectrum asked for, and what comes nearest is some tenth too quiet, clicks more than noise: in the last
round each band is raised by what it lacks.

Everything is computed per frame or has a short reach in time, in float64: a sample depends on the frames within `reach`
of it and on nothing else.

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
"""Factor, up or down, by which the amplitude of a band is corrected at most."""
ACCELERATION = 1.8
"""Exponent of the factors of Richardson-Lucy: its rounds count almost twice."""
TONAL_NATS = (1.0, 3.0)
"""Contrast of a band, in nats of power, from which it is tonal in part and altogether."""
SINE_WIDTH, MAX_NARROWING = 0.85, 8.0
"""Bins from the centre of a Hann window's spectrum to 1/e of its power, and the exponent of the least factor."""
SILENT = 0.25 / 32_768
"""Standard deviation of a frame's samples below which it is digital silence: they would round to 0 in a 16-bit file."""


class Synthesis:
    """Turns log-mel frames into samples.

    Args:
        config: of the codec.
        bank_FM: of `soundstorm.codec.log_mel.mel_bank`.
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
        )  # squared windows overlap to energy / (hop / 2)

    @property
    def reach(self) -> int:
        """Mel frames on both sides that a frame's samples depend on, a multiple of 4: two a round of Griffin-Lim, and
        three."""
        return -(-(2 * self.config.phase_rounds + 3) // 4) * 4

    def __call__(self, log_mel_TM: Array, first_frame: int, seed: int, texture_M: Array) -> Array:
        """Samples (T hop,) of log-mel frames; those of `reach` frames at both ends are not yet right.

        Args:
            log_mel_TM: in nats.
            first_frame: number of the first of them in the clip.
            seed: of the noise.
            texture_M: standard deviation in nats of the noise that each band gets.
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
        """The root of each band's power: the inverse of ln(a + floor), in which texture counts as much as the sound
        stands above the floor."""
        above_TM = np.maximum(1 - self.config.floor * np.exp(-log_mel_TM), 0)
        return np.exp(log_mel_TM) * above_TM * np.exp(above_TM * texture_TM)

    def _deconvolved(self, power_MT: Array) -> Array:
        """Power in bands (M, T) to power in bins (F, T).

        Source: Richardson, "Bayesian-based iterative method of image restoration", 1972; Lucy, "An iterative technique
        for the rectification of observed distributions", 1974; with an exponent, so that a round counts for almost two.
        """
        power_FT, rounds = self._spread_FM @ power_MT + TINY, self.config.deconvolution_rounds
        for number in range(rounds):
            if number == rounds // 2:
                power_FT *= self._narrowing(power_FT, power_MT)
            ratio_MT = power_MT / (self._bank_MF @ power_FT + TINY)
            power_FT *= ((self._bank_FM @ ratio_MT) * self._share_F1) ** ACCELERATION
        return power_FT

    def _narrowing(self, power_FT: Array, power_MT: Array) -> Array:
        """Factors (F, T) that draw tonal power together, as narrow as a sine in one window, around its centre of
        gravity: bands alone would leave it spread over their width."""
        gravity_FT = (self._around_FF @ (self._bin_F1 * power_FT)) / (self._around_FF @ power_FT + TINY**2)
        squared_FT = np.square((self._bin_F1 - gravity_FT) / SINE_WIDTH)
        return np.exp(-self._tonality(power_MT) * np.minimum(squared_FT, MAX_NARROWING))

    def _tonality(self, power_MT: Array) -> Array:
        """How tonal each bin (F, T) is, 0 to 1: by how much its bands stand out from the second next on both sides."""
        padded_MT = np.pad(power_MT, ((2, 2), (0, 0)), mode="edge") + TINY
        contrast_MT = np.log(padded_MT[2:-2] / np.maximum(padded_MT[:-4], padded_MT[4:]))
        least, most = TONAL_NATS
        return self._spread_FM @ np.clip((contrast_MT - least) / (most - least), 0, 1)

    def _with_phases(self, power_MT: Array, white_N: Array) -> Array:
        """Samples with about this power in the bands, and phases that begin as those of `white_N`.

        Source: Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984; the momentum is
        that of Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm", 2013."""
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
        """Factors (K, F) of the amplitudes, with which a spectrum that came out as `found_KF` would have had the power
        asked for."""
        at_frames_KF = found_KF[1::2]
        found_FT = np.ascontiguousarray((np.square(at_frames_KF.real) + np.square(at_frames_KF.imag)).T)
        ratio_MT = (power_MT[:, 1:-1] + TINY) / (self._bank_MF @ found_FT + TINY)
        factor_MT = np.sqrt(np.clip(ratio_MT, MAX_CORRECTION**-2, MAX_CORRECTION**2))
        return _at_half_hops(np.pad(self._spread_FM @ factor_MT, ((0, 0), (1, 1)), mode="edge"))

    def _spectrum(self, samples_N: Array) -> NDArray[np.complex128]:
        """Windows of two hops, half a hop apart, that lie within the samples: K = 2 T - 3 of them."""
        parts = samples_N.reshape(-1, self.config.hop // 2)
        frames_KN = np.concatenate([parts[:-3], parts[1:-2], parts[2:-1], parts[3:]], axis=1)
        frames_KN *= self._analysis_N
        return scipy.fft.rfft(frames_KN, axis=1, workers=1, overwrite_x=True)

    def _samples(self, spectrum_KF: NDArray[np.complex128]) -> Array:
        """Overlap-add of `_spectrum`'s frames; four overlap at each sample but at the ends."""
        part = self.config.hop // 2
        frames_KN = scipy.fft.irfft(spectrum_KF, self.config.window, axis=1, workers=1, overwrite_x=True)
        frames_KN *= self._synthesis_N
        parts = np.zeros((len(frames_KN) + 3, part))
        for place in range(4):
            parts[place : place + len(frames_KN)] += frames_KN[:, place * part : (place + 1) * part]
        return parts.reshape(-1)

    def _silence(self, samples_N: Array, amplitude_TM: Array) -> None:
        """Sets the samples within silent frames to 0: such a frame had only zeros, and it lasts half a hop more on both
        sides than its hop."""
        power_T = np.square(self._spread_FM @ np.ascontiguousarray(amplitude_TM.T)).mean(0)
        halves = samples_N.reshape(-1, self.config.hop // 2)
        silent_T = power_T < SILENT**2
        silent_H = np.repeat(silent_T, 2)
        silent_H[:-1] |= np.repeat(silent_T, 2)[1:]
        silent_H[1:] |= np.repeat(silent_T, 2)[:-1]
        halves[silent_H] = 0.0


def _neighbourhoods(bank_FM: Array) -> scipy.sparse.csr_array:
    """1 where two bins (F, F) are no further from each other than the centres of two bands are there."""
    bins_F = np.arange(len(bank_FM), dtype=np.float64)
    centres_M = bins_F @ bank_FM
    distance_F = np.maximum(np.interp(bins_F, centres_M[:-1], np.diff(centres_M)), 1)
    return scipy.sparse.csr_array((np.abs(bins_F[:, None] - bins_F) <= distance_F[:, None]).astype(np.float64))


def _at_half_hops(amplitude_FT: Array) -> Array:
    """Amplitudes (F, T) at the frames' centres, to (2 T - 3, F) at every half hop from between the first two to between
    the last two; the logarithm is interpolated."""
    num_frames = amplitude_FT.shape[1]
    between_FT = np.sqrt(amplitude_FT[:, :-1] * amplitude_FT[:, 1:])
    result_FK = np.empty((len(amplitude_FT), 2 * num_frames - 3))
    result_FK[:, 0::2] = between_FT
    result_FK[:, 1::2] = amplitude_FT[:, 1:-1]
    return np.ascontiguousarray(result_FK.T)


def _with_amplitude(spectrum_KF: NDArray[np.complex128], amplitude_KF: Array) -> NDArray[np.complex128]:
    """The phases of a spectrum with other amplitudes."""
    parts_KF2 = spectrum_KF.view(np.float64).reshape(*spectrum_KF.shape, 2)
    magnitude_KF = np.square(parts_KF2[..., 0])
    magnitude_KF += np.square(parts_KF2[..., 1])
    np.maximum(np.sqrt(magnitude_KF, out=magnitude_KF), TINY, out=magnitude_KF)
    factor_KF = np.divide(amplitude_KF, magnitude_KF, out=magnitude_KF)
    return (parts_KF2 * factor_KF[..., None]).view(np.complex128)[..., 0]
