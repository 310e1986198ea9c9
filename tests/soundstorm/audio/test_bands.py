"""Up to which frequency clips and sets of clips reach, and the low-pass that brings both sides to the same."""

import json

import numpy as np
import pytest

from soundstorm.audio.bands import Band, Bands, band_of, low_passed
from soundstorm.audio.files import SAMPLE_RATE, to_pcm16
from soundstorm.audio.resampling import resample
from soundstorm.evaluation.acoustic import clip_metrics


def noise(seed: int, sample_rate: int = SAMPLE_RATE, duration_s: float = 1.0) -> np.ndarray:
    """White noise (N,) as a clip at 24 kHz that was stored at `sample_rate`."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(duration_s * sample_rate))
    return to_pcm16(resample(samples.astype(np.float32), sample_rate, SAMPLE_RATE))


def tone(frequency_hz: float) -> np.ndarray:
    return to_pcm16(0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(SAMPLE_RATE) / SAMPLE_RATE))


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 24_000, 44_100])
def test_noise_reaches_to_half_the_rate_that_it_was_stored_at(sample_rate: int) -> None:
    assert 0.94 * min(sample_rate / 2, 12_000) < band_of(noise(0, sample_rate)) <= min(sample_rate / 2, 12_000)


@pytest.mark.parametrize("frequency_hz", [100.0, 1_000.0, 9_000.0])
def test_a_tone_reaches_to_its_frequency_and_silence_nowhere(frequency_hz: float) -> None:
    swelling = (tone(frequency_hz) * np.hanning(SAMPLE_RATE)).astype(np.int16)
    assert band_of(swelling) == pytest.approx(frequency_hz, abs=50)
    assert band_of(np.zeros(500, np.int16)) == 0
    assert 0 < band_of(np.array([3000], np.int16)) <= SAMPLE_RATE / 2


def test_a_set_reaches_to_where_nine_of_ten_of_its_clips_do_and_silence_does_not_count() -> None:
    found = Band.of([*range(1000, 11_000, 1000), 0.0], [44_100] * 8 + [48_000] * 3)
    assert (found.clips, found.band_hz, list(found.sample_rates_hz)) == (10, 9000.0, [44_100, 48_000])
    assert Band.of([0.0], [16_000]).band_hz is None and Band.of([], []).band_hz is None


def sides(real_hz: float | None, generated_hz: float | None) -> Bands:
    band = lambda hz, rate: Band(clips=9, sample_rates_hz={rate: 9}, band_hz=hz)  # noqa: E731
    return Bands(real=band(real_hz, 44_100), generated=band(generated_hz, 16_000))


def test_unequal_sides_are_told_with_their_bands_and_rates() -> None:
    unequal = sides(11_400, 7_560)
    assert unequal.note is not None and unequal.verdict is not None
    for part in (
        "The generated clips have next to nothing above 7.6 kHz (files at 16,000 Hz)",
        "real ones reach to 11.4 kHz (files at 44,100 Hz)",
    ):
        assert part in unequal.note
    assert "--common-band" in unequal.note and unequal.lowest_hz == 7_560
    assert "The real clips have next to nothing above 3.0 kHz" in (sides(3_000, 7_560).note or "")


def test_equal_and_silent_sides_are_not() -> None:
    for bands in (sides(11_400, 11_000), sides(None, 7_000), sides(7_000, None), sides(None, None)):
        assert bands.note is None and bands.verdict is None and not bands.differ
        json.dumps(bands.to_dict(), allow_nan=False)
    assert sides(11_900, 11_700).lowest_hz is None and sides(None, 7_000).lowest_hz is None


def test_the_low_pass_keeps_what_lies_below_and_takes_what_lies_above() -> None:
    for frequency_hz in (100.0, 3_000.0, 5_500.0):
        kept = low_passed(tone(frequency_hz), 6_000)
        np.testing.assert_allclose(kept[1000:-1000], tone(frequency_hz)[1000:-1000], atol=8)
    for frequency_hz in (6_050.0, 9_000.0, 11_900.0):
        assert np.abs(low_passed(tone(frequency_hz), 6_000)[1000:-1000]).max() <= 3  # of 16,384
    assert not low_passed(np.zeros(1000, np.int16), 6_000).any()
    assert [len(low_passed(tone(100)[:size], 6_000)) for size in (1, 2, 100, 24_000)] == [1, 2, 100, 24_000]


def test_the_same_sound_stored_at_two_rates_measures_alike_below_the_common_band() -> None:
    full = 0.1 * np.random.default_rng(3).standard_normal(44_100 * 2).astype(np.float32)
    high = to_pcm16(resample(full, 44_100, SAMPLE_RATE))
    low = to_pcm16(resample(resample(full, 44_100, 16_000), 16_000, SAMPLE_RATE))
    before = [clip_metrics(clip, SAMPLE_RATE)["spectral_centroid_hz"] for clip in (high, low)]
    assert before[1] / before[0] < 0.7
    common_hz = min(band_of(high), band_of(low))
    after = [clip_metrics(low_passed(clip, common_hz), SAMPLE_RATE) for clip in (high, low)]
    for name in ("spectral_centroid_hz", "spectral_rolloff_hz", "zero_crossing_rate", "rms", "spectral_entropy"):
        assert after[1][name] == pytest.approx(after[0][name], rel=0.01), name
