"""The mel filter bank: triangular filters whose centres are evenly spaced on the mel scale.

Legend: F frequency bins, M bands.
"""

import math

import torch
from torch import Tensor

_LINEAR_HZ = 200 / 3
"""Hertz per mel below 1,000 Hz."""
_KNEE_HZ = 1000.0
_LOG_STEP = math.log(6.4) / 27
"""Above 1,000 Hz, the logarithm of the frequency grows by this per mel."""


def mel_bands(
    n_fft: int, num_bands: int, sample_rate: int, lowest_hz: float = 0.0, highest_hz: float | None = None
) -> Tensor:
    """The mel filter bank, float32 (F, M): the weight of each frequency from 0 to `sample_rate` / 2 in each band; the
    peak of a triangle is 1.

    The mel scale is that of M. Slaney, "Auditory Toolbox", 1998. Bit-identical to torchaudio's `melscale_fbanks` with
    `norm=None` and `mel_scale="slaney"`, with which the bundled weights were trained.

    Args:
        n_fft: samples in a Fourier transform: F is n_fft // 2 + 1.
        num_bands: M.
        sample_rate: samples per second.
        lowest_hz, highest_hz: outer edges of the outermost triangles; default: all frequencies.
    """
    frequency_F = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1)
    knee = _KNEE_HZ / _LINEAR_HZ
    lowest, highest = _mel(lowest_hz), _mel(sample_rate / 2 if highest_hz is None else highest_hz)
    mel_E = torch.linspace(lowest, highest, num_bands + 2)  # the M + 2 edges of the triangles
    edge_E = torch.where(mel_E >= knee, _KNEE_HZ * torch.exp(_LOG_STEP * (mel_E - knee)), _LINEAR_HZ * mel_E)
    width_E = edge_E[1:] - edge_E[:-1]
    slope_FE = edge_E - frequency_F[:, None]
    rising_FM, falling_FM = -slope_FE[:, :-2] / width_E[:-1], slope_FE[:, 2:] / width_E[1:]
    return torch.minimum(rising_FM, falling_FM).clamp(min=0.0)


def _mel(hz: float) -> float:
    if hz < _KNEE_HZ:
        return hz / _LINEAR_HZ
    return _KNEE_HZ / _LINEAR_HZ + math.log(hz / _KNEE_HZ) / _LOG_STEP
