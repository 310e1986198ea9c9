"""What somebody who asks gets: a sound, or why there is none."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from soundstorm.errors import SoundStormError


@dataclass(kw_only=True, frozen=True)
class Sound:
    """A sound that was made."""

    audio: bytes
    """A 16-bit mono FLAC or WAV file."""
    samples_N: np.ndarray
    """int16 (N,), what is in the file."""
    sample_rate: int
    recipe: dict[str, Any]
    """The JSON file that `generate` writes beside a clip, and makes the clip from again (`--recipe`)."""
    seconds: float
    """From the request to the sound, with the time that it waited."""


class UploadTooLargeError(SoundStormError):
    """An upload is larger than what is taken."""


class BusyError(SoundStormError):
    """As many wait already as may wait."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(BusyError):
    """No replica could make the sound in time."""
