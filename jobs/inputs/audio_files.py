"""Reading of recordings by URI: local or remote, whole or a window of a longer one."""

import contextlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from cluster import storage
from cluster.errors import ClusterError, NotFoundError, StorageUnavailableError
from cluster.tables import tar_shards as tars
from soundstorm.audio.files import SAMPLE_RATE, Recording, RejectedAudio, duration_of, read_audio, to_pcm16
from soundstorm.data.clip_length import at_published_length, clip_length_s
from soundstorm.data.clip_windows import plan_windows, split_window
from soundstorm.schemas import Note, Reason
from soundstorm.serialization.recordings import CONTENT_BYTES, content_of

MAX_CLIP_S = 60.0
"""Default maximum duration of a clip; memory grows by 100 MB per minute."""

HEADER_READERS = 16
"""Threads that read the headers of recordings."""
CLIPS_AT_ONCE = 4096
"""Clips whose headers are read before they become rows of a table."""


@contextlib.contextmanager
def rejecting(uri: str) -> Iterator[None]:
    """Convert errors of storage and disk into RejectedAudio, except if the storage cannot be reached."""
    try:
        yield
    except StorageUnavailableError:
        raise
    except NotFoundError as error:
        raise RejectedAudio(Reason.MISSING_FILE, str(error)) from error
    except ClusterError as error:
        raise RejectedAudio(Reason.UNREADABLE_FILE if _exists(uri) else Reason.MISSING_FILE, str(error)) from error
    except OSError as error:
        raise RejectedAudio(Reason.UNREADABLE_FILE, f"the file cannot be read: {error.strerror or error}") from error


def open_recording(uri: str) -> BinaryIO:
    """Open a recording as a file; a large one is read on demand.

    Raises:
        RejectedAudio: it is missing, or cannot be read.
        StorageUnavailableError: the storage cannot be reached.
    """
    with rejecting(uri):
        return storage.open_file(uri)


def load_recording(
    uri: str,
    sample_rate: int = SAMPLE_RATE,
    max_duration_s: float = 30.0,
    file: BinaryIO | None = None,
    dataset: str = "",
) -> Recording:
    """Read and decode the recording at `uri`, which may name a window of it, as `soundstorm.audio.files.read_audio`
    does.

    Args:
        uri: of a file, or of a window of one.
        sample_rate: samples per second of the result.
        max_duration_s: maximum duration of the result.
        file: the file, where it is open already.
        dataset: of which it is a clip; one with a published length of clips decides the length.

    Raises:
        RejectedAudio: it cannot be used.
        StorageUnavailableError: the storage cannot be reached.
    """
    name, window = split_window(uri)
    with file or open_recording(name) as source, rejecting(name):
        if window is None:
            return at_published_length(
                read_audio(source, sample_rate, max_duration_s), dataset, max_duration_s, sample_rate
            )
        return read_audio(source, sample_rate, min(window.duration_s, max_duration_s), window.start_s)


def load_known_recording(
    uri: str, sample_rate: int = SAMPLE_RATE, max_duration_s: float = 30.0, dataset: str = ""
) -> tuple[Recording, str]:
    """Like `load_recording`, with the hash of the content, see `soundstorm.serialization.recordings.content_of`."""
    name, _ = split_window(uri)
    file = open_recording(name)
    with rejecting(name):
        content = content_of(file.read(CONTENT_BYTES))
        file.seek(0)
    return load_recording(uri, sample_rate, max_duration_s, file, dataset), content


def read_content(uri: str) -> str:
    """`soundstorm.serialization.recordings.content_of` the file of the recording at `uri`, which may name a window of
    it; errors as `open_recording`."""
    name, _ = split_window(uri)
    with open_recording(name) as file, rejecting(name):
        return content_of(file.read(CONTENT_BYTES))


def split_long(clips: pa.Table, longest_s: float) -> pa.Table:
    """Clips (schema CLIPS) with windows in the place of recordings that are longer, in the fold and class of their
    recording.

    A recording whose header cannot be read stays: whoever decodes it rejects it.
    """
    with ThreadPoolExecutor(HEADER_READERS) as pool:
        batches = [
            pa.RecordBatch.from_pylist(_split(batch.to_pylist(), longest_s, pool), clips.schema)
            for batch in clips.to_batches(CLIPS_AT_ONCE)
        ]
    return pa.Table.from_batches(batches, clips.schema)


def _split(clips: list[dict[str, Any]], longest_s: float, pool: ThreadPoolExecutor) -> list[dict[str, Any]]:
    """The clips, with windows in the place of longer recordings."""
    rows = []
    for row, duration_s in zip(clips, pool.map(_duration_s, [row["uri"] for row in clips]), strict=True):
        duration_s = min(duration_s, clip_length_s(row["dataset"]) or duration_s)
        windows = plan_windows(duration_s, longest_s)
        note = f"{Note.SPLIT.value}: one of {len(windows)} windows of {duration_s:.2f} s"
        named = [
            {"clip_id": window.of(row["clip_id"]), "uri": window.of(row["uri"]), "notes": [note]} for window in windows
        ]
        rows += [row | names for names in named] or [row]
    return rows


def _duration_s(uri: str) -> float:
    """Seconds of a recording; 0 where it cannot be used."""
    try:
        with rejecting(uri), storage.open_file(uri, at_once=0) as file:
            return duration_of(file)
    except RejectedAudio:
        return 0.0


def _exists(uri: str) -> bool:
    try:
        return tars.is_member(uri) or storage.exists(uri)
    except StorageUnavailableError:
        raise
    except ClusterError:  # no address at all
        return False


def load_clip(
    uri: str, reader: tars.TarMemberReader | None = None, max_duration_s: float = MAX_CLIP_S, dataset: str = ""
) -> np.ndarray:
    """A clip at the common sample rate, as a 16-bit file would hold it: int16 (N,), at most `max_duration_s`, as long
    as clips of `dataset` are.

    Raises:
        RejectedAudio: it is not there, or cannot be used.
        StorageUnavailableError: the storage cannot be reached.
    """
    return to_pcm16(load_clip_recording(uri, reader or tars.TarMemberReader(), max_duration_s, dataset).waveform)


def load_clip_recording(uri: str, reader: tars.TarMemberReader, max_duration_s: float, dataset: str = "") -> Recording:
    """Decode a clip, which may be in an archive; raises like `load_clip`."""
    file = None
    if tars.is_member(uri):
        with rejecting(uri):
            file = io.BytesIO(reader.read(uri))
    return load_recording(uri, max_duration_s=max_duration_s, file=file, dataset=dataset)
