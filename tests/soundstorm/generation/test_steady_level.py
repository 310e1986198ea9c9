"""A long steady sound stays at the level of its beginning; other sounds, and the beginning itself, are unchanged."""

import numpy as np
import pytest
from numpy.typing import NDArray

from soundstorm.generation import steady_level
from soundstorm.generation.steady_level import STEADY_DB, keep_steady

RATE, WINDOW_S = 24_000, 5


def noise(seconds: int, level: float = 0.05) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(0, level, seconds * RATE).astype(np.float32)


def level_db(sound_N: NDArray[np.float32]) -> NDArray[np.float64]:
    """Level of each second."""
    seconds = sound_N.reshape(-1, RATE).astype(np.float64)
    return 10 * np.log10((seconds**2).mean(1) + 1e-12)


def steps(*gains: float) -> NDArray[np.float32]:
    """Noise with another gain in each quarter of a minute."""
    return noise(15 * len(gains)) * np.repeat(np.array(gains, np.float32), 15 * RATE)


def test_jumps_of_a_steady_sound_are_levelled() -> None:
    jumping_N = steps(1, 2, 0.4, 3)
    steady_N = keep_steady(jumping_N, RATE, WINDOW_S * RATE)
    first = level_db(jumping_N)[:WINDOW_S].mean()
    assert np.abs(level_db(jumping_N) - first).max() > 8
    assert np.abs(level_db(steady_N) - first).max() < 2.5
    inner = np.r_[0:13, 17:28, 32:43, 47:60]  # away from the jumps, where the gain changes
    assert np.abs(level_db(steady_N) - first)[inner].max() < 0.5


def test_the_gain_is_slow() -> None:
    steady_N, jumping_N = keep_steady(steps(1, 2), RATE, WINDOW_S * RATE), steps(1, 2)
    gain_N = steady_N / np.where(jumping_N == 0, 1, jumping_N)
    change = np.abs(np.diff(20 * np.log10(np.abs(gain_N[::240][1:-1]) + 1e-9)))  # decibels in 10 ms
    assert change.max() < 0.2


def test_the_beginning_is_unchanged_but_for_its_end_where_the_gain_begins() -> None:
    jumping_N = steps(1, 2)
    steady_N = keep_steady(jumping_N, RATE, WINDOW_S * RATE)
    assert np.array_equal(steady_N[: 3 * RATE], jumping_N[: 3 * RATE])
    assert np.abs(level_db(steady_N) - level_db(jumping_N))[:WINDOW_S].max() < 0.1


def test_a_sound_within_the_range_of_its_beginning_is_unchanged() -> None:
    waves_N = noise(30) * (1 + 0.2 * np.sin(np.arange(30 * RATE) / RATE * 2 * np.pi / 2.5)).astype(np.float32)
    same_N = np.tile(waves_N[: 5 * RATE], 6)
    assert np.abs(level_db(keep_steady(same_N, RATE, WINDOW_S * RATE)) - level_db(same_N)).max() < 0.05


def test_pauses_of_a_sound_of_events_are_kept() -> None:
    barks_N = noise(30)
    barks_N[np.arange(30 * RATE) // (RATE * 3 // 2) % 2 == 1] *= 0.01
    louder_N = barks_N.copy()
    louder_N[15 * RATE :] *= 2
    assert keep_steady(louder_N, RATE, WINDOW_S * RATE) is louder_N


def test_silence_and_short_beginnings_are_left_alone() -> None:
    late_N = noise(20)
    late_N[: 6 * RATE] = 0
    assert keep_steady(late_N, RATE, WINDOW_S * RATE) is late_N
    jumping_N = steps(1, 2)
    assert keep_steady(jumping_N, RATE, RATE) is jumping_N


def test_a_pause_of_a_steady_sound_is_not_made_noise() -> None:
    pausing_N = noise(20)
    pausing_N[10 * RATE : 14 * RATE] *= 0.001
    change = level_db(keep_steady(pausing_N, RATE, WINDOW_S * RATE)) - level_db(pausing_N)
    assert change.max() <= steady_level.MAX_GAIN_DB + 0.1


def test_a_loop_has_no_step_where_it_begins_again() -> None:
    """The end is 6 dB louder than the beginning; played twice, the level changes slowly at the joint."""
    loud_end_N = steps(1, 2)
    once_N = keep_steady(loud_end_N, RATE, WINDOW_S * RATE, ends="wrap")
    gain_N = once_N / np.where(loud_end_N == 0, 1, loud_end_N)
    around = np.r_[gain_N[-RATE:], gain_N[:RATE]]
    assert np.abs(np.diff(20 * np.log10(around[::240] + 1e-9))).max() < 0.2
    assert gain_N[-1] < 0.9


@pytest.mark.parametrize("seconds", [6, 21.37])
def test_a_block_more_or_less_changes_nothing(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sound_N = steps(1, 2)[: round((9 + seconds) * RATE)]
    whole_N = keep_steady(sound_N, RATE, WINDOW_S * RATE)
    monkeypatch.setattr(steady_level, "_BLOCK", 77_777)
    assert np.array_equal(keep_steady(sound_N, RATE, WINDOW_S * RATE), whole_N)
    assert np.ptp(level_db(sound_N)[:WINDOW_S]) < STEADY_DB
