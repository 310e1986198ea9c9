"""The mel filter bank: the one that the weights in the package were trained with, and what its triangles mean."""

import numpy as np
import pytest
import torch

from soundstorm.audio.spectra import mel_bands


@pytest.mark.parametrize(
    ("n_fft", "num_bands", "sample_rate"),
    [(1024, 80, 24_000), (1024, 64, 24_000), (512, 64, 24_000), (2048, 128, 44_100), (256, 10, 1_000)],
)
def test_it_is_torchaudios_to_the_bit(n_fft: int, num_bands: int, sample_rate: int) -> None:
    functional = pytest.importorskip("torchaudio.functional")  # which encodec brings
    expected = functional.melscale_fbanks(
        n_fft // 2 + 1, 0.0, sample_rate / 2, num_bands, sample_rate, norm=None, mel_scale="slaney"
    )
    assert torch.equal(mel_bands(n_fft, num_bands, sample_rate), expected)


def test_a_frequency_between_two_centres_is_shared_by_their_bands_alone() -> None:
    bank_FM = mel_bands(4096, 40, 24_000).double().numpy()
    centres = bank_FM.argmax(axis=0)
    inner = bank_FM[centres[0] + 1 : centres[-1]]
    np.testing.assert_allclose(inner.sum(axis=1), 1.0, atol=1e-4)
    assert ((inner > 0).sum(axis=1) <= 2).all()


def test_below_1000_hz_the_bands_are_equally_wide_and_above_they_widen_by_one_factor() -> None:
    frequencies = np.linspace(0, 12_000, 2**16 + 1)
    centre_hz = frequencies[mel_bands(2**17, 40, 24_000).numpy().argmax(axis=0)]
    low, high = centre_hz[centre_hz < 950], centre_hz[centre_hz > 1100]
    np.testing.assert_allclose(np.diff(low), np.diff(low)[0], rtol=0.01)
    np.testing.assert_allclose(high[1:] / high[:-1], high[1] / high[0], rtol=0.001)
