"""Copies of training clips are found whole, shifted and in part, and strangers are not taken for copies."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.memorization import matching_fraction, nearest_training_match

CLIPS = st.lists(st.integers(0, 5), min_size=1, max_size=40).map(lambda codes: np.array(codes, dtype=np.uint16))


def random_codes(frames: int = 375, seed: int = 0, codebook_size: int = 1024) -> np.ndarray:
    return np.random.default_rng(seed).integers(codebook_size, size=frames).astype(np.uint16)


def plain_equal_share(codes_T: np.ndarray, other_T: np.ndarray) -> float:
    """By its definition, one lag and one frame after the other."""
    lags = range(-len(codes_T) + 1, len(other_T))
    return max(
        sum(1 for t, code in enumerate(codes_T) if 0 <= t + lag < len(other_T) and other_T[t + lag] == code)
        for lag in lags
    ) / len(codes_T)


@settings(deadline=None, max_examples=100)
@given(CLIPS, CLIPS)
def test_the_share_equals_its_definition(codes_T: np.ndarray, other_T: np.ndarray) -> None:
    assert matching_fraction(codes_T, other_T) == plain_equal_share(codes_T, other_T)


@settings(deadline=None, max_examples=50)
@given(CLIPS, CLIPS, CLIPS)
def test_a_clip_that_lies_anywhere_in_a_training_clip_is_a_whole_copy(
    codes_T: np.ndarray, before_T: np.ndarray, after_T: np.ndarray
) -> None:
    assert matching_fraction(codes_T, np.concatenate([before_T, codes_T, after_T])) == 1.0


def test_a_copy_shifted_by_a_lag_loses_only_the_frames_beyond_the_end() -> None:
    training_T = random_codes()
    for lag in (1, 75, 200):
        copied_T = np.concatenate([random_codes(lag, seed=1) + 2000, training_T[:-lag]])
        assert matching_fraction(copied_T, training_T) == pytest.approx(1 - lag / 375)


@pytest.mark.parametrize(("frames", "other_frames"), [(254, 10), (255, 255), (256, 600), (511, 3), (700, 700)])
def test_clips_longer_than_a_block_are_compared_as_a_whole(frames: int, other_frames: int) -> None:
    codes_T, other_T = (
        random_codes(frames, seed=1, codebook_size=3),
        random_codes(other_frames, seed=2, codebook_size=3),
    )
    assert matching_fraction(codes_T, other_T) == plain_equal_share(codes_T, other_T)
    assert matching_fraction(np.full(frames, 7), np.full(frames, 7)) == 1.0


def test_half_a_copy_is_a_half() -> None:
    training_T = random_codes()
    assert matching_fraction(np.concatenate([training_T[100:200], random_codes(100, seed=1) + 2000]), training_T) == 0.5


def test_strangers_share_next_to_nothing() -> None:
    assert matching_fraction(random_codes(seed=1), random_codes(seed=2)) < 0.03
    assert matching_fraction(random_codes(seed=1), random_codes(seed=2) + 2000) == 0


def test_two_clips_of_one_and_the_same_code_are_equal_as_far_as_they_overlap() -> None:
    assert matching_fraction(np.full(10, 7), np.full(4, 7)) == 0.4
    assert matching_fraction(np.full(4, 7), np.full(10, 7)) == 1.0


def test_the_nearest_training_clip_is_sought_within_the_class() -> None:
    dog, rain = random_codes(seed=1), random_codes(seed=2)
    shares = nearest_training_match(
        [dog, dog, rain[:200]], ["dog", "rain", "rain"], [random_codes(seed=3), dog, rain], ["dog", "dog", "rain"]
    )
    assert shares.dtype == np.float64
    assert (shares[0], shares[2]) == (1.0, 1.0)
    assert shares[1] < 0.03


def test_a_class_without_training_clips_is_compared_with_all() -> None:
    dog = random_codes(seed=1)
    assert nearest_training_match([dog], ["wolf"], [random_codes(seed=2), dog], ["rain", "dog"]).tolist() == [1.0]


def test_no_clips_have_no_shares() -> None:
    assert nearest_training_match([], [], [random_codes()], ["dog"]).shape == (0,)


def test_a_hundred_clips_beside_32_training_clips_each_take_seconds() -> None:
    codes = [random_codes(seed=seed, codebook_size=2) for seed in range(100)]
    training = [random_codes(seed=1000 + seed, codebook_size=2) for seed in range(32)]
    start = time.process_time()
    nearest_training_match(codes, ["dog"] * 100, training, ["dog"] * 32)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("codes", [np.zeros((8, 375), dtype=np.uint16), np.zeros(0, dtype=np.uint16)])
def test_codes_that_are_not_one_level_are_refused(codes: np.ndarray) -> None:
    with pytest.raises(SoundStormError, match="expected one level"):
        matching_fraction(codes, random_codes())
    with pytest.raises(SoundStormError, match="other codes"):
        matching_fraction(random_codes(), codes)


def test_clips_and_classes_that_do_not_match_are_refused() -> None:
    with pytest.raises(SoundStormError, match="1 clips with 2 classes"):
        nearest_training_match([random_codes()], ["dog", "rain"], [random_codes()], ["dog"])
    with pytest.raises(SoundStormError, match="2 training clips with 1"):
        nearest_training_match([random_codes()], ["dog"], [random_codes()] * 2, ["dog"])
    with pytest.raises(SoundStormError, match="no training clips"):
        nearest_training_match([random_codes()], ["dog"], [], [])
