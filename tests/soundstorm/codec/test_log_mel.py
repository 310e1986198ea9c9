"""Log-mel spectra: scale, place, ends."""

import numpy as np
import pytest

from soundstorm.codec.config import for_block
from soundstorm.codec.log_mel import LogMel, mel_bank, mirrored, num_frames
from soundstorm.codec.streaming import log_mel_windows

CONFIG = for_block(1)
BANK_FM = mel_bank(CONFIG)
LOG_MEL = LogMel(CONFIG, BANK_FM)


def test_every_band_averages_over_its_bins() -> None:
    assert BANK_FM.shape == (321, 80)
    np.testing.assert_allclose(BANK_FM.sum(0), 1, atol=1e-6)
    assert (BANK_FM >= 0).all()
    assert ((BANK_FM > 0).sum(1) <= 2).all()


def test_white_noise_of_some_variance_has_that_power_in_every_band() -> None:
    noise_N = 0.1 * np.random.default_rng(0).standard_normal(480_000)
    power_M = LOG_MEL.power(mirrored(noise_N, CONFIG)).mean(0)
    np.testing.assert_allclose(power_M[2:-1], 0.01, rtol=0.1)  # the outermost bands reach the edges of the spectrum


@pytest.mark.parametrize("hz", [440, 1_000, 4_000])
def test_a_sine_is_loudest_in_its_own_band(hz: int) -> None:
    sine_N = 0.1 * np.sin(2 * np.pi * hz * np.arange(24_000) / 24_000)
    loudest = LOG_MEL.power(mirrored(sine_N, CONFIG)).mean(0).argmax()
    bins_hz = np.arange(321) * 37.5
    centre_hz = BANK_FM[:, loudest] @ bins_hz
    assert abs(centre_hz - hz) < 0.06 * hz + 20


def test_digital_silence_lies_at_the_floor() -> None:
    silence_TM = LOG_MEL(mirrored(np.zeros(3_200), CONFIG))
    np.testing.assert_allclose(silence_TM, np.log(CONFIG.floor), atol=1 / 512)


def test_values_are_whole_multiples_of_the_grid() -> None:
    values_TM = LOG_MEL(mirrored(np.random.default_rng(0).standard_normal(3_200), CONFIG)) * 256
    np.testing.assert_array_equal(values_TM, np.rint(values_TM))


@pytest.mark.parametrize(
    ("frames_per_block", "samples", "frames"),
    [(1, 120_000, 375), (2, 120_000, 376), (4, 120_000, 376), (4, 1, 4), (4, 1_281, 8)],
)
def test_a_clip_has_whole_blocks_of_frames(frames_per_block: int, samples: int, frames: int) -> None:
    config = for_block(frames_per_block)
    assert num_frames(samples, config) == frames
    assert LogMel(config, BANK_FM)(mirrored(np.zeros(samples), config)).shape == (frames, 80)


def test_a_click_is_heard_in_the_frames_that_cover_it_and_no_other() -> None:
    clip_N = np.zeros(9_600)
    clip_N[10 * 320 + 160] = 1.0
    loud_T = LOG_MEL(mirrored(clip_N, CONFIG)).mean(1) > -9
    assert np.flatnonzero(loud_T).tolist() == [10]  # the window of its neighbours is 0 there
    clip_N = np.zeros(9_600)
    clip_N[11 * 320] = 1.0
    loud_T = LOG_MEL(mirrored(clip_N, CONFIG)).mean(1) > -9
    assert np.flatnonzero(loud_T).tolist() == [10, 11]


@pytest.mark.parametrize("frames_per_block", [1, 2, 4])
@pytest.mark.parametrize("samples", [1, 159, 161, 1_500, 1_600, 1_601, 245_760, 247_680, 300_001])
def test_a_waveform_in_parts_has_the_frames_of_the_whole(frames_per_block: int, samples: int) -> None:
    config = for_block(frames_per_block)
    log_mel = LogMel(config, BANK_FM)
    wave_N = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    whole_TM = log_mel(mirrored(wave_N, config))
    for size in (777, 100_000):
        parts = [wave_N[start : start + size] for start in range(0, samples, size)]
        np.testing.assert_array_equal(np.concatenate(list(log_mel_windows(parts, config, log_mel))), whole_TM)
