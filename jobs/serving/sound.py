"""The result of a request: a sound, or an error."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from soundstorm.errors import SoundStormError


@dataclass(kw_only=True, frozen=True)
class Sound:
    """A generated sound."""

    audio: bytes
    """A 16-bit mono FLAC or WAV file."""
    samples_N: np.ndarray
    """int16 (N,), the content of the file."""
    sample_rate: int
    recipe: dict[str, Any]
    """The recipe that `generate` writes beside a clip, and from which it reproduces the clip (`--recipe`)."""
    seconds: float
    """Seconds from the request to the sound, waiting included."""


class UploadTooLargeError(SoundStormError):
    """An upload exceeds the limit."""


class BusyError(SoundStormError):
    """The limit of concurrent requests is reached."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(BusyError):
    """No replica could generate the sound in time."""
