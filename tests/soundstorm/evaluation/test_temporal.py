"""Flux and modulation against sounds whose change over time is known."""

import math

import numpy as np
import pytest

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.temporal import (
    FLOOR_DB,
    MEL_BANDS,
    log_mel,
    modulation_energy,
    modulation_spectrum,
    spectral_flux,
)

RATE = 24_000
RNG = np.random.default_rng


def tone(frequency_hz: float = 1000.0, duration_s: float = 4.0, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(duration_s * rate)) / rate)


def noise(duration_s: float = 4.0, seed: int = 0) -> np.ndarray:
    return RNG(seed).normal(0, 0.05, round(duration_s * RATE))


def clicks(per_second: float, duration_s: float = 4.0) -> np.ndarray:
    x = np.zeros(round(duration_s * RATE))
    x[round(RATE / per_second / 2) :: round(RATE / per_second)] = 0.9
    return x


def swelling(depth_db: float, modulation_hz: float, duration_s: float = 5.0) -> np.ndarray:
    """Noise whose level in dB goes up and down as a sine of this amplitude."""
    gain_db = depth_db * np.sin(2 * np.pi * modulation_hz * np.arange(round(duration_s * RATE)) / RATE)
    return noise(duration_s) * 10 ** (gain_db / 20)


def test_a_full_scale_sine_is_near_0_db_in_its_band_and_at_the_floor_far_from_it() -> None:
    mel_TM = log_mel(2 * tone(3000), RATE)
    assert mel_TM.shape == (1 + (4 * RATE - 600) // 240, MEL_BANDS)
    assert abs(mel_TM.max()) < 3
    assert (mel_TM[:, :10] == FLOOR_DB).all()


@pytest.mark.parametrize("frequency_hz", [100.0, 440.3, 3000.0])
def test_a_steady_tone_hardly_changes_and_clicks_do(frequency_hz: float) -> None:
    assert spectral_flux(tone(frequency_hz), RATE) < 0.5
    assert spectral_flux(clicks(8), RATE) > 5


def test_more_clicks_a_second_are_more_flux() -> None:
    values = [spectral_flux(clicks(rate), RATE) for rate in (1, 2, 4, 8)]
    assert values == sorted(values)
    assert values[3] == pytest.approx(8 * values[0], rel=0.1)


def test_a_sound_switched_on_changes_once_by_its_height_above_the_floor() -> None:
    """Two changes of frames see the edge of a 25 ms frame; together they climb from the floor to the level, whatever
    the path."""
    x = np.concatenate([np.zeros(2 * RATE), noise(2)])
    level_db = log_mel(noise(2), RATE).mean(axis=0) - FLOOR_DB
    edge_sum = spectral_flux(x, RATE) * (len(log_mel(x, RATE)) - 1) - spectral_flux(noise(2), RATE) * (
        len(log_mel(noise(2), RATE)) - 1
    )
    assert edge_sum == pytest.approx(math.sqrt(np.mean(level_db**2)), rel=0.15)


def test_gain_changes_neither_flux_nor_modulation_of_what_stays_above_the_floor() -> None:
    x = swelling(6, 3)
    assert spectral_flux(x / 4, RATE) == pytest.approx(spectral_flux(x, RATE), rel=0.02)
    assert modulation_energy(x / 4, RATE) == pytest.approx(modulation_energy(x, RATE), rel=0.02)


@pytest.mark.parametrize("modulation_hz", [1.0, 4.0, 10.0])
def test_a_level_that_swings_by_a_decibels_has_the_energy_a_squared_over_2_at_its_rate(modulation_hz: float) -> None:
    frequencies_hz, energy_K = modulation_spectrum(swelling(12, modulation_hz), RATE)
    own = modulation_energy(noise(5), RATE)
    assert abs(math.log2(frequencies_hz[energy_K.argmax()] / modulation_hz)) < 0.25
    assert energy_K.sum() - own == pytest.approx(12**2 / 2, rel=0.1)


def test_swings_slower_or_faster_than_the_range_are_left_out() -> None:
    own = modulation_energy(noise(10), RATE)
    for modulation_hz in (0.1, 35.0):
        assert modulation_energy(swelling(6, modulation_hz, 10.0), RATE) - own < 0.1 * 6**2 / 2


def test_the_modulation_bands_are_the_same_for_clips_of_any_length_and_add_up() -> None:
    low_rate = 6000
    clips = [swelling(6, 4 * RATE / low_rate, duration_s * low_rate / RATE) for duration_s in (0.02, 1.0, 30.0, 90.0)]
    spectra = [modulation_spectrum(clip, low_rate) for clip in clips]
    for (frequencies_hz, energy_K), clip in zip(spectra, clips, strict=True):
        np.testing.assert_array_equal(frequencies_hz, spectra[0][0])
        assert energy_K.shape == (16,)
        assert energy_K.sum() == pytest.approx(modulation_energy(clip, low_rate))
    assert 0.5 < frequencies_hz[0] < frequencies_hz[-1] < 20
    assert spectra[2][1].sum() == pytest.approx(spectra[3][1].sum(), rel=0.1)


def test_a_frozen_spectrum_changes_less_than_the_sound_it_was_taken_from() -> None:
    """Noise that repeats a 10 ms stretch has the spectrum of noise, but no change; swelling noise has both."""
    frozen = np.tile(noise(0.01), 400)
    assert spectral_flux(frozen, RATE) < 0.1 * spectral_flux(noise(), RATE)
    assert modulation_energy(frozen, RATE) < 0.01 * modulation_energy(noise(), RATE)


def test_int16_means_the_stored_values_over_32768() -> None:
    stored = (noise(1) * 32768).astype(np.int16)
    assert spectral_flux(stored, RATE) == spectral_flux(stored / 32768, RATE)
    assert modulation_energy(stored, RATE) == modulation_energy((stored / 32768).astype(np.float32), RATE)


def test_other_sample_rates_give_like_values() -> None:
    assert spectral_flux(tone(1000, 2, 44_100), 44_100) < 0.5
    assert modulation_energy(tone(1000, 2, 8000) * (np.arange(16_000) % 2000 < 1000), 8000) > 50


@pytest.mark.parametrize(
    "x", [np.zeros(1), np.ones(1), np.zeros(RATE), np.full(700, 1e-6), np.full(RATE, 0.5), np.array([5e-324] * 3)]
)
def test_clips_without_change_have_zero(x: np.ndarray) -> None:
    assert spectral_flux(x, RATE) == 0
    assert modulation_energy(x, RATE) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(0), r"shape \(0,\)"),
        (np.zeros((2, 100)), r"shape \(2, 100\)"),
        (np.array([0.0, np.nan, np.inf]), "2 samples that are NaN or infinite"),
        (np.zeros(10, dtype=np.int64), "int64"),
    ],
)
def test_what_cannot_be_measured_is_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(SoundStormError, match=message):
        spectral_flux(x, RATE)
    with pytest.raises(SoundStormError, match=message):
        modulation_energy(x, RATE)


def test_a_sample_rate_in_kilohertz_is_refused() -> None:
    with pytest.raises(SoundStormError, match="sample rate 24:"):
        spectral_flux(tone(), 24)
