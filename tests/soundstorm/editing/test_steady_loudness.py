"""A long steady sound stays as loud as its beginning; pauses, ends, claps, other sounds and the beginning itself are
unchanged."""

import numpy as np
import pytest
from numpy.typing import NDArray

from soundstorm.editing import steady_loudness
from soundstorm.editing.steady_loudness import MAX_BOOST_DB, hold_loudness

RATE = 24_000
FIRST = (0, 5 * RATE)


def noise(seconds: float, level: float = 0.05) -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(0, level, round(seconds * RATE)).astype(np.float32)


def rms_db(sound_N: NDArray[np.float32]) -> NDArray[np.float64]:
    """RMS of each second."""
    seconds = sound_N.reshape(-1, RATE).astype(np.float64)
    return 10 * np.log10((seconds**2).mean(1) + 1e-12)


def steps(*gains: float) -> NDArray[np.float32]:
    """Noise with another gain in each quarter of a minute."""
    return noise(15 * len(gains)) * np.repeat(np.array(gains, np.float32), 15 * RATE)


def held(
    sound_N: NDArray[np.float32], reference: tuple[int, int] = FIRST, *, loop: bool = False
) -> NDArray[np.float32]:
    result_N = sound_N.copy()
    assert hold_loudness(result_N, RATE, reference, loop=loop) == (not np.array_equal(result_N, sound_N))
    return result_N


def gain_db(before_N: NDArray[np.float32], after_N: NDArray[np.float32]) -> NDArray[np.float64]:
    """Gain at every hundredth of a second."""
    ratio_N = np.abs(after_N) / np.where(before_N == 0, 1, np.abs(before_N))
    return 20 * np.log10(ratio_N[120::240] + 1e-9)


def test_jumps_of_a_steady_sound_are_levelled() -> None:
    jumping_N = steps(1, 2, 0.7, 2)
    steady_N = held(jumping_N)
    first = rms_db(jumping_N)[:5].mean()
    assert np.abs(rms_db(jumping_N) - first).max() > 5.5
    assert np.abs(rms_db(steady_N) - first).max() < 3
    inner = np.r_[0:13, 17:28, 32:43, 47:60]  # away from the jumps, where the gain changes
    assert np.abs(rms_db(steady_N) - first)[inner].max() < 1.3


def test_the_gain_is_slow() -> None:
    jumping_N = steps(1, 2)
    assert np.abs(np.diff(gain_db(jumping_N, held(jumping_N)))).max() < 0.1  # decibels in 10 ms


def test_the_beginning_is_unchanged_also_if_it_begins_softly() -> None:
    jumping_N = steps(1, 2)
    jumping_N[: RATE // 10] *= np.linspace(0, 1, RATE // 10)
    steady_N = held(jumping_N)
    assert np.array_equal(steady_N[: 10 * RATE], jumping_N[: 10 * RATE])
    at_once_N = noise(20)
    at_once_N[5 * RATE :] *= 3
    assert np.array_equal(held(at_once_N)[: 38 * RATE // 10], at_once_N[: 38 * RATE // 10])


def test_a_sound_as_loud_as_its_beginning_is_unchanged() -> None:
    assert np.array_equal(held(noise(60)), noise(60))
    swelling_N = noise(60) * (1 + 0.25 * np.sin(np.arange(60 * RATE) / RATE * 2 * np.pi / 4)).astype(np.float32)
    assert np.array_equal(held(swelling_N), swelling_N)


def test_a_clap_in_the_rain_is_unchanged() -> None:
    rain_N = noise(30)
    rain_N[15 * RATE : 15 * RATE + RATE // 5] *= 8
    assert np.array_equal(held(rain_N), rain_N)


def test_pauses_and_ends_stay() -> None:
    pausing_N, ending_N = noise(30), noise(30)
    pausing_N[12 * RATE : 17 * RATE] *= 0.001
    ending_N[20 * RATE :] *= np.geomspace(1, 0.001, 10 * RATE).astype(np.float32)
    for sound_N in (pausing_N, ending_N):
        gains = gain_db(sound_N, held(sound_N))
        assert gains.min() > -0.1 and gains.max() <= MAX_BOOST_DB
        far = rms_db(sound_N) < rms_db(sound_N)[0] - 24
        assert far.sum() >= 3 and np.abs((rms_db(held(sound_N)) - rms_db(sound_N))[far]).max() < 1.5


@pytest.mark.parametrize("period_s", [0.5, 1.5, 3.0])
def test_a_sound_of_events_is_unchanged(period_s: float) -> None:
    barks_N = noise(30)
    barks_N[np.arange(30 * RATE) % round(period_s * RATE) > period_s * RATE * 0.6] *= 0.05
    barks_N[15 * RATE :] *= 2
    assert np.array_equal(held(barks_N), barks_N)


def test_silence_and_short_beginnings_show_nothing() -> None:
    late_N = noise(20)
    late_N[: 6 * RATE] = 0
    assert np.array_equal(held(late_N), late_N)
    assert np.array_equal(held(steps(1, 2), (0, RATE)), steps(1, 2))
    for few in (0, 1, 2_399, 2_400, 2_401, 5 * RATE):
        assert np.array_equal(held(noise(30)[:few]), noise(30)[:few])


def test_the_reference_may_be_the_end_of_a_prompt() -> None:
    rising_N = noise(40) * np.repeat(np.array([1, 3, 1, 3], np.float32), 10 * RATE)
    after_N = held(rising_N, (15 * RATE, 20 * RATE))
    assert np.array_equal(after_N[: 18 * RATE], rising_N[: 18 * RATE])
    assert np.abs(rms_db(after_N)[22:] - rms_db(rising_N)[15]).max() < 4.6 and rms_db(rising_N)[25] < -25
    assert rms_db(after_N)[25] - rms_db(rising_N)[25] == pytest.approx(MAX_BOOST_DB, abs=0.1)


def test_the_gain_of_a_loop_goes_on_where_it_begins_again() -> None:
    """The end is 6 dB louder than the beginning; played twice, the gain changes slowly at the joint."""
    loud_end_N = steps(1, 2)
    gains = gain_db(loud_end_N, held(loud_end_N, (RATE // 2, 5 * RATE), loop=True))
    assert np.abs(np.diff(np.r_[gains[-100:], gains[:100]])).max() < 0.1
    assert gains[-1] < -1.5 and np.abs(gains[200:900]).max() == 0


@pytest.mark.parametrize("rest", [0, 1, 1_000, 2_399])
def test_a_block_or_a_rest_more_or_less_changes_nothing(rest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sound_N = steps(1, 2)[: 21 * RATE + rest]
    whole_N = held(sound_N)
    monkeypatch.setattr(steady_loudness, "_BLOCK", 77_777)
    assert np.array_equal(held(sound_N), whole_N)
    assert gain_db(sound_N, whole_N)[-1] == pytest.approx(-5, abs=0.4)
