"""The synthetic dataset: ten classes that differ, vary within, and are the same on every machine."""

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pyarrow.fs import LocalFileSystem

from soundstorm.audio.files import read_audio
from soundstorm.audio.synthesis import CLASSES, synthesize
from soundstorm.data.datasets import index_dataset
from soundstorm.data.synthetic import write_dataset
from soundstorm.errors import SoundStormError

RATE = 44_100


def features(clip: np.ndarray) -> np.ndarray:
    """Log power in eight octave bands up to 16 kHz, and three measures of how it moves in time."""
    power = np.abs(np.fft.rfft(clip)) ** 2
    frequency_hz = np.fft.rfftfreq(len(clip), 1 / RATE)
    edges_hz = [0, 125, 250, 500, 1000, 2000, 4000, 8000, 16000]
    bands = [power[(frequency_hz >= low) & (frequency_hz < high)].sum() for low, high in pairwise(edges_hz)]
    envelope = np.sqrt(np.mean(clip[: len(clip) // 441 * 441].reshape(-1, 441) ** 2, axis=1))
    spread, change = envelope.std() / envelope.mean(), np.abs(np.diff(envelope)).mean() / envelope.mean()
    return np.array(
        [*(np.log10(np.array(bands) / power.sum() + 1e-6)), 2 * np.log10(spread), 2 * np.log10(change + 1e-3)]
    )


def test_there_are_ten_classes_in_alphabetical_order() -> None:
    assert len(CLASSES) == 10
    assert list(CLASSES) == sorted(CLASSES)


@pytest.mark.parametrize("category", CLASSES)
@pytest.mark.parametrize("duration_s", [0.05, 0.5, 2.0])
def test_clips_are_finite_unclipped_and_audible_from_the_start(category: str, duration_s: float) -> None:
    for seed in range(4):
        clip = synthesize(category, seed, duration_s)
        assert clip.dtype == np.float32
        assert clip.shape == (round(duration_s * RATE),)
        assert np.isfinite(clip).all()
        assert 0.29 < np.abs(clip).max() < 0.91
        assert np.abs(clip[: len(clip) // 3]).max() > 0.01


@pytest.mark.parametrize("category", CLASSES)
def test_a_clip_depends_on_class_and_seed_only(category: str) -> None:
    first = synthesize(category, 7, 0.5)
    np.testing.assert_array_equal(first, synthesize(category, 7, 0.5))
    other = synthesize(category, 8, 0.5)
    assert np.abs(first - other).max() > 0.1


def test_classes_can_be_told_apart_and_clips_of_one_class_vary() -> None:
    clips = {
        category: np.stack([features(synthesize(category, seed, 1.5)) for seed in range(7)]) for category in CLASSES
    }
    centres = np.stack([clips[category][:4].mean(axis=0) for category in CLASSES])
    right = 0
    for label, category in enumerate(CLASSES):
        distances = np.linalg.norm(clips[category][4:, None] - centres, axis=2)
        right += int((distances.argmin(axis=1) == label).sum())
        assert clips[category].std(axis=0).max() > 0.05
    assert right >= 27  # of 30 clips that the centres were not made from


def test_clips_are_made_fifty_times_faster_than_they_play() -> None:
    def seconds(category: str) -> float:
        start = time.process_time()
        synthesize(category, 0)
        return time.process_time() - start

    assert np.median([seconds(category) for category in CLASSES]) < 0.1


def test_other_rates_and_bad_requests_are_handled() -> None:
    assert synthesize("rain", 0, 1.0, 24_000).shape == (24_000,)
    for request, message in (
        (("thunder", 0), "choose one of clock, crickets"),
        (("rain", -1), "seed -1"),
        (("rain", 0, 0.01), "0.01 s is too short"),
        (("rain", 0, float("nan")), "too short"),
        (("rain", 0, 1.0, 8000), "8000 Hz is too low"),
    ):
        with pytest.raises(SoundStormError, match=message):
            synthesize(*request)


def test_the_data_set_is_indexed_without_a_rejection_and_covers_folds_and_classes(synthetic_dataset: Path) -> None:
    index = index_dataset("synthetic", LocalFileSystem(), str(synthetic_dataset), str(synthetic_dataset))
    assert (index.clips.num_rows, index.rejected.num_rows, index.num_folds) == (50, 0, 5)
    assert index.categories == list(CLASSES)
    pairs = set(zip(index.clips["category"].to_pylist(), index.clips["fold"].to_pylist(), strict=True))
    assert len(pairs) == 50
    recording = read_audio(Path(index.clips["uri"][0].as_py()))
    assert (recording.original_rate, recording.original_duration_s, recording.is_silent) == (RATE, 1.0, False)


def test_writing_twice_gives_the_same_bytes_and_another_seed_other_clips(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert write_dataset(tmp_path / name, clips_per_class=1, seed=seed, duration_s=0.1) == tmp_path / name
    contents = {name: [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.*"))] for name in "abc"}
    assert contents["a"] == contents["b"]
    assert contents["a"] != contents["c"]
    assert len(contents["a"]) == 11


def test_a_data_set_without_clips_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match="0 clips per class"):
        write_dataset(tmp_path / "empty", clips_per_class=0)
    assert not (tmp_path / "empty").exists()
