"""Variations of a recording: each changes what it says and nothing else, and two sounds together are as loud as one."""

import numpy as np
import pytest

from soundstorm.audio.augmentation import Variation, blend, vary
from soundstorm.audio.files import SAMPLE_RATE

PLAIN = Variation(speed_octaves=0, gain_db=0, equalizer_db=0)


def tone(frequency: float, seconds: float = 1.0, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(
        np.float32
    )


def level_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(waveform, dtype=np.float64))))


def loudest_hz(waveform: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(waveform)).argmax() * SAMPLE_RATE / len(waveform))


def test_without_variation_an_excerpt_is_the_recording_from_anywhere_and_on_from_its_beginning() -> None:
    recording = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    starts = set()
    for seed in range(20):
        excerpt = vary(recording, 1500, PLAIN, np.random.default_rng(seed))
        [start] = [start for start in range(1000) if recording[start] == excerpt[0]]
        np.testing.assert_array_equal(excerpt, np.roll(np.tile(recording, 3), -start)[:1500])
        starts.add(start)
    assert len(starts) > 15


def test_speed_moves_the_pitch_within_its_limits_both_ways() -> None:
    variation = Variation(speed_octaves=0.5, gain_db=0, equalizer_db=0)
    found = [loudest_hz(vary(tone(1000), SAMPLE_RATE, variation, np.random.default_rng(seed))) for seed in range(40)]
    assert 1000 * 2**-0.5 - 2 <= min(found) < 800 and 1250 < max(found) <= 1000 * 2**0.5 + 2


def test_a_tone_between_samples_keeps_its_level() -> None:
    variation = Variation(speed_octaves=0.01, gain_db=0, equalizer_db=0)
    played = vary(tone(3000), SAMPLE_RATE, variation, np.random.default_rng(0))
    assert level_db(played) == pytest.approx(level_db(tone(3000)), abs=0.5)


def test_gain_stays_within_its_limits() -> None:
    variation = Variation(speed_octaves=0, gain_db=6, equalizer_db=0)
    gains = [
        level_db(vary(tone(500), SAMPLE_RATE, variation, np.random.default_rng(seed))) - level_db(tone(500))
        for seed in range(60)
    ]
    assert -6.01 <= min(gains) < -4 and 4 < max(gains) <= 6.01


def test_the_equalizer_has_the_spread_that_it_says() -> None:
    variation = Variation(speed_octaves=0, gain_db=0, equalizer_db=4)
    lowest = tone(1, 1.0)  # at a knot
    gains = [
        level_db(vary(lowest, SAMPLE_RATE, variation, np.random.default_rng(seed))) - level_db(lowest)
        for seed in range(300)
    ]
    assert 3.4 < float(np.std(gains)) < 4.6


def test_digital_silence_stays_and_an_excerpt_of_it_is_drawn_only_where_there_is_nothing_else() -> None:
    recording = np.concatenate([tone(1000, 0.1), np.zeros(9 * SAMPLE_RATE // 10, np.float32)])
    variation = Variation(speed_octaves=0, gain_db=10, equalizer_db=3)
    for seed in range(30):
        excerpt = vary(recording, SAMPLE_RATE // 10, variation, np.random.default_rng(seed))
        assert np.abs(excerpt).max() > 0.01
        assert (excerpt == 0).any()
    silence = np.zeros(1000, np.float32)
    assert not vary(silence, 500, variation, np.random.default_rng(0)).any()


@pytest.mark.parametrize("second_amplitude", [0.5, 0.02])
def test_two_sounds_are_heard_in_their_shares_whatever_their_levels(second_amplitude: float) -> None:
    first, second = tone(500), tone(4000, amplitude=second_amplitude)
    for share in (0.2, 0.5, 0.9):
        spectrum = np.abs(np.fft.rfft(blend(first, second, share)))
        assert spectrum[500] / (spectrum[500] + spectrum[4000]) == pytest.approx(share, abs=0.01)


def test_two_equally_loud_sounds_are_together_as_loud_as_one() -> None:
    assert level_db(blend(tone(500), tone(4000), 0.3)) == pytest.approx(level_db(tone(500)), abs=0.05)


def test_silence_and_clips_of_one_sample_can_be_blended() -> None:
    for length in (1, 10, 3000):
        assert np.isfinite(blend(np.zeros(length, np.float32), np.ones(length, np.float32), 0.5)).all()
