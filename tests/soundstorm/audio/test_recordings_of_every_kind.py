"""Recordings that libsndfile alone does not read, or not whole: M4A, WebM and video through PyAV, bare MP3 frames,
headers of 0 bytes."""

import builtins
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import pytest
import soundfile

from soundstorm.audio.file_kinds import AUDIO_SUFFIXES, is_audio
from soundstorm.audio.files import RejectedAudio, duration_of, read_audio
from soundstorm.schemas import Reason

RATE = 44_100
DURATION_S = 5.0


def sound(rate: int = RATE, duration_s: float = DURATION_S) -> np.ndarray:
    """A tone that grows louder, and noise, float32 (N,)."""
    time_s = np.arange(round(duration_s * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * time_s) * time_s / duration_s
    return (tone + 0.02 * np.random.default_rng(0).standard_normal(len(time_s))).astype(np.float32)


def made_by_ffmpeg(
    path: Path,
    codec: str,
    format: str | None = None,
    rate: int = RATE,
    options: dict[str, str] | None = None,
    **changes: Any,
) -> Path:
    """A file with `sound` in it; `options` are the container's, `changes` attributes of the encoder."""
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=changes.pop("codec_options", {}))
        stream.codec_context.layout = "mono"
        for name, value in changes.items():
            setattr(stream.codec_context, name, value)
        frame = av.AudioFrame.from_ndarray(sound(rate)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", rate, frame_size=stream.codec_context.frame_size or 1024
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def silent_video(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def level_db(found: np.ndarray, expected: np.ndarray) -> float:
    """Level of the difference against that of `expected`, at the best of a few hundred delays."""
    spectrum = np.fft.rfft(found, 2**18) * np.conj(np.fft.rfft(expected, 2**18))
    delay = int(np.argmax(np.fft.irfft(spectrum)[:4000]))
    length = min(len(found) - delay, len(expected))
    return float(
        10 * np.log10(np.mean((found[delay:][:length] - expected[:length]) ** 2) / np.mean(expected[:length] ** 2))
    )


@pytest.fixture(scope="module")
def without_pyav() -> Callable[[pytest.MonkeyPatch], None]:
    """Makes `import av` fail as it does where PyAV is not installed."""
    imported = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "av":
            raise ModuleNotFoundError("No module named 'av'")
        return imported(name, *rest, **named)

    return lambda patch: patch.setattr(builtins, "__import__", refuse)


# ---- what ffmpeg reads


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.m4a", "aac", RATE),
        ("a.mp4", "aac", RATE),
        ("a.aac", "aac", RATE),
        ("a.mka", "aac", RATE),
        ("a.webm", "libopus", 48_000),
    ],
)
def test_compressed_sound_comes_back_whole_and_alike(name: str, codec: str, rate: int, tmp_path: Path) -> None:
    path = made_by_ffmpeg(tmp_path / name, codec, rate=rate)
    recording = read_audio(path)
    assert (recording.original_rate, recording.channels) == (rate, 1)
    assert recording.original_duration_s == pytest.approx(DURATION_S, abs=0.06)
    assert len(recording.waveform) == pytest.approx(recording.original_duration_s * 24_000, abs=1)
    with av.open(str(path)) as container:
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    if codec != "aac":  # whose decoder draws its noise anew
        np.testing.assert_allclose(read_audio(path, rate).waveform, np.clip(decoded, -1, 1), atol=1e-6)
    assert len(read_audio(path, rate).waveform) == len(decoded)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(120_000) / 24_000) * np.arange(120_000) / 120_000
    assert level_db(recording.waveform, tone) < -12  # the noise beside the tone is 17 dB below it


def test_wma_is_read(tmp_path: Path) -> None:
    recording = read_audio(made_by_ffmpeg(tmp_path / "a.wma", "wmav2", bit_rate=128_000))
    assert recording.original_duration_s == pytest.approx(DURATION_S, abs=0.1)
    assert np.sqrt(np.mean(recording.waveform**2)) == pytest.approx(np.sqrt(np.mean(sound() ** 2)), rel=0.05)


@pytest.mark.parametrize(("name", "codec", "rate"), [("a.webm", "libopus", 48_000), ("a.aac", "aac", RATE)])
def test_a_window_of_compressed_sound_is_that_part_of_the_whole(
    name: str, codec: str, rate: int, tmp_path: Path
) -> None:
    path = made_by_ffmpeg(tmp_path / name, codec, rate=rate)
    whole = read_audio(path).waveform
    np.testing.assert_allclose(
        read_audio(path, max_duration_s=1.0, start_s=3.0).waveform, whole[72_000:96_000], atol=1e-4
    )


@pytest.mark.parametrize("start_s", [2.0, 3.7])
def test_a_jump_in_an_m4a_file_lands_at_its_place(start_s: float, tmp_path: Path) -> None:
    """The noise that AAC draws anew at each decoding differs, the rest is where it was."""
    path = made_by_ffmpeg(tmp_path / "a.m4a", "aac", bit_rate=256_000)
    whole, window = read_audio(path).waveform, read_audio(path, max_duration_s=1.0, start_s=start_s).waveform
    first = round(start_s * 24_000)
    errors = [float(np.mean((whole[first + delay :][: len(window)] - window) ** 2)) for delay in range(-30, 31)]
    assert int(np.argmin(errors)) == 30


def test_a_video_without_a_sound_track_has_no_samples(tmp_path: Path) -> None:
    with pytest.raises(RejectedAudio, match="MP4 or M4A without a sound track") as caught:
        read_audio(silent_video(tmp_path / "a.mp4"))
    assert caught.value.reason is Reason.NO_SAMPLES


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("faststart", [False, True])
def test_an_m4a_file_that_was_cut_short_is_truncated(share: float, faststart: bool, tmp_path: Path) -> None:
    path = made_by_ffmpeg(tmp_path / "a.m4a", "aac", options={"movflags": "faststart"} if faststart else {})
    content = path.read_bytes()
    with pytest.raises(RejectedAudio) as caught:
        read_audio(content[: int(len(content) * share)])
    assert caught.value.reason is Reason.TRUNCATED


def test_where_pyav_is_missing_the_reason_names_the_extra_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pyav: Callable[[pytest.MonkeyPatch], None]
) -> None:
    path = made_by_ffmpeg(tmp_path / "a.m4a", "aac")
    without_pyav(monkeypatch)
    with pytest.raises(
        RejectedAudio, match=r"MP4 or M4A: install PyAV, which reads it: pip install 'soundstorm-env\[av\]'"
    ) as caught:
        read_audio(path)
    assert caught.value.reason is Reason.NEEDS_PYAV


def test_pictures_and_texts_are_not_given_to_ffmpeg() -> None:
    for content in (
        b"\x89PNG\r\n\x1a\n" + bytes(500),
        b"GIF89a" + bytes(500),
        b"1\n00:00:00,000 --> 00:00:01,000\nrain\n",
        b"%PDF-1.7\n" * 50,
    ):
        with pytest.raises(RejectedAudio) as caught:
            read_audio(content)
        assert caught.value.reason is Reason.NOT_AUDIO


def test_endings_tell_recordings_from_other_files() -> None:
    assert all(is_audio(f"a/B{suffix.upper()}") for suffix in AUDIO_SUFFIXES)
    assert not any(is_audio(name) for name in ("notes.txt", ".DS_Store", "cover.jpg", "wav", "a.csv", "a.ts"))


# ---- lengths that no header tells


@pytest.mark.parametrize("is_here", [True, False], ids=["with PyAV", "without"])
@pytest.mark.parametrize(
    "encoder",
    [
        {"bit_rate": 128_000},
        {"bit_rate": 64_000},
        {"codec_options": {"flags": "+qscale", "global_quality": "472"}},
    ],
    ids=["128 kbps", "64 kbps", "variable"],
)
@pytest.mark.parametrize("tag", ["0", "3"], ids=["bare", "with an ID3 tag"])
def test_mp3_files_of_bare_frames_are_read_to_their_end(
    encoder: dict[str, Any],
    tag: str,
    is_here: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_pyav: Callable[[pytest.MonkeyPatch], None],
) -> None:
    path = made_by_ffmpeg(
        tmp_path / "a.mp3", "libmp3lame", "mp3", options={"write_xing": "0", "id3v2_version": tag}, **dict(encoder)
    )
    with av.open(str(path)) as container:
        expected = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    if not is_here:
        without_pyav(monkeypatch)
    recording = read_audio(path, RATE)
    assert recording.original_duration_s == pytest.approx(
        193 * 1152 / RATE
    )  # 5.04 s: the sound and the encoder's delay, in whole frames
    np.testing.assert_allclose(
        recording.waveform[:-1], np.clip(expected, -1, 1)[: len(recording.waveform) - 1], atol=1e-5
    )


def test_a_part_of_a_bare_mp3_file_is_at_its_place(tmp_path: Path) -> None:
    path = made_by_ffmpeg(
        tmp_path / "a.mp3",
        "libmp3lame",
        "mp3",
        options={"write_xing": "0"},
        codec_options={"flags": "+qscale", "global_quality": "472"},
    )
    whole = read_audio(path, RATE).waveform
    np.testing.assert_allclose(read_audio(path, RATE, 1.0, start_s=2.0).waveform, whole[2 * RATE : 3 * RATE], atol=1e-4)


def test_an_mp3_file_with_its_header_has_the_length_of_the_sound(tmp_path: Path) -> None:
    assert read_audio(made_by_ffmpeg(tmp_path / "a.mp3", "libmp3lame", "mp3"), RATE).waveform.shape == (
        round(DURATION_S * RATE),
    )


def wav_of(samples: np.ndarray, told_bytes: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    content = bytearray(file.getvalue())
    struct.pack_into("<I", content, content.find(b"data") + 4, told_bytes)
    return bytes(content)


def test_a_wav_header_of_0_bytes_before_sound_is_taken_for_a_placeholder() -> None:
    samples = sound(duration_s=0.5)
    for told in (0, 0xFFFFFFFF):
        recording = read_audio(wav_of(samples, told), RATE)
        assert recording.original_duration_s == pytest.approx(0.5)
        np.testing.assert_allclose(recording.waveform, samples, atol=1e-4)


def test_a_wav_file_of_0_bytes_with_chunks_behind_is_empty_indeed() -> None:
    header = wav_of(np.zeros(0, np.float32), 0)
    with pytest.raises(RejectedAudio) as caught:
        read_audio(header + b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert caught.value.reason is Reason.NO_SAMPLES


# ---- long recordings


class Counted(io.FileIO):
    """A file that counts what is read of it."""

    num_bytes = 0

    def readinto(self, buffer: Any) -> int:
        found = super().readinto(buffer) or 0
        self.num_bytes += found
        return found

    def read(self, size: int = -1) -> bytes:
        content = super().read(size) or b""
        self.num_bytes += len(content)
        return content


def test_of_a_long_wav_file_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(sound(8_000, 10.0), 60), 8_000, subtype="PCM_16")
    with Counted(path) as counted:
        file: BinaryIO = counted  # type: ignore[assignment]
        recording = read_audio(file, max_duration_s=5.0)
        assert recording.original_duration_s == 600.0
        assert counted.num_bytes < 200_000  # 5 s are 80,000 bytes, the file has 9,600,000
        middle = read_audio(file, max_duration_s=5.0, start_s=300.0)
        assert counted.num_bytes < 400_000
    np.testing.assert_allclose(middle.waveform[100:], recording.waveform[100:], atol=1e-3)  # every 10 s are alike


def test_what_is_longer_than_is_held_at_once_is_decoded_twice_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(
        path, np.stack([sound(duration_s=30.0), -sound(duration_s=30.0) + 0.1], axis=1), RATE, subtype="PCM_16"
    )
    held = read_audio(path)
    monkeypatch.setattr("soundstorm.audio.files._HELD_VALUES", 1000)
    again = read_audio(path)
    np.testing.assert_array_equal(again.waveform, held.waveform)
    assert again.notes == held.notes


def test_windows_of_a_recording_are_parts_of_it_without_a_seam(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sound(duration_s=6.0), RATE, subtype="PCM_16")
    whole = read_audio(path).waveform
    parts = [read_audio(path, max_duration_s=2.0, start_s=start).waveform for start in (0.0, 2.0, 4.0)]
    np.testing.assert_allclose(np.concatenate(parts)[50:-50], whole[50:-50], atol=1e-4)


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]
)
def test_the_length_of_a_recording_is_that_of_its_header(format: str, subtype: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a", sound(), RATE, format=format, subtype=subtype)
    assert duration_of(tmp_path / "a") == pytest.approx(DURATION_S)
