"""The limiter: nothing exceeds full scale, the rest of the sound keeps its level, and waves keep their shape."""

import numpy as np
import pytest

from soundstorm.audio.files import PEAK, SAMPLE_RATE
from soundstorm.audio.limiter import _BLOCK, LOOKAHEAD, within_full_scale


def noise(num_samples: int, level: float, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


@pytest.mark.parametrize("level", [0.05, 0.3, 1.0, 30.0])
def test_no_sample_exceeds_full_scale_and_the_type_stays(level: float) -> None:
    waveform_N = noise(SAMPLE_RATE, level)
    limited_N = within_full_scale(waveform_N)
    assert limited_N.dtype == np.float32 and limited_N.shape == waveform_N.shape
    assert np.abs(limited_N).max() <= np.float32(PEAK)
    assert np.array_equal(np.sign(limited_N), np.sign(waveform_N))


def test_what_is_within_full_scale_is_returned_as_it_is() -> None:
    waveform_N = np.clip(noise(SAMPLE_RATE, 0.3), -PEAK, PEAK)
    assert within_full_scale(waveform_N) is waveform_N
    assert not len(within_full_scale(np.zeros(0, np.float32)))


def test_a_click_leaves_the_rain_around_it_as_loud_as_it_was() -> None:
    waveform_N = noise(SAMPLE_RATE, 0.1)
    waveform_N[12_000] = 5.0
    limited_N = within_full_scale(waveform_N)
    far = np.abs(np.arange(SAMPLE_RATE) - 12_000) > 2 * LOOKAHEAD
    assert np.array_equal(limited_N[far], waveform_N[far])
    assert limited_N[12_000] == pytest.approx(PEAK, rel=1e-6)
    rms = [float(np.sqrt(np.square(wave[far]).mean())) for wave in (limited_N, waveform_N)]
    assert rms[0] == rms[1]


def test_a_sine_that_is_too_loud_stays_a_sine() -> None:
    place_N = np.arange(SAMPLE_RATE)
    waveform_N = 2.0 * np.sin(2 * np.pi * 1000 * place_N / SAMPLE_RATE)
    spectrum_F = np.abs(np.fft.rfft(within_full_scale(waveform_N) * np.hanning(SAMPLE_RATE)))
    beside_F = np.abs(np.arange(len(spectrum_F)) - 1000) > 5
    assert 20 * np.log10(spectrum_F[beside_F].max() / spectrum_F[1000]) < -100


def test_the_gain_begins_to_fall_before_the_peak() -> None:
    waveform_N = np.full(4000, 0.5)
    waveform_N[2000:2010] = 2.0
    gain_N = within_full_scale(waveform_N) / waveform_N
    assert gain_N[1990] < 0.6 < gain_N[1900] < 1.0 == gain_N[1700]
    assert np.abs(np.diff(gain_N)).max() < 0.02


def test_a_long_waveform_is_limited_as_if_at_once() -> None:
    waveform_N = noise(_BLOCK + 5000, 0.35)
    around = slice(_BLOCK - 3000, _BLOCK + 3000)
    inner = slice(1000, 5000)
    whole_N, part_N = within_full_scale(waveform_N), within_full_scale(waveform_N[around].copy())
    assert np.array_equal(whole_N[around][inner], part_N[inner])
