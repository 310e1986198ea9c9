"""Sample rate conversion of a whole waveform or block by block, with bit-identical results.

The filter is soxr's "VHQ": its pass band ends at 91% of the lower Nyquist frequency (-0.01 dB at 11 kHz for 44.1 to 24
kHz), and aliases are attenuated by 150 dB. Zeros stay exact zeros further than 30 ms from a sound.
"""

import numpy as np
import soxr

QUALITY = "VHQ"


class Resampler:
    """Converts a stream of float32 samples to another rate.

    Args:
        original_rate: samples per second of the input.
        sample_rate: samples per second of the output.
    """

    def __init__(self, original_rate: int, sample_rate: int) -> None:
        self.original_rate, self.sample_rate = original_rate, sample_rate
        self._stream = soxr.ResampleStream(original_rate, sample_rate, 1, dtype="float32", quality=QUALITY)
        self._taken = self._given = 0

    def feed(self, block_N: np.ndarray) -> np.ndarray:
        """Add float32 (N,) of input; returns the output samples that can be computed so far."""
        if self.original_rate == self.sample_rate:
            return block_N
        self._taken += len(block_N)
        given_N = self._stream.resample_chunk(np.ascontiguousarray(block_N, dtype=np.float32))
        self._given += len(given_N)
        return given_N

    def finish(self) -> np.ndarray:
        """The rest of the output: in all ceil(input samples * sample_rate / original_rate) samples."""
        if self.original_rate == self.sample_rate:
            return np.zeros(0, np.float32)
        total = -(-self._taken * self.sample_rate // self.original_rate)
        silence = np.zeros(
            2 + self.original_rate // self.sample_rate, np.float32
        )  # without it the last sample may be missing
        return self._stream.resample_chunk(silence, last=True)[: total - self._given]


def resample(waveform_N: np.ndarray, original_rate: int, sample_rate: int) -> np.ndarray:
    """float32 (N,) at another sample rate; the waveform is padded with silence on both sides."""
    if original_rate == sample_rate:
        return waveform_N
    resampler = Resampler(original_rate, sample_rate)
    return np.concatenate([resampler.feed(waveform_N), resampler.finish()])
