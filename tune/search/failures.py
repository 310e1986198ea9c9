"""Errors within a trial as sentences: the study records them and continues."""

import torch

from soundstorm.errors import SoundStormError
from soundstorm.serialization.damaged import one_line

MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def failure_reason(error: Exception) -> str | None:
    """Why a trial cannot continue, for an error that its settings cause; None for any other error, after which the
    trial is restarted."""
    if isinstance(error, SoundStormError):
        return str(error)
    text = one_line(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text.lower() for sign in MEMORY_SIGNS):
        return (
            f"out of memory ({text or type(error).__name__}): search smaller networks or batches, or fewer trials "
            "at a time"
        )
    return None
