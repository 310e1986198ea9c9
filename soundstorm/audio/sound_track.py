"""Opens any recording, with libsndfile or else with ffmpeg; both read blocks of frames from any position, so memory use
stays small.

Legend: N frames, C channels.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile

from soundstorm.audio.ffmpeg_track import FfmpegTrack
from soundstorm.audio.file_kinds import FFMPEG_REMEDY, RejectedAudio, container_of
from soundstorm.audio.truncation import missing_end, read_at, size_of
from soundstorm.audio.unknown_length import with_length
from soundstorm.schemas import Reason

MAX_RATE = 1_000_000
"""Highest sample rate that is accepted."""
BLOCK_VALUES = 1 << 19
"""Samples of all channels that are decoded at once."""

_NUMBERS = ("MAT4", "MAT5")
"""Formats of libsndfile that store arbitrary matrices, not only sound."""
_WALKED = ("WAV", "WAVEX", "RF64", "AIFF", "W64", "CAF", "AU")
"""Formats whose declared size `missing_end` has compared with the size of the file, so it is known to be right."""
_UNKNOWN_FRAMES = 2**62
"""libsndfile reports more frames than this for a FLAC file that was written to a pipe and does not state its length."""


class Track(Protocol):
    """The audio of a recording."""

    sample_rate: int
    """Frames per second."""
    channels: int
    num_frames: int | None
    """According to the header; None if it does not say."""
    is_floating: bool
    """Whether the file stores floating-point numbers, which may exceed 1."""
    is_exact: bool
    """Whether `num_frames` is exact, so that fewer decoded frames mean a truncated file."""
    is_whole: bool
    """Whether the file is known to contain all frames that its header states."""

    def seek(self, frame: int) -> None:
        """Move to a frame."""

    def read(self, num_frames: int) -> np.ndarray:
        """The next frames, float32 (N, C); fewer than asked for only at the end."""


class Guarded(io.RawIOBase):
    """A file that remembers its errors, because libsndfile's callbacks swallow them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OverflowError):  # a damaged header points outside of the file
            return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._file.read(len(buffer))
        except Exception as error:
            self.error = self.error or error
            raise
        buffer[: len(content)] = content
        return len(content)

    def check(self) -> None:
        """Raise the error that occurred while the file was read, if any."""
        if isinstance(self.error, OSError):
            raise RejectedAudio(
                Reason.UNREADABLE_FILE, f"the file cannot be read: {self.error.strerror or self.error}"
            ) from self.error
        if self.error is not None:
            raise self.error


def open_file(source: bytes | Path | BinaryIO) -> BinaryIO:
    """Open content, a path or an already open file for reading.

    Raises:
        RejectedAudio: the file is missing or cannot be read.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not isinstance(source, Path):
        return source
    try:
        return source.open("rb")
    except FileNotFoundError:
        raise RejectedAudio(Reason.MISSING_FILE, f"{source} does not exist") from None
    except OSError as error:
        raise RejectedAudio(Reason.UNREADABLE_FILE, f"{source} cannot be read: {error.strerror}") from error


def open_track(file: BinaryIO) -> Track:
    """The audio of a file, which must stay open while it is read.

    Raises:
        RejectedAudio: the file is empty, not audio, truncated as far as its container shows, without samples, or needs
            PyAV, which is not installed.
    """
    guarded = Guarded(file)
    if not size_of(guarded):  # type: ignore[arg-type]
        raise RejectedAudio(Reason.EMPTY_FILE, "the file has 0 bytes")
    missing = missing_end(guarded)  # type: ignore[arg-type]
    if missing:
        raise RejectedAudio(Reason.TRUNCATED, missing)
    track = _open(guarded)
    if not 0 < track.sample_rate <= MAX_RATE:
        raise RejectedAudio(
            Reason.NOT_AUDIO, f"the header says {track.sample_rate} samples per second, the maximum is {MAX_RATE}"
        )
    if track.num_frames == 0:
        raise RejectedAudio(Reason.NO_SAMPLES, "the file has a header and no samples")
    return track


def blocks(track: Track, first: int, num_frames: int | None) -> Iterator[np.ndarray]:
    """Blocks of frames, float32 (N, C), from frame `first` on; `num_frames` in all, or up to the end if that is
    None."""
    size = max(1, BLOCK_VALUES // track.channels)
    track.seek(first)
    left = num_frames
    while left is None or left > 0:
        block_NC = track.read(size if left is None else min(size, left))
        if not len(block_NC):
            return
        left = None if left is None else left - len(block_NC)
        yield block_NC


class _SndfileTrack:
    """A recording that libsndfile can read."""

    def __init__(self, file: soundfile.SoundFile, guarded: Guarded, foreign: int) -> None:
        self._file, self._guarded, self._foreign = file, guarded, foreign
        self.sample_rate, self.channels = file.samplerate, file.channels
        self.num_frames = None if file.frames > _UNKNOWN_FRAMES else max(0, file.frames - foreign)
        self.is_floating = file.subtype in ("FLOAT", "DOUBLE")
        self.is_exact, self.is_whole = True, file.format in _WALKED
        self._position = 0

    def seek(self, frame: int) -> None:
        try:
            self._file.seek(min(frame, self.num_frames or frame) + self._foreign)
        except soundfile.LibsndfileError as error:
            self._guarded.check()
            raise RejectedAudio(Reason.TRUNCATED, f"frame {frame} cannot be reached: {error.error_string}") from error
        self._guarded.check()
        self._position = frame

    def read(self, num_frames: int) -> np.ndarray:
        try:
            block_NC: np.ndarray = self._file.read(num_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            self._guarded.check()
            promised = "" if self.num_frames is None else f" of {self.num_frames} frames"
            detail = f"decoding stops after {self._position}{promised}: {error.error_string}"
            raise RejectedAudio(Reason.TRUNCATED, detail) from error
        self._guarded.check()
        self._position += len(block_NC)
        return block_NC


def _open(guarded: Guarded) -> Track:
    head = read_at(guarded, 0, 256)  # type: ignore[arg-type]
    complete, foreign = with_length(guarded)  # type: ignore[arg-type]
    try:
        file = soundfile.SoundFile(complete)
    except soundfile.LibsndfileError as error:
        guarded.check()
        is_mp3 = head.startswith(b"\xff") and (b"Xing" in head or b"Info" in head)
        if is_mp3 or head.startswith(b"fLaC"):
            raise RejectedAudio(
                Reason.TRUNCATED, f"the content cannot be opened as audio: {error.error_string}"
            ) from error
        container = container_of(head)
        if container is None:
            raise RejectedAudio(
                Reason.NOT_AUDIO, f"the content cannot be opened as audio: {error.error_string}"
            ) from error
        try:
            return FfmpegTrack(guarded, container)
        except ModuleNotFoundError:
            raise RejectedAudio(Reason.NEEDS_PYAV, f"the content is {container}: {FFMPEG_REMEDY}") from error
    guarded.check()
    if file.format in _NUMBERS:
        raise RejectedAudio(
            Reason.NOT_AUDIO, f"its format is {file.format}, which may hold any numbers: convert it to WAV or FLAC"
        )
    return _SndfileTrack(file, guarded, foreign)
