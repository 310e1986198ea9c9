"""What can go wrong within a trial, as a sentence: the study notes it and goes on."""

import torch

from soundstorm.errors import SoundStormError

MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def failure_reason(error: Exception) -> str | None:
    """Why a trial cannot go on, for an error that its settings are to blame for; None for any other, after which it is
    begun again."""
    if isinstance(error, SoundStormError):
        return str(error)
    text = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text.lower() for sign in MEMORY_SIGNS):
        return (
            f"out of memory ({text or type(error).__name__}): search smaller networks or batches, or fewer trials "
            "at a time"
        )
    return None
