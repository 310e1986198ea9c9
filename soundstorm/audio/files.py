"""Reading recordings and writing 16-bit files: decoding, the mix to mono, and the one sample rate that all comparisons
use.

Legend: N samples or frames, C channels.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile

from soundstorm.audio.downmix import Downmix, Levels
from soundstorm.audio.file_kinds import RejectedAudio
from soundstorm.audio.resampling import Resampler, resample
from soundstorm.audio.sound_track import Track, blocks, open_file, open_track
from soundstorm.schemas import Note, Reason

__all__ = ["Recording", "RejectedAudio", "encode_audio", "from_pcm16", "read_audio", "resample", "to_pcm16"]

SAMPLE_RATE = 24_000
"""Samples per second of all audio after `read_audio`."""
MAX_DURATION_S = 30.0
"""Default length in seconds to which recordings are cut."""
CHECKED_WHOLE_S = 600.0
"""A compressed recording of at most this length is decoded to its end, even if only its beginning is used, to detect
truncation."""
NEAR_SILENCE_DB = -70.0
"""A recording with a lower RMS gets the note that it is nearly silent: ten quantization steps of 16 bits."""
LOW_RATE = 16_000
"""A recording with a lower sample rate gets a note: it has nothing above its Nyquist frequency, where others have
sound."""

_MARGIN_S = 0.05
"""Extra audio read at both ends, where there is some, so that the resampler does not turn the cut into a click."""
_HELD_VALUES = 1 << 22
"""Samples of all channels that are kept in memory between the two passes; a longer recording is decoded twice."""
PEAK = 0.999
"""Maximum magnitude of a generated waveform."""
_PCM_BLOCK = 1 << 20


@dataclass(kw_only=True, frozen=True)
class Recording:
    """A decoded recording."""

    waveform: np.ndarray
    """float32 (N,), mono, within [-1, 1], at the requested sample rate."""
    original_rate: int
    """Samples per second of the file."""
    channels: int
    """Channels of the file."""
    original_duration_s: float
    """Duration of the file before it was cut."""
    is_silent: bool
    """True if every sample rounds to zero in 16 bits (digital silence)."""
    notes: tuple[str, ...] = ()
    """What was found and changed, each a `Note` and details: `offset: +0.900 of full scale was removed`."""


def read_audio(
    source: bytes | Path | BinaryIO,
    sample_rate: int = SAMPLE_RATE,
    max_duration_s: float = MAX_DURATION_S,
    start_s: float | None = None,
) -> Recording:
    """Decodes a recording of any sample rate, bit depth and number of channels, in any format of libsndfile, or of
    ffmpeg if PyAV is installed.

    Channels are averaged; if they cancel each other, the louder one is used. A DC offset is removed. Floating-point
    files that exceed full scale are scaled down to a peak of 1, which preserves their waveform; the small overshoots of
    lossy decoders and of the resampler are clipped, as any player does. Memory use is that of the result plus 60 MB,
    however long the file is.

    Args:
        source: the file's content, its path, or an open file, which is not closed.
        sample_rate: samples per second of the result.
        max_duration_s: the recording is cut to this length. What is cut off is still checked for truncation, except in
            compressed recordings of over ten minutes.
        start_s: where in the recording to begin. The caller then asks for a window, so there is no note that something
            was cut; None: at the start.

    Raises:
        RejectedAudio: the file is missing, unreadable, empty, not audio, truncated, without samples, or contains NaN or
            infinity.
    """
    file = open_file(source)
    try:
        return _read(open_track(file), sample_rate, max_duration_s, start_s)
    except OSError as error:
        raise RejectedAudio(Reason.UNREADABLE_FILE, f"the file cannot be read: {error.strerror or error}") from error
    finally:
        if file is not source:
            file.close()


def duration_of(source: bytes | Path | BinaryIO) -> float:
    """Duration of a recording in seconds: from its header, or counted by decoding if the header does not say.

    Raises:
        RejectedAudio: as `read_audio`, for what can be detected from the header.
    """
    file = open_file(source)
    try:
        track = open_track(file)
        num_frames = track.num_frames
        return (sum(map(len, blocks(track, 0, None))) if num_frames is None else num_frames) / track.sample_rate
    finally:
        if file is not source:
            file.close()


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """float (N,) in [-1, 1] to int16, rounded to nearest; values beyond full scale are clipped."""
    samples = np.empty(np.shape(waveform), np.int16)
    for first in range(0, len(waveform), _PCM_BLOCK):
        block = np.asarray(waveform[first : first + _PCM_BLOCK], dtype=np.float64)
        samples[first : first + _PCM_BLOCK] = np.clip(np.rint(block * 32768.0), -32768, 32767)
    return samples


def from_pcm16(samples: np.ndarray) -> np.ndarray:
    """int16 (N,) to float32 in [-1, 1); the exact inverse of `to_pcm16` on its own results."""
    return samples.astype(np.float32) / np.float32(32768.0)


def encode_audio(waveform: np.ndarray, sample_rate: int, format: Literal["flac", "wav"] = "flac") -> bytes:
    """A 16-bit mono FLAC or WAV file of float (N,).

    Raises:
        ValueError: the waveform is not one-dimensional, is empty or is not finite, or the format is unknown.
    """
    if format not in ("flac", "wav"):
        raise ValueError(f"audio format '{format}' is unknown: choose flac or wav")
    if waveform.ndim != 1 or waveform.size == 0 or not np.isfinite(waveform).all():
        raise ValueError(
            f"a waveform of shape {waveform.shape} cannot be written: give a one-dimensional array of finite samples, "
            "at least one"
        )
    file = io.BytesIO()
    soundfile.write(file, to_pcm16(waveform), sample_rate, format=format.upper(), subtype="PCM_16")
    return file.getvalue()


def _read(track: Track, sample_rate: int, max_duration_s: float, start_s: float | None) -> Recording:
    rate = track.sample_rate
    margin = round(_MARGIN_S * rate)
    first = round((start_s or 0.0) * rate)
    lead = min(first, margin)
    wanted = max(1, round(max_duration_s * rate))
    held: list[np.ndarray] | None = []
    levels, at = Levels(track.channels), 0
    for block_NC in blocks(track, first - lead, lead + wanted + margin):
        inner_NC = block_NC[max(0, lead - at) : max(0, lead + wanted - at)]
        if not np.isfinite(inner_NC).all():
            place = first + levels.num_frames + int(np.argmax(~np.isfinite(inner_NC).all(axis=1)))
            raise RejectedAudio(Reason.NOT_FINITE, f"NaN or infinite samples, the first at {place / rate:.4f} s")
        levels.add(inner_NC)
        at += len(block_NC)
        if held is not None:
            held = None if at * track.channels > _HELD_VALUES else [*held, block_NC]
    if not levels.num_frames:
        raise RejectedAudio(
            Reason.NO_SAMPLES,
            "the file has a header and no samples" if not first else f"there is no sound at {start_s:.2f} s",
        )
    num_frames = _length(track, first - lead + at, at == lead + wanted + margin, start_s is not None)
    downmix = levels.downmix(track.is_floating)
    again = held if held is not None else blocks(track, first - lead, at)
    waveform = _resampled(again, downmix, lead, levels.num_frames, rate, sample_rate)
    longest = max(1, round(max_duration_s * sample_rate))
    waveform = waveform[:longest]
    is_silent = max(waveform.max(), -waveform.min()) * 32768 <= 0.5  # rounds to 0
    duration_s = num_frames / rate
    notes = [*downmix.notes, *_level_notes(waveform, is_silent)]
    if rate < LOW_RATE:
        notes.append(f"{Note.LOW_RATE.value}: {rate} Hz, there is nothing above {rate / 2:g} Hz")
    if start_s is None and num_frames > levels.num_frames:
        notes.append(
            f"{Note.CUT.value}: {duration_s - levels.num_frames / rate:.2f} of {duration_s:.2f} s are not used"
        )
    return Recording(
        waveform=waveform,
        original_rate=rate,
        channels=track.channels,
        original_duration_s=duration_s,
        is_silent=bool(is_silent),
        notes=tuple(notes),
    )


def _length(track: Track, decoded: int, is_cut: bool, is_window: bool) -> int:
    """Number of frames of the whole file, of which `decoded` were decoded (all of them unless `is_cut`). Raises
    RejectedAudio if the file is truncated."""
    promised = track.num_frames
    if is_cut:
        is_long = promised is not None and promised > CHECKED_WHOLE_S * track.sample_rate
        if promised is not None and (track.is_whole or is_window or is_long):
            return promised
        decoded += sum(map(len, blocks(track, decoded, None)))
    if promised is not None and decoded < promised and track.is_exact:
        raise RejectedAudio(Reason.TRUNCATED, f"the header says {promised} frames, but only {decoded} can be decoded")
    return decoded


def _resampled(
    source: Iterable[np.ndarray], downmix: Downmix, lead: int, num_frames: int, rate: int, sample_rate: int
) -> np.ndarray:
    """Resample `num_frames` frames, which begin `lead` frames after the start of the blocks, and mix them to mono,
    float32 (N,)."""
    resampler = Resampler(rate, sample_rate)
    skipped, length = round(lead * sample_rate / rate), -(-num_frames * sample_rate // rate)
    waveform_N = np.zeros(length, np.float32)
    position, at = -lead, -skipped
    for block_NC in source:
        finite_NC = (
            np.nan_to_num(block_NC, nan=0.0, posinf=0.0, neginf=0.0)
            if position < 0 or position + len(block_NC) > num_frames
            else block_NC
        )
        at = _fill(waveform_N, at, resampler.feed(downmix.apply(finite_NC, position)))
        position += len(block_NC)
    _fill(waveform_N, at, resampler.finish())
    return np.clip(waveform_N, -1.0, 1.0, out=waveform_N)


def _fill(waveform_N: np.ndarray, at: int, part: np.ndarray) -> int:
    """Write `part` into the waveform at index `at`, clipped to its bounds; returns the index after it."""
    inner = part[max(0, -at) : max(0, len(waveform_N) - at)]
    waveform_N[max(0, at) : max(0, at) + len(inner)] = inner
    return at + len(part)


def _level_notes(waveform_N: np.ndarray, is_silent: bool) -> list[str]:
    if is_silent:
        return [f"{Note.SILENT.value}: every sample is 0"]
    power = sum(
        float(np.square(block, dtype=np.float64).sum())
        for block in np.array_split(waveform_N, len(waveform_N) // _PCM_BLOCK + 1)
    )
    level_db = 10 * float(np.log10(power / len(waveform_N)))
    return [f"{Note.NEAR_SILENT.value}: {level_db:.0f} dB of full scale"] if level_db < NEAR_SILENCE_DB else []
