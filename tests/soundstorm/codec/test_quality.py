"""Figures of codec quality against values that can be worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from soundstorm.codec.files import load_codec
from soundstorm.codec.quality import SI_SDR_LIMIT_DB, codes_in_use, log_mel_distance, measure_codec, si_sdr_db
from tests.conftest import write_small_codec


def sine(frequency_hz: float, num_samples: int = 24_000, phase: float = 0.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / 24_000 + phase).astype(np.float32)


def test_si_sdr_ignores_scale_and_is_bounded_for_a_perfect_copy() -> None:
    tone = np.ones(8)
    assert si_sdr_db(tone, 0.25 * tone) == SI_SDR_LIMIT_DB
    assert si_sdr_db(tone, -tone) == SI_SDR_LIMIT_DB


def test_si_sdr_of_a_signal_plus_orthogonal_noise_is_their_energy_ratio() -> None:
    signal, noise = sine(1000), sine(1000, phase=math.pi / 2)
    assert si_sdr_db(signal, signal + 0.1 * noise) == pytest.approx(20.0, abs=1e-3)
    assert si_sdr_db(signal, 0.5 * signal + 0.5 * noise) == pytest.approx(0.0, abs=1e-3)


def test_si_sdr_of_silence_is_undefined_and_of_a_silent_copy_the_lower_bound() -> None:
    silence = np.zeros(100)
    assert si_sdr_db(silence, np.ones(100)) is None
    assert si_sdr_db(np.ones(100), silence) == -SI_SDR_LIMIT_DB


def test_log_mel_distance_is_zero_for_a_copy_and_the_log_of_the_gain_for_loud_noise() -> None:
    noise = np.random.default_rng(0).normal(size=24_000)
    assert log_mel_distance(noise, noise, 24_000) == 0
    assert log_mel_distance(noise, 0.5 * noise, 24_000) == pytest.approx(math.log(2), abs=1e-3)


def test_log_mel_distance_is_defined_for_one_sample() -> None:
    assert log_mel_distance(np.ones(1), np.ones(1), 24_000) == 0


def test_waveforms_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same length"):
        si_sdr_db(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="at least one sample"):
        log_mel_distance(np.ones(0), np.ones(0), 24_000)


def test_codes_in_use_counts_distinct_codes_over_all_clips() -> None:
    clips = [np.array([[0, 1, 1], [5, 5, 5]]), np.array([[2], [5]])]
    assert codes_in_use(clips, codebook_size=8) == (3 / 8, 1 / 8)


def test_a_codec_is_measured_over_clips_of_any_length_and_silence(tmp_path: Path) -> None:
    write_small_codec(tmp_path / "codec.safetensors", "small", num_levels=2, codebook_size=4, dims=8)
    quality = measure_codec(load_codec(tmp_path / "codec.safetensors"), [sine(440, 5000), np.zeros(700, np.float32)])
    assert quality.clips == 2
    assert quality.si_sdr_db is not None and math.isfinite(quality.si_sdr_db)
    assert quality.log_mel_distance > 0
    assert len(quality.codes_in_use) == 2
    assert all(share in (0.25, 0.5, 0.75, 1.0) for share in quality.codes_in_use)
    with pytest.raises(ValueError, match="no recordings"):
        measure_codec(load_codec(tmp_path / "codec.safetensors"), [])
