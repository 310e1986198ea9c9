"""Sound that libsndfile does not know, M4A and WMA and the sound tracks of videos, decoded by ffmpeg through PyAV.

Legend: N frames, C channels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from soundstorm.audio.rejected_audio import RejectedAudio
from soundstorm.schemas import Reason

SEEKABLE = "mov"
"""The format of ffmpeg, MP4 and M4A, whose time stamps are right after a jump; in others what lies before a place is
decoded and dropped."""
PRE_ROLL_S = 1.0
"""Before the place that is wanted: codecs need some frames to settle."""
MISSING_SHARE, MISSING_S = 0.02, 0.2
"""A file that gives less than its header promises by more than both of these was cut short."""


class FfmpegTrack:
    """The first sound track of a file.

    Args:
        file: any file with `read`, `seek` and `tell`.
        container: what the file is, in words, for errors.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
        RejectedAudio: it cannot be opened, or has no sound track.
    """

    is_floating = is_exact = is_whole = False

    def __init__(self, file: Any, container: str) -> None:
        import av

        self._file, self._kind, self._av = file, container, av
        self._open()
        rate, channels = (
            getattr(self._stream, "rate", None),
            getattr(self._stream, "channels", None),
        )  # without a known codec there are none
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
        """The file from its start: a jump to there would lose the first frame of some."""
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
        """Go to a frame."""
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
        """Frames by the header of the stream, or else of the file."""
        if self._stream.duration and self._stream.time_base:
            return round(self._stream.duration * self._stream.time_base * self.sample_rate)
        return round(self._container.duration / 1_000_000 * self.sample_rate) if self._container.duration else None

    def _decoded(self, first: int, by_time: bool) -> Iterator[np.ndarray]:
        """Blocks of frames from `first` on, (N, C)."""
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
                Reason.TRUNCATED, f"decoding breaks off at {(at or 0) / self.sample_rate:.2f} s: {_cause(error)}"
            ) from error

    def _require_whole(self, decoded: int) -> None:
        promised = self.num_frames or 0
        if promised - decoded > max(MISSING_SHARE * promised, MISSING_S * self.sample_rate):
            raise RejectedAudio(Reason.TRUNCATED, f"the header promises {promised} frames, {decoded} can be decoded")


def _cause(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
