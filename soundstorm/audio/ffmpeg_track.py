"""Audio formats that libsndfile cannot read (M4A, WMA, sound tracks of videos), decoded by ffmpeg through PyAV.

Legend: N frames, C channels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from soundstorm.audio.file_kinds import RejectedAudio
from soundstorm.schemas import Reason

SEEKABLE = "mov"
"""Name of ffmpeg's MP4 and M4A format, the one whose time stamps are correct after a seek; in other formats everything
before the wanted position is decoded and dropped."""
PRE_ROLL_S = 1.0
"""Seconds decoded before the wanted position: a codec needs some frames until its output is correct."""
MISSING_SHARE, MISSING_S = 0.02, 0.2
"""A file is truncated if its audio is shorter than the header says by more than both of these."""


class FfmpegTrack:
    """The first audio track of a file.

    Args:
        file: any file object with `read`, `seek` and `tell`.
        container: what the file is, as a phrase for errors.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
        RejectedAudio: the file cannot be opened, or has no audio track.
    """

    is_floating = is_exact = is_whole = False

    def __init__(self, file: Any, container: str) -> None:
        import av

        self._file, self._kind, self._av = file, container, av
        self._open()
        rate, channels = (
            getattr(self._stream, "rate", None),
            getattr(self._stream, "channels", None),
        )  # absent if ffmpeg does not know the codec
        self.sample_rate, self.channels = int(rate or 0), int(channels or 0)
        if not self.sample_rate or not self.channels:
            raise RejectedAudio(Reason.NOT_AUDIO, f"the content is {container} whose codec is unknown")
        self.num_frames = self._promised()
        self._frames: Iterator[np.ndarray] = iter(())
        self._held_NC = np.zeros((0, self.channels), np.float32)
        self._position = 0
        self._was_read = False
        self.seek(0)

    def _open(self) -> None:
        """Open the file again from its start: seeking back to 0 would lose the first frame in some formats."""
        self._file.seek(0)
        try:
            self._container = self._av.open(self._file, mode="r", metadata_errors="replace")
        except (self._av.FFmpegError, ValueError) as error:
            detail = f"the content is {self._kind} that cannot be opened ({_cause(error)}): it may be cut short"
            raise RejectedAudio(Reason.TRUNCATED, detail) from error
        if not self._container.streams.audio:
            raise RejectedAudio(Reason.NO_SAMPLES, f"the content is {self._kind} without a sound track")
        self._stream: Any = self._container.streams.audio[0]

    def seek(self, frame: int) -> None:
        """Move to a frame."""
        can_jump = SEEKABLE in self._container.format.name
        jump_s = max(0.0, frame / self.sample_rate - PRE_ROLL_S) if can_jump else 0.0
        if jump_s:
            self._container.seek(int(jump_s * 1_000_000))
        elif self._was_read:
            self._open()
        self._was_read = jump_s > 0
        self._held_NC = self._held_NC[:0]
        self._frames = self._decoded(frame, by_time=jump_s > 0)
        self._position = frame

    def read(self, num_frames: int) -> np.ndarray:
        """The next frames, float32 (N, C)."""
        self._was_read = True
        parts, held = [self._held_NC], len(self._held_NC)
        while held < num_frames:
            block_NC = next(self._frames, None)
            if block_NC is None:
                self._require_whole(self._position + held)
                break
            parts.append(block_NC)
            held += len(block_NC)
        all_NC = np.concatenate(parts)
        self._held_NC = all_NC[num_frames:]
        self._position += min(num_frames, held)
        return all_NC[:num_frames]

    def _promised(self) -> int | None:
        """Number of frames according to the header of the stream, or else of the container."""
        if self._stream.duration and self._stream.time_base:
            return round(self._stream.duration * self._stream.time_base * self.sample_rate)
        return round(self._container.duration / 1_000_000 * self.sample_rate) if self._container.duration else None

    def _decoded(self, first: int, by_time: bool) -> Iterator[np.ndarray]:
        """Blocks of frames (N, C) from frame `first` on."""
        resampler = self._av.AudioResampler(format="fltp", rate=self.sample_rate, layout=self._stream.layout)
        at: int | None = None if by_time else 0
        try:
            for frame in self._container.decode(self._stream):
                if at is None:
                    at = round((frame.time or 0.0) * self.sample_rate)
                for part in resampler.resample(frame):
                    block_NC = part.to_ndarray().T
                    skipped = min(max(0, first - at), len(block_NC))
                    at += len(block_NC)
                    if skipped < len(block_NC):
                        yield block_NC[skipped:]
        except self._av.FFmpegError as error:
            raise RejectedAudio(
                Reason.TRUNCATED, f"decoding stops at {(at or 0) / self.sample_rate:.2f} s: {_cause(error)}"
            ) from error

    def _require_whole(self, decoded: int) -> None:
        promised = self.num_frames or 0
        if promised - decoded > max(MISSING_SHARE * promised, MISSING_S * self.sample_rate):
            raise RejectedAudio(
                Reason.TRUNCATED, f"the header says {promised} frames, but only {decoded} can be decoded"
            )


def _cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
