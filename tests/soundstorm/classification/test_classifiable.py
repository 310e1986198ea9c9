"""Clips in which there is nothing to hear."""

import numpy as np
import pytest

from soundstorm.audio.files import SAMPLE_RATE
from soundstorm.classification.classifiable import SILENCE_DB, Unclassifiable, unclassifiable


def sine(level_db: float, duration_s: float = 1.0) -> np.ndarray:
    """A tone of this RMS, in dB of full scale, as a 16-bit clip at 24 kHz."""
    peak = 32768 * np.sqrt(2) * 10 ** (level_db / 20)
    return np.rint(peak * np.sin(2 * np.pi * 440 * np.arange(round(duration_s * SAMPLE_RATE)) / SAMPLE_RATE)).astype(
        np.int16
    )


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (np.zeros(SAMPLE_RATE, np.int16), Unclassifiable.SILENT),
        (sine(SILENCE_DB - 3), Unclassifiable.SILENT),
        (sine(SILENCE_DB + 3), None),
        (sine(-10, 0.09), Unclassifiable.TOO_SHORT),
        (sine(-10, 0.1), None),
        (np.array([20_000], np.int16), Unclassifiable.TOO_SHORT),
        (np.zeros(0, np.int16), Unclassifiable.TOO_SHORT),
        (np.full(SAMPLE_RATE, -32768, np.int16), None),
    ],
)
def test_silence_and_what_is_too_short_are_told_from_what_can_be_named(
    clip: np.ndarray, expected: Unclassifiable | None
) -> None:
    assert unclassifiable(clip) is expected


def test_a_knock_in_a_minute_of_silence_is_heard() -> None:
    clip = np.zeros(60 * SAMPLE_RATE, np.int16)
    clip[-2400:] = sine(-30, 0.1)
    assert unclassifiable(clip) is None
