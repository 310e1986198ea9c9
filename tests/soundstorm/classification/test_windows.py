"""Windows of long clips: all of one length, none too long, nothing left out; a clip's probabilities are the means of
theirs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from soundstorm.classification.windows import predict_in_windows, windows


@given(length=st.integers(1, 5_000), longest=st.integers(1, 700))
def test_windows_have_one_length_and_hold_all_of_the_clip_in_order(length: int, longest: int) -> None:
    cut = windows(np.arange(length), longest)
    assert len(cut) == -(-length // longest) and {len(window) for window in cut} == {-(-length // len(cut))}
    assert max(len(window) for window in cut) <= longest
    assert set(np.concatenate(cut).tolist()) == set(range(length))
    assert [window[0] for window in cut] == sorted(window[0] for window in cut)


def test_a_clip_has_the_mean_of_its_windows() -> None:
    def predict(clips: object) -> np.ndarray:
        return np.array([[clip[0], len(clip)] for clip in clips], np.float32).reshape(-1, 2)  # type: ignore[attr-defined]

    found = predict_in_windows(predict, [np.arange(10), np.arange(100, 103), np.arange(5)], longest=5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[2.5, 5], [100, 3], [0, 5]])
    assert predict_in_windows(predict, [], longest=5).shape == (0, 2)


def test_a_short_clip_is_passed_on_as_it_is() -> None:
    clip = np.arange(5)
    [window] = windows(clip, 5)
    assert window is clip
