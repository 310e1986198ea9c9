"""Opening any recording: libsndfile reads it, or else ffmpeg; both give blocks of frames from any place, so that memory
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
from soundstorm.audio.file_kinds import FFMPEG_REMEDY, container_of
from soundstorm.audio.rejected_audio import RejectedAudio
from soundstorm.audio.truncation import missing_end, read_at, size_of
from soundstorm.audio.unknown_length import with_length
from soundstorm.schemas import Reason

MAX_RATE = 1_000_000
"""Samples per second of a file at most."""
BLOCK_VALUES = 1 << 19
"""Samples of all channels that are decoded at once."""

_NUMBERS = ("MAT4", "MAT5")
"""Formats of libsndfile that hold any matrix, and not just sound."""
_WALKED = ("WAV", "WAVEX", "RF64", "AIFF", "W64", "CAF", "AU")
"""Formats whose containers `missing_end` has compared with the file: what they promise is there."""
_UNKNOWN_FRAMES = 2**62
"""libsndfile reports more frames than this when a FLAC file that was written to a pipe does not say how long it is."""


class Track(Protocol):
    """The sound of a recording."""

    sample_rate: int
    """Frames per second."""
    channels: int
    num_frames: int | None
    """As the file says; None where it does not."""
    is_floating: bool
    """Whether the file holds floating-point numbers, which may exceed 1."""
    is_exact: bool
    """Whether `num_frames` is right to the frame, so that less means that the file was cut short."""
    is_whole: bool
    """Whether the file is known to hold all frames that it promises."""

    def seek(self, frame: int) -> None:
        """Go to a frame."""

    def read(self, num_frames: int) -> np.ndarray:
        """The next frames, float32 (N, C); fewer than asked for only at the end."""


class Guarded(io.RawIOBase):
    """A file whose errors are kept, because libsndfile's callbacks swallow them."""

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
        except (ValueError, OverflowError):  # a damaged header leads out of the file
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
        """Raise what went wrong, if anything did."""
        if isinstance(self.error, OSError):
            raise RejectedAudio(
                Reason.UNREADABLE_FILE, f"the file cannot be read: {self.error.strerror or self.error}"
            ) from self.error
        if self.error is not None:
            raise self.error


def open_file(source: bytes | Path | BinaryIO) -> BinaryIO:
    """Content, a path or a file as a file to read.

    Raises:
        RejectedAudio: it is missing or cannot be read.
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
    """The sound in a file; the file must stay open as long as it is read.

    Raises:
        RejectedAudio: it is empty, not audio, cut short as far as its container tells, needs PyAV where that is
            missing, or holds no frame.
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
            Reason.NOT_AUDIO, f"the header says {track.sample_rate} samples per second, the most is {MAX_RATE}"
        )
    if track.num_frames == 0:
        raise RejectedAudio(Reason.NO_SAMPLES, "the file has a header and no samples")
    return track


def blocks(track: Track, first: int, num_frames: int | None) -> Iterator[np.ndarray]:
    """Frames from `first` on, float32 (N, C), at most `num_frames` in all, or all there are."""
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
    """A recording that libsndfile reads."""

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
            raise RejectedAudio(Reason.TRUNCATED, f"there is no way to frame {frame}: {error.error_string}") from error
        self._guarded.check()
        self._position = frame

    def read(self, num_frames: int) -> np.ndarray:
        try:
            block_NC: np.ndarray = self._file.read(num_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            self._guarded.check()
            promised = "" if self.num_frames is None else f" of {self.num_frames} frames"
            detail = f"decoding breaks off after {self._position}{promised}: {error.error_string}"
            raise RejectedAudio(Reason.TRUNCATED, detail) from error
        self._guarded.check()
        self._position += len(block_NC)
        return block_NC


def _open(guarded: Guarded) -> Track:
    head = read_at(guarded, 0, 256)  # type: ignore[arg-type]
    told, foreign = with_length(guarded)  # type: ignore[arg-type]
    try:
        file = soundfile.SoundFile(told)
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
            Reason.NOT_AUDIO, f"its format is {file.format}, which holds any numbers: convert it to WAV or FLAC"
        )
    return _SndfileTrack(file, guarded, foreign)
