"""What recordings become on their way in: each is found, done right, noted and note_lines in one line."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from soundstorm.audio.files import Recording, read_audio, to_pcm16
from soundstorm.data.notes import NoteTally, kind_of
from soundstorm.schemas import Note

RATE = 24_000


def noise(duration_s: float = 2.0, level: float = 0.1, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(duration_s * rate))).astype(np.float32)


def read(samples: np.ndarray, subtype: str = "PCM_24", rate: int = RATE, **settings: float) -> Recording:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return read_audio(file.getvalue(), **settings)  # type: ignore[arg-type]


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def kinds(recording: Recording) -> list[str]:
    return [kind_of(note) for note in recording.notes]


def test_an_ordinary_recording_has_no_note() -> None:
    assert read(noise()).notes == ()
    assert read(np.stack([noise(), noise(seed=1)], axis=1)).notes == ()
    assert read(np.stack([noise(), np.zeros(2 * RATE, np.float32)], axis=1)).notes == ()
    assert read(np.stack([noise(), *(np.zeros(2 * RATE, np.float32) for _ in range(7))], axis=1)).notes == ()


# ---- channels


@pytest.mark.parametrize("other", [-1.0, -0.95, -0.6])
def test_channels_that_cancel_give_the_louder_one_at_its_level(other: float) -> None:
    left = noise()
    recording = read(np.stack([other * left, left], axis=1))
    cancels = other < -0.9
    assert kinds(recording) == (["anti_phase"] if cancels else [])
    if cancels:
        assert rms(recording.waveform) == pytest.approx(max(1.0, abs(other)) * rms(left), rel=1e-4)
        np.testing.assert_allclose(recording.waveform, -left if other == -1.0 else left, atol=1e-5)
    else:
        np.testing.assert_allclose(recording.waveform, 0.2 * left, atol=1e-5)


def test_channels_in_phase_and_unrelated_ones_are_averaged() -> None:
    left, right = noise(), noise(seed=1)
    np.testing.assert_allclose(read(np.stack([left, right], axis=1)).waveform, (left + right) / 2, atol=1e-5)


# ---- offset


def test_a_constant_offset_is_removed() -> None:
    samples = noise(level=0.02)
    recording = read(samples + np.float32(0.9))
    assert kinds(recording) == ["offset"]
    assert "+0.900" in recording.notes[0]
    np.testing.assert_allclose(recording.waveform, samples - samples.mean(), atol=1e-4)


def test_in_a_file_beyond_full_scale_the_offset_is_judged_by_its_peak() -> None:
    whole_numbers = np.round(32768 * noise())  # as 16 bits hold them, in a file of floating-point numbers
    assert abs(whole_numbers.mean()) > 0.05  # of steps of 16 bits
    assert kinds(read(whole_numbers, "FLOAT")) == ["scaled"]
    shifted = read(whole_numbers + 0.2 * np.abs(whole_numbers).max(), "FLOAT")
    assert kinds(shifted) == ["offset", "scaled"] and "offset: +0.16" in shifted.notes[0]
    assert abs(shifted.waveform.mean()) < 1e-4


def test_a_constant_alone_is_an_offset_and_then_silence() -> None:
    recording = read(np.full(RATE, 0.9, np.float32), "FLOAT")
    assert kinds(recording) == ["offset", "silent"]
    assert recording.is_silent


def test_digital_silence_around_a_sound_with_an_offset_stays_exactly_zero() -> None:
    silence = np.zeros(RATE // 2, np.float32)
    recording = read(np.concatenate([silence, noise(1.0) + np.float32(0.25), silence]))
    assert kinds(recording) == ["offset"]
    samples = to_pcm16(recording.waveform)
    assert not samples[: RATE // 2].any() and not samples[-RATE // 2 :].any()
    assert abs(recording.waveform[RATE // 2 : -RATE // 2].mean()) < 1e-4


def test_an_offset_of_one_channel_does_not_hide_that_channels_cancel() -> None:
    left = noise()
    recording = read(np.stack([left + np.float32(0.3), -left], axis=1))
    assert kinds(recording) == ["offset", "anti_phase"]
    assert rms(recording.waveform) == pytest.approx(rms(left), rel=1e-3)


# ---- level


def test_silence_and_near_silence_are_told_apart_and_a_quiet_recording_is_neither() -> None:
    assert kinds(read(np.zeros(RATE, np.float32))) == ["silent"]
    assert kinds(read(noise(level=1e-7), "FLOAT")) == ["silent"]
    assert kinds(read(noise(level=1e-4))) == ["near_silent"]
    assert kinds(read(noise(level=1e-3))) == []


@pytest.mark.parametrize(("level", "clipped"), [(0.3, False), (0.42, True), (1.0, True)])
def test_clipping_is_told_from_one_in_a_hundred_samples_on(level: float, clipped: bool) -> None:
    loud = noise(level=level)
    share = float((np.abs(loud) >= 1).mean())
    recording = read(np.clip(loud, -1, 1), "PCM_16")
    assert (share > 0.01) == clipped
    assert kinds(recording) == (["clipped"] if clipped else [])
    if clipped:
        assert f"{share:.1%}" in recording.notes[0]


def test_a_sine_of_full_scale_is_not_clipped() -> None:
    time_s = np.arange(RATE) / RATE
    assert kinds(read(np.sin(2 * np.pi * 100 * time_s).astype(np.float32), "PCM_16")) == []


def test_floating_point_files_above_full_scale_are_scaled_and_noted() -> None:
    recording = read(noise(level=1.0), "FLOAT")
    assert kinds(recording) == ["scaled"]
    assert np.abs(recording.waveform).max() == pytest.approx(1.0)


# ---- length and rate


def test_a_recording_of_90_seconds_says_how_much_of_it_is_not_used() -> None:
    recording = read(noise(90.0))
    assert recording.notes == ("cut: 60.00 of 90.00 s are not used",)
    assert len(recording.waveform) == 30 * RATE
    assert read(noise(30.0)).notes == ()


def test_a_cut_makes_no_click() -> None:
    time_s = np.arange(2 * 44_100) / 44_100
    samples = (0.5 * np.cos(2 * np.pi * 1000 * time_s)).astype(np.float32)
    recording = read(samples, rate=44_100, max_duration_s=1.0)
    expected = 0.5 * np.cos(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(recording.waveform[-200:], expected[-200:], atol=1e-4)


def test_a_low_sample_rate_says_where_the_spectrum_ends() -> None:
    recording = read(noise(rate=8_000), rate=8_000)
    assert recording.notes == ("low_rate: 8000 Hz, there is nothing above 4000 Hz",)
    assert kinds(read(noise(rate=16_000), rate=16_000)) == []


# ---- telling


def test_each_kind_is_one_line_with_its_count_and_an_example() -> None:
    notes = {
        "b/2.wav": ["cut: 60.00 of 90.00 s are not used", "offset: +0.900 of full scale was removed"],
        "a/1.wav": ["cut: 1.50 of 31.50 s are not used"],
        "c/3.wav": [],
    }
    tally = NoteTally(notes)
    lines = tally.lines(12, "; --long split uses them")
    assert len(lines) == 2
    assert lines[0].startswith("a DC offset") and "1 of 12 clips, for example b/2.wav (+0.900" in lines[0]
    assert "2 of 12 clips, for example a/1.wav (1.50 of 31.50 s" in lines[1]
    assert lines[1].endswith("61.50 s in all are not used; --long split uses them")
    assert tally.counts == {"offset": 1, "cut": 2}
    assert (tally.unused_s, tally.silent) == (61.5, [])


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: read(np.stack([noise(), -noise()], axis=1)), Note.ANTI_PHASE),
        (lambda: read(noise() + np.float32(0.5)), Note.OFFSET),
        (lambda: read(noise(level=1.0), "FLOAT"), Note.SCALED),
        (lambda: read(np.zeros(RATE, np.float32)), Note.SILENT),
        (lambda: read(noise(level=1e-4)), Note.NEAR_SILENT),
        (lambda: read(np.clip(noise(level=1.0), -1, 1)), Note.CLIPPED),
        (lambda: read(noise(31.0)), Note.CUT),
        (lambda: read(noise(rate=8_000), rate=8_000), Note.LOW_RATE),
    ],
)
def test_every_kind_has_words(make: Callable[[], Recording], kind: Note) -> None:
    tally = NoteTally({"x.wav": make().notes})
    [line] = tally.lines(1)
    assert tally.silent == (["x.wav"] if kind == Note.SILENT else [])
    assert "1 of 1 clips, for example x.wav (" in line
    assert kinds(make()) == [kind.value]
