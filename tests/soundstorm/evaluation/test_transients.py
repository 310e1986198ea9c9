"""Transients against sounds whose onsets are known, and their strength against librosa's."""

import io
import subprocess
import sys

import numpy as np
import pytest

from soundstorm.errors import SoundStormError
from soundstorm.evaluation.temporal import log_mel
from soundstorm.evaluation.transients import onset_strength, transients

RATE = 24_000


def noise(deviation: float = 0.05, duration_s: float = 5.0) -> np.ndarray:
    return np.random.default_rng(0).normal(0, deviation, round(duration_s * RATE))


def bursts(per_second: int, rise_s: float = 0.0) -> np.ndarray:
    """Bursts of noise of 50 ms whose level rises linearly for `rise_s`, in faint noise, over 5 s; none at the start."""
    level = np.zeros(5 * RATE)
    period = RATE // per_second
    length, rise = round(0.05 * RATE), round(rise_s * RATE)
    for start in range(period // 2, len(level) - rise - length, period):
        level[start : start + rise] = np.linspace(0, 1, rise)
        level[start + rise : start + rise + length] = 1
    return noise(0.001) + level * noise(0.2)


@pytest.mark.parametrize("per_second", [1, 2, 5])
def test_every_burst_is_an_onset(per_second: int) -> None:
    assert transients(bursts(per_second), RATE).per_second == pytest.approx(per_second, abs=0.21)


def test_clicks_in_silence_are_onsets() -> None:
    clicks = np.zeros(5 * RATE)
    clicks[RATE // 10 :: RATE // 5] = 0.5
    found = transients(clicks, RATE)
    assert found.per_second == 5 and found.rise_db > 20


@pytest.mark.parametrize("deviation", [0.0005, 0.05, 0.3])
def test_steady_noise_has_no_onset_however_loud(deviation: float) -> None:
    assert transients(noise(deviation), RATE).per_second == 0


def test_silence_a_tone_and_very_short_clips_have_none() -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    for sound in (np.zeros(RATE), tone, np.ones(1), noise(duration_s=0.03)):
        found = transients(sound, RATE)
        assert (found.per_second, found.rise_db) == (0, 0)


def test_a_slow_rise_is_less_sharp_than_a_sudden_one() -> None:
    sudden, slow = transients(bursts(2), RATE), transients(bursts(2, rise_s=0.2), RATE)
    assert slow.rise_db < 0.7 * sudden.rise_db


def test_level_does_not_matter_and_pcm_is_taken_as_it_is_stored() -> None:
    sound = bursts(2) + noise(0.01)
    pcm = np.round(np.clip(sound, -0.99, 0.99) * 32768).astype(np.int16)
    assert transients(pcm, RATE).rise_db == pytest.approx(transients(pcm / 32768, RATE).rise_db)
    assert transients(0.5 * sound, RATE).rise_db == pytest.approx(transients(sound, RATE).rise_db, rel=0.01)


LIBROSA = """
import io, sys
import numpy as np
from librosa.onset import onset_strength
mel_TM = np.load(io.BytesIO(sys.stdin.buffer.read()))
np.save(sys.stdout.buffer, onset_strength(S=mel_TM.T, sr=24_000, hop_length=240, center=False))
"""


def test_strength_is_that_of_librosa() -> None:
    """In a process of its own: librosa compiles as it is imported, and its compiler has crashed on some processors."""
    sound, content = bursts(3), io.BytesIO()
    np.save(content, log_mel(sound, RATE))
    ended = subprocess.run(
        [sys.executable, "-c", LIBROSA], input=content.getvalue(), capture_output=True, check=False, timeout=240
    )
    if ended.returncode < 0:
        pytest.skip(f"librosa ended by signal {-ended.returncode}")
    assert ended.returncode == 0, ended.stderr.decode()
    theirs_T = np.load(io.BytesIO(ended.stdout))
    np.testing.assert_allclose(onset_strength(sound, RATE), theirs_T[1:], atol=1e-6)


@pytest.mark.parametrize("per_second", [1, 3, 5])
def test_onsets_are_the_frames_that_the_rule_says(per_second: int) -> None:
    sound = bursts(per_second) + noise(0.01)
    strength_T = onset_strength(sound, RATE)
    padded = np.pad(strength_T, 10, mode="edge")
    found = [
        frame
        for frame, value in enumerate(strength_T)
        if value == max(strength_T[max(0, frame - 3) : frame + 4]) and value > np.mean(padded[frame : frame + 21]) + 3
    ]
    assert found and transients(sound, RATE).per_second == len(found) / 5


def test_what_is_no_clip_is_refused() -> None:
    with pytest.raises(SoundStormError):
        transients(np.zeros(0), RATE)
    with pytest.raises(SoundStormError):
        transients(np.array([np.nan] * RATE), RATE)
