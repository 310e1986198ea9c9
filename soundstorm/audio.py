"""Recordings in, 16-bit files out: decoding, the mix to mono, and the one sample rate that everything is compared at."""

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
import torchaudio.functional

from soundstorm.errors import SoundStormError
from soundstorm.schemas import Reason
from soundstorm.truncation import missing_end

SAMPLE_RATE = 24_000
"""Samples per second of everything after `read_audio`."""
MAX_DURATION_S = 30.0
"""Seconds of a recording that are kept unless the caller says otherwise."""

_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
_MAX_FILE_RATE = 1_000_000
_UNKNOWN_FRAMES = 2**62
"""libsndfile reports more frames than this when a FLAC file that was written to a pipe does not say how long it is."""
_BLOCK_FRAMES = 1 << 20

# The resampler's windowed sinc, as librosa's "kaiser_best": 64 zero crossings a side, pass band to 94.8% of the lower Nyquist
# frequency, stop band below -100 dB. With 80/147 (44.1 to 24 kHz) it takes 2 ms per 5 s.
_ZERO_CROSSINGS = 64
_ROLLOFF = 0.9475937167399596
_KAISER_BETA = 14.769656459379492
_MAX_DENOMINATOR = 300


class RejectedAudio(SoundStormError):  # noqa: N818 - named after the table it leads to
    """A recording that cannot be used; `reason` and `detail` become a row of the `rejected` table."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["RejectedAudio"], tuple[Reason, str]]:
        """Keeps both fields when the error crosses a process boundary."""
        return type(self), (self.reason, self.detail)


@dataclass(kw_only=True, frozen=True)
class Recording:
    """A decoded recording."""

    waveform: np.ndarray
    """float32 (N,), mono, within [-1, 1], at the sample rate asked for."""
    original_rate: int
    """Samples per second of the file."""
    channels: int
    """Channels of the file."""
    original_duration_s: float
    """Length of the file before it was cut."""
    is_silent: bool
    """True if every sample is zero once rounded to 16 bits (digital silence)."""


def read_audio(data: bytes | Path, sample_rate: int = SAMPLE_RATE, max_duration_s: float = MAX_DURATION_S) -> Recording:
    """Decodes a WAV, FLAC, Ogg (Vorbis, Opus) or MP3 file of any rate, depth and number of channels.

    Channels are averaged. Floating-point files may exceed full scale: those are scaled down to a peak of 1, which keeps their shape;
    the small overshoots of lossy decoders and of the resampler are clipped, as any player does.

    Args:
        data: the file's content, or its path.
        sample_rate: samples per second of the result.
        max_duration_s: what lies beyond is cut off; it must be whole, but is not looked at for NaN.

    Raises:
        RejectedAudio: the file is missing, unreadable, empty, not audio, truncated, without samples, or holds NaN or infinity.
    """
    content = _read_file(data) if isinstance(data, Path) else data
    if not content:
        raise RejectedAudio(Reason.EMPTY_FILE, "the file has 0 bytes")
    missing = missing_end(content)
    if missing:
        raise RejectedAudio(Reason.TRUNCATED, missing)
    with _open(content) as file:
        kept_NC, num_frames = _decode(file, max_duration_s)
        rate, channels, floating = file.samplerate, file.channels, file.subtype in ("FLOAT", "DOUBLE")
    if not np.isfinite(kept_NC).all():
        first = int(np.argmax(~np.isfinite(kept_NC).all(axis=1)))
        raise RejectedAudio(Reason.NOT_FINITE, f"NaN or infinite samples, the first at {first / rate:.4f} s")
    if floating:
        kept_NC = kept_NC / max(1.0, float(np.abs(kept_NC).max()))
    mono = kept_NC[:, 0] if channels == 1 else kept_NC.mean(axis=1, dtype=np.float64).astype(np.float32)
    longest = max(1, round(max_duration_s * sample_rate))
    waveform = np.ascontiguousarray(np.clip(resample(mono, rate, sample_rate)[:longest], -1.0, 1.0), dtype=np.float32)
    return Recording(
        waveform=waveform,
        original_rate=rate,
        channels=channels,
        original_duration_s=num_frames / rate,
        is_silent=not to_pcm16(waveform).any(),
    )


def resample(waveform: np.ndarray, original_rate: int, sample_rate: int) -> np.ndarray:
    """Changes the sample rate of float32 (N,) with a Kaiser-windowed sinc; zeros stay exact zeros.

    The ratio is taken exactly if its reduced denominator is at most 300, as all common rates have (44.1 to 24 kHz is 80/147), else as
    the nearest such fraction (44,056 Hz: 26 parts per million off), because the filter bank grows with the product of both.
    """
    if original_rate == sample_rate:
        return waveform
    ratio = Fraction(sample_rate, original_rate).limit_denominator(_MAX_DENOMINATOR)
    resampled = torchaudio.functional.resample(
        torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)),
        ratio.denominator,
        ratio.numerator,
        lowpass_filter_width=_ZERO_CROSSINGS,
        rolloff=_ROLLOFF,
        resampling_method="sinc_interp_kaiser",
        beta=_KAISER_BETA,
    )
    return resampled.numpy()


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """float (N,) in [-1, 1] to int16, rounded to nearest; what is beyond full scale is clipped."""
    return np.clip(np.rint(np.asarray(waveform, dtype=np.float64) * 32768.0), -32768, 32767).astype(np.int16)


def from_pcm16(samples: np.ndarray) -> np.ndarray:
    """int16 (N,) to float32 in [-1, 1); the exact inverse of `to_pcm16` on its own results."""
    return samples.astype(np.float32) / np.float32(32768.0)


def encode_audio(waveform: np.ndarray, sample_rate: int, format: Literal["flac", "wav"] = "flac") -> bytes:
    """A 16-bit mono FLAC or WAV file of float (N,).

    Raises:
        SoundStormError: the waveform is not one row of finite samples, or the format is another one.
    """
    if format not in ("flac", "wav"):
        raise SoundStormError(f"audio format '{format}' is unknown: choose flac or wav")
    if waveform.ndim != 1 or waveform.size == 0 or not np.isfinite(waveform).all():
        raise SoundStormError(f"a waveform of shape {waveform.shape} cannot be written: it must be one row of finite samples, at least one")
    file = io.BytesIO()
    soundfile.write(file, to_pcm16(waveform), sample_rate, format=format.upper(), subtype="PCM_16")
    return file.getvalue()


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RejectedAudio(Reason.MISSING_FILE, f"{path} does not exist") from None
    except OSError as error:
        raise RejectedAudio(Reason.UNREADABLE_FILE, f"{path} cannot be read: {error.strerror}") from error


def _open(content: bytes) -> soundfile.SoundFile:
    try:
        file = soundfile.SoundFile(io.BytesIO(content))
    except soundfile.LibsndfileError as error:
        is_mp3 = content.startswith(b"\xff") and (b"Xing" in content[:256] or b"Info" in content[:256])
        reason = Reason.TRUNCATED if is_mp3 or content.startswith(b"fLaC") else Reason.NOT_AUDIO
        raise RejectedAudio(reason, f"the content cannot be opened as audio: {error.error_string}") from error
    if file.format not in _FORMATS:
        raise RejectedAudio(Reason.NOT_AUDIO, f"its format is {file.format}: convert it to WAV, FLAC, Ogg or MP3")
    if not 0 < file.samplerate <= _MAX_FILE_RATE:
        raise RejectedAudio(Reason.NOT_AUDIO, f"the header says {file.samplerate} samples per second, the most is {_MAX_FILE_RATE}")
    return file


def _decode(file: soundfile.SoundFile, max_duration_s: float) -> tuple[np.ndarray, int]:
    """The first `max_duration_s` as float32 (N, C), and the number of frames in the whole file, which is decoded to its end."""
    promised = file.frames
    if promised > _UNKNOWN_FRAMES:
        raise RejectedAudio(Reason.UNREADABLE_FILE, "the header does not say how long the audio is: write the file anew, not through a pipe")
    if promised == 0:
        raise RejectedAudio(Reason.NO_SAMPLES, "the file has a header and no samples")
    wanted = max(1, round(max_duration_s * file.samplerate))
    decoded = 0
    blocks: list[np.ndarray] = []
    try:
        while len(block := file.read(min(_BLOCK_FRAMES, promised), dtype="float32", always_2d=True)):
            if decoded < wanted:
                blocks.append(block[: wanted - decoded])
            decoded += len(block)
    except soundfile.LibsndfileError as error:
        raise RejectedAudio(Reason.TRUNCATED, f"decoding breaks off after {decoded} of {promised} frames: {error.error_string}") from error
    if decoded < promised:
        raise RejectedAudio(Reason.TRUNCATED, f"the header promises {promised} frames, {decoded} can be decoded")
    return np.concatenate(blocks), decoded
