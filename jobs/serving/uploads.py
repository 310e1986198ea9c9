"""Decoding of uploaded recordings, by their content, not their file names."""

from soundstorm.audio.files import Recording, RejectedAudio, read_audio
from soundstorm.errors import SoundStormError


def beginning_of(upload: bytes, what: str, sample_rate: int, longest_s: float) -> Recording:
    """The first `longest_s` seconds of a recording.

    Args:
        upload: content of its file.
        what: its name in errors.
        sample_rate: samples per second of the result.
        longest_s: maximum duration of the result.

    Raises:
        SoundStormError: it is not a recording.
    """
    try:
        return read_audio(upload, sample_rate, longest_s)
    except RejectedAudio as error:
        raise SoundStormError(f"{what} cannot be used ({error}): give a WAV, FLAC, Ogg or MP3 file") from error


def whole_of(upload: bytes, what: str, sample_rate: int, longest_s: float) -> Recording:
    """A complete recording; arguments as in `beginning_of`.

    Raises:
        SoundStormError: it is not a recording, or longer than `longest_s`.
    """
    recording = beginning_of(upload, what, sample_rate, longest_s)
    if recording.original_duration_s > longest_s:
        raise SoundStormError(
            f"{what} has {recording.original_duration_s:.1f} s: give a part of it of at most {longest_s:g} s"
        )
    return recording
