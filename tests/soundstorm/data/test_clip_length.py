"""Clips of ESC-50 have the length of the published ones, whichever release lies there."""

import csv
from pathlib import Path

import numpy as np
import pytest

from soundstorm.audio.files import SAMPLE_RATE, Recording, read_audio
from soundstorm.data.clip_length import at_published_length


def recording(duration_s: float, rate: int = SAMPLE_RATE) -> Recording:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, round(duration_s * rate)).astype(np.float32)
    return Recording(waveform=waveform, original_rate=rate, channels=1, original_duration_s=duration_s, is_silent=False)


@pytest.mark.parametrize("dataset", ["esc50", "esc10"])
def test_a_longer_clip_is_cut_and_a_shorter_one_filled_with_silence(dataset: str) -> None:
    long, short = recording(7.24), recording(3.64)
    np.testing.assert_array_equal(at_published_length(long, dataset, 30.0).waveform, long.waveform[:120_000])
    filled = at_published_length(short, dataset, 30.0).waveform
    np.testing.assert_array_equal(filled[: len(short.waveform)], short.waveform)
    assert len(filled) == 120_000 and not filled[len(short.waveform) :].any()


def test_other_rates_and_a_shorter_limit_are_respected() -> None:
    assert len(at_published_length(recording(6.0, 44_100), "esc50", 30.0, 44_100).waveform) == 220_500
    assert len(at_published_length(recording(6.0), "esc50", 2.0).waveform) == 48_000


@pytest.mark.parametrize("dataset", ["urbansound8k", "folder", "synthetic", ""])
def test_clips_of_other_data_sets_keep_their_length(dataset: str) -> None:
    given = recording(3.64)
    assert at_published_length(given, dataset, 30.0) is given


def test_a_clip_with_sound_beyond_its_published_end_alone_is_silent() -> None:
    late = recording(6.0)
    late.waveform[:120_000] = 0
    assert at_published_length(late, "esc50", 30.0).is_silent


def test_the_longest_and_the_shortest_real_clips_come_out_equally_long(esc50: Path) -> None:
    with (esc50 / "meta" / "licences.csv").open(newline="", encoding="utf-8") as file:
        seconds = {row["filename"]: int(row["frames"]) / int(row["sample_rate"]) for row in csv.DictReader(file)}
    order = sorted(seconds, key=lambda name: seconds[name])
    assert seconds[order[0]] < 3.7 and seconds[order[-1]] > 7.2
    for name in (*order[:3], *order[-3:]):
        assert at_published_length(read_audio(esc50 / "audio" / name), "esc50", 30.0).waveform.shape == (120_000,)
