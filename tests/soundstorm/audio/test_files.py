"""Reading recordings of every kind, refusing the damaged ones with the right reason, and writing 16-bit files."""

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from soundstorm.audio.files import RejectedAudio, encode_audio, from_pcm16, read_audio, resample, to_pcm16
from soundstorm.schemas import Reason

RATE = 44_100


def tone(frequency_hz: float = 1000.0, duration_s: float = 0.5, rate: int = RATE, amplitude: float = 0.5) -> np.ndarray:
    time_s = np.arange(round(duration_s * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def noise(duration_s: float = 1.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(round(duration_s * RATE))).astype(np.float32)


def file_of(samples: np.ndarray, format: str = "WAV", subtype: str | None = None, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def rejection(data: bytes | Path) -> RejectedAudio:
    with pytest.raises(RejectedAudio) as caught:
        read_audio(data)
    return caught.value


@pytest.mark.parametrize(
    ("format", "subtype", "rate", "tolerance"),
    [
        ("WAV", "PCM_U8", 44_100, 0.01),
        ("WAV", "PCM_16", 44_100, 1e-4),
        ("WAV", "PCM_24", 96_000, 1e-4),
        ("WAV", "FLOAT", 44_100, 1e-4),
        ("WAV", "DOUBLE", 22_050, 1e-4),
        ("WAVEX", "PCM_16", 48_000, 1e-4),
        ("RF64", "PCM_16", 44_100, 1e-4),
        ("AIFF", "PCM_16", 44_100, 1e-4),
        ("AIFF", "FLOAT", 44_100, 1e-4),
        ("CAF", "PCM_24", 44_100, 1e-4),
        ("CAF", "ALAC_16", 44_100, 1e-4),
        ("W64", "PCM_16", 44_100, 1e-4),
        ("AU", "PCM_16", 44_100, 1e-4),
        ("AU", "ULAW", 22_050, 0.02),
        ("VOC", "PCM_16", 44_100, 1e-4),
        ("NIST", "PCM_16", 44_100, 1e-4),
        ("SVX", "PCM_16", 44_100, 1e-4),
        ("FLAC", "PCM_24", 44_100, 1e-4),
        ("OGG", "VORBIS", 44_100, 0.05),
        ("OGG", "OPUS", 48_000, 0.05),
        ("MP3", None, 44_100, 0.05),
    ],
)
def test_every_format_gives_the_same_tone_at_24_khz(
    format: str, subtype: str | None, rate: int, tolerance: float
) -> None:
    recording = read_audio(file_of(tone(rate=rate), format, subtype, rate))
    assert (recording.original_rate, recording.channels, recording.is_silent) == (rate, 1, False)
    assert recording.original_duration_s == pytest.approx(0.5)
    assert recording.waveform.dtype == np.float32
    assert recording.waveform.shape == (12_000,)
    np.testing.assert_allclose(recording.waveform[3000:-3000], tone(rate=24_000)[3000:-3000], atol=tolerance)


def test_a_path_with_a_unicode_name_is_read_like_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "Vögel 鳥 🐦.flac"
    path.write_bytes(file_of(tone(), "FLAC"))
    np.testing.assert_array_equal(read_audio(path).waveform, read_audio(path.read_bytes()).waveform)


def test_eight_channels_are_averaged() -> None:
    channels = np.stack([tone(500.0 + 200 * index) for index in range(8)], axis=1)
    recording = read_audio(file_of(channels, subtype="FLOAT"))
    assert recording.channels == 8
    np.testing.assert_allclose(
        recording.waveform, read_audio(file_of(channels.mean(axis=1), subtype="FLOAT")).waveform, atol=1e-6
    )


def test_a_clip_of_a_twentieth_of_a_second_is_accepted() -> None:
    assert read_audio(file_of(tone(duration_s=0.05))).waveform.shape == (1200,)


def test_a_single_sample_is_accepted() -> None:
    assert read_audio(file_of(tone()[1:2])).waveform.shape == (1,)


def test_what_lies_beyond_the_longest_duration_is_cut_and_the_full_length_reported() -> None:
    recording = read_audio(file_of(noise(2.0), "FLAC"), max_duration_s=0.75)
    assert recording.waveform.shape == (18_000,)
    assert recording.original_duration_s == pytest.approx(2.0)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_digital_silence_is_flagged_and_comes_back_as_exact_zeros(format: str) -> None:
    recording = read_audio(file_of(np.zeros(RATE // 2), format))
    assert recording.is_silent
    assert not to_pcm16(recording.waveform).any()


def test_digital_silence_around_a_sound_stays_exactly_zero() -> None:
    padded = np.concatenate([np.zeros(RATE // 2), noise(0.5), np.zeros(RATE // 2)])
    recording = read_audio(file_of(padded))
    samples = to_pcm16(recording.waveform)
    assert not recording.is_silent
    assert not samples[:11_800].any()
    assert not samples[-11_800:].any()


def test_float_files_above_full_scale_are_scaled_and_keep_their_shape() -> None:
    loud = read_audio(file_of(tone(amplitude=2.5), subtype="FLOAT"), RATE).waveform
    np.testing.assert_allclose(loud, tone(amplitude=1.0), atol=1e-3)


def test_the_result_never_exceeds_full_scale() -> None:
    square = np.sign(tone(440.0, amplitude=1.0))
    assert np.abs(read_audio(file_of(square, subtype="PCM_24")).waveform).max() <= 1.0


def test_bytes_that_are_no_audio_are_rejected_as_such() -> None:
    assert rejection(b"").reason is Reason.EMPTY_FILE
    assert rejection(b"The rain in Spain stays mainly in the plain.\n" * 50).reason is Reason.NOT_AUDIO
    assert rejection(np.random.default_rng(0).bytes(10_000)).reason is Reason.NOT_AUDIO


def test_missing_and_unreadable_files_are_told_apart(tmp_path: Path) -> None:
    assert rejection(tmp_path / "nothing.wav").reason is Reason.MISSING_FILE
    assert rejection(tmp_path).reason is Reason.UNREADABLE_FILE


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("WAVEX", "PCM_24"),
        ("RF64", "PCM_16"),
        ("FLAC", None),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", None),
        ("AIFF", "PCM_16"),
        ("CAF", "PCM_24"),
        ("W64", "PCM_16"),
        ("AU", "PCM_16"),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_was_cut_short_is_rejected_as_truncated(format: str, subtype: str | None, share: float) -> None:
    data = file_of(noise(), format, subtype, 48_000 if subtype == "OPUS" else RATE)
    assert rejection(data[: int(len(data) * share)]).reason is Reason.TRUNCATED


@pytest.mark.parametrize("length", [8, 20, 40])
def test_a_wav_file_that_ends_in_its_header_is_truncated(length: int) -> None:
    assert rejection(file_of(tone())[:length]).reason is Reason.TRUNCATED


def test_an_ogg_file_cut_between_two_pages_is_truncated() -> None:
    data = file_of(noise(3.0), "OGG", "VORBIS")
    assert rejection(data[: data.rfind(b"OggS")]).reason is Reason.TRUNCATED


def test_a_flac_file_with_damage_in_the_middle_is_truncated() -> None:
    data = bytearray(file_of(noise(), "FLAC"))
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    assert rejection(bytes(data)).reason is Reason.TRUNCATED


def test_truncation_beyond_the_longest_duration_is_found_too() -> None:
    data = file_of(noise(2.0), "MP3")
    with pytest.raises(RejectedAudio) as caught:
        read_audio(data[: int(len(data) * 0.9)], max_duration_s=0.5)
    assert caught.value.reason is Reason.TRUNCATED


def test_the_placeholder_size_of_a_streamed_wav_file_promises_nothing() -> None:
    data = bytearray(file_of(tone()))
    struct.pack_into("<I", data, data.find(b"data") + 4, 0xFFFFFFFF)
    assert read_audio(bytes(data)).waveform.shape == (12_000,)


def test_headers_without_samples_are_rejected() -> None:
    assert rejection(file_of(np.zeros(0))).reason is Reason.NO_SAMPLES
    assert rejection(file_of(np.zeros(0), "OGG")).reason is Reason.NO_SAMPLES


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_rejected_with_their_place(value: float) -> None:
    samples = tone()
    samples[RATE // 4] = value
    error = rejection(file_of(samples, subtype="FLOAT"))
    assert error.reason is Reason.NOT_FINITE
    assert "0.2500 s" in error.detail


def test_a_sample_rate_that_no_recording_has_is_rejected() -> None:
    assert rejection(file_of(tone(), rate=2_000_000_000)).reason is Reason.NOT_AUDIO


def test_an_odd_sample_rate_is_read_at_the_right_pitch_and_length() -> None:
    waveform = read_audio(file_of(tone(rate=44_099, duration_s=1.0), rate=44_099)).waveform
    assert abs(len(waveform) - 24_000) <= 1
    assert np.argmax(np.abs(np.fft.rfft(waveform[:24_000]))) == 1000


def test_the_resampler_passes_10_khz_and_stops_what_would_alias() -> None:
    passed = resample(tone(10_000.0, amplitude=1.0), RATE, 24_000)[2000:-2000]
    stopped = resample(tone(13_000.0, amplitude=1.0), RATE, 24_000)[2000:-2000]
    assert np.sqrt(2 * np.mean(passed**2)) == pytest.approx(1.0, abs=1e-3)
    assert np.abs(stopped).max() < 1e-5


def test_a_rejection_keeps_its_fields_across_processes() -> None:
    error = pickle.loads(pickle.dumps(RejectedAudio(Reason.NO_SAMPLES, "why")))  # noqa: S301 - made one line up
    assert (error.reason, error.detail, str(error)) == (Reason.NO_SAMPLES, "why", "no_samples: why")


def test_16_bit_samples_survive_the_way_to_float_and_back() -> None:
    every = np.arange(-32768, 32768).astype(np.int16)
    np.testing.assert_array_equal(to_pcm16(from_pcm16(every)), every)


def test_16_bit_samples_are_rounded_to_nearest_and_clipped() -> None:
    np.testing.assert_array_equal(to_pcm16(np.array([0.4, 0.6, -0.6, -0.4]) / 32768), [0, 1, -1, 0])
    np.testing.assert_array_equal(to_pcm16(np.array([1.0, 7.0, -1.0, -7.0])), [32767, 32767, -32768, -32768])


@pytest.mark.parametrize("format", ["flac", "wav"])
def test_an_encoded_file_holds_exactly_the_16_bit_samples(format: str) -> None:
    waveform = noise(0.2)
    read, rate = soundfile.read(io.BytesIO(encode_audio(waveform, 24_000, format)), dtype="int16")  # type: ignore[arg-type]
    assert rate == 24_000
    np.testing.assert_array_equal(read, to_pcm16(waveform))


def test_what_cannot_be_a_file_is_not_encoded() -> None:
    for waveform in (np.zeros(0), np.zeros((2, 5)), np.array([0.0, np.nan])):
        with pytest.raises(ValueError, match="waveform of shape"):
            encode_audio(waveform, 24_000)
    with pytest.raises(ValueError, match="choose flac or wav"):
        encode_audio(np.zeros(5), 24_000, "aac")  # type: ignore[arg-type]


def test_real_ogg_recordings_are_read_whole(esc50: Path) -> None:
    for path in sorted((esc50 / "audio").iterdir())[::200]:
        recording = read_audio(path)
        assert len(recording.waveform) == pytest.approx(recording.original_duration_s * 24_000, abs=1)
        assert recording.original_rate in (RATE, 48_000)
