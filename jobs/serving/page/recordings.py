"""Recordings that visitors upload or record."""

import asyncio
from pathlib import Path

from jobs.serving.limits import Limits
from jobs.serving.page.pictures import picture_of
from jobs.serving.page.sound_store import StoredSound
from jobs.serving.uploads import whole_of
from soundstorm.audio.files import encode_audio, to_pcm16
from soundstorm.errors import SoundStormError

MAX_NAME_LENGTH = 60


async def recording_of(path: Path, sample_rate: int, limits: Limits) -> StoredSound:
    """Decode an uploaded file for editing.

    Args:
        path: path of the file.
        sample_rate: sample rate for editing.
        limits: limits of duration and size.

    Raises:
        SoundStormError: it is not a recording, or too large.
    """
    return await asyncio.to_thread(_decoded, path, sample_rate, limits)


def _decoded(path: Path, sample_rate: int, limits: Limits) -> StoredSound:
    name = path.name if len(path.name) <= MAX_NAME_LENGTH else f"{path.name[: MAX_NAME_LENGTH - 1]}…"
    data = path.read_bytes()
    if len(data) > limits.upload_bytes:
        raise SoundStormError(
            f"the file {name} has {len(data) / 1e6:.1f} MB: give a file of at most {limits.upload_bytes / 1e6:g} MB."
        )
    recording = whole_of(data, f"the file {name}", sample_rate, limits.longest_s)
    return StoredSound(
        category=None,
        kind="Recording",
        name=name,
        audio=encode_audio(recording.waveform, sample_rate),
        picture=picture_of(to_pcm16(recording.waveform), sample_rate),
        upload=data,
    )
