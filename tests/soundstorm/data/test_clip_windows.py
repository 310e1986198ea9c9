"""Windows of long recordings: how many, of which length, and their names."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundstorm.data.clip_windows import Window, plan_windows, split_window
from soundstorm.data.datasets import source_of


def test_a_recording_that_is_not_longer_than_a_window_has_none() -> None:
    assert plan_windows(30.0, 30.0) == []
    assert plan_windows(4.0, 30.0) == []


def test_90_seconds_are_three_windows_and_31_seconds_two_of_one_length() -> None:
    assert [window.of("a.wav") for window in plan_windows(90.0, 30.0)] == [
        "a.wav#t=0,30",
        "a.wav#t=30,60",
        "a.wav#t=60,90",
    ]
    assert [window.of("a.wav") for window in plan_windows(31.0, 30.0)] == ["a.wav#t=0,15.5", "a.wav#t=15.5,31"]


@settings(deadline=None)
@given(st.floats(0.1, 100_000), st.floats(1, 600))
def test_windows_hold_all_of_the_recording_without_overlap(duration_s: float, longest_s: float) -> None:
    windows = plan_windows(duration_s, longest_s)
    if not windows:
        assert duration_s <= longest_s * 1.000001
        return
    assert windows[0].start_s == 0
    assert windows[-1].start_s + windows[-1].duration_s == pytest.approx(duration_s, abs=0.001)
    starts_s, durations_s = np.array([(window.start_s, window.duration_s) for window in windows]).T
    np.testing.assert_allclose((starts_s + durations_s)[:-1], starts_s[1:], rtol=1e-6)
    assert durations_s.max() <= longest_s + 0.002


@settings(deadline=None)
@given(st.text(min_size=1), st.floats(0, 10_000), st.floats(0.1, 100))
def test_a_name_tells_its_recording_and_window(name: str, start_s: float, duration_s: float) -> None:
    found_name, found = split_window(Window(start_s=start_s, duration_s=duration_s).of(name))
    assert found_name == name
    assert found is not None
    assert (found.start_s, found.duration_s) == pytest.approx((start_s, duration_s), abs=0.0011)


def test_names_without_a_window_are_those_of_recordings() -> None:
    for name in ("a.wav", "take #2.wav", "a.wav#t=", "a.wav#t=3", "#t=0,1"):
        assert split_window(name) == (name, None)


def test_windows_of_a_recording_are_of_one_source() -> None:
    assert {source_of(f"rain/a.wav#t={start},{start + 30}", "folder") for start in (0, 30, 60)} == {"rain/a.wav"}
    assert source_of("1-100032-A-0#t=0,30", "esc50") == "100032"
