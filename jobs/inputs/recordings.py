"""Decoded recordings in Ray's object store, where every training worker reads all of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from annotated_types import Gt, Le

from cluster.runtime.ray_data import BLOCK_TIMEOUT_S, bounded_retries, quiet_ray_data
from cluster.scheduling.attempt_tracker import ANSWER_S, DIED, Attempt, tracking
from cluster.scheduling.watchdog import Watchdog, limits_here, run_with_watchdog
from jobs.console.command import print_warning
from jobs.console.options import Allowed
from jobs.inputs.audio_files import load_known_recording
from jobs.inputs.clip_notes import report_notes
from jobs.inputs.datasets import rows_of_folds
from soundstorm.audio.files import SAMPLE_RATE, RejectedAudio, to_pcm16
from soundstorm.data.notes import NoteTally
from soundstorm.errors import SoundStormError
from soundstorm.schemas import Reason

DECODED = pa.schema(
    [
        ("clip_id", pa.string()),
        ("label", pa.int32()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("content", pa.string()),
        ("notes", pa.list_(pa.string())),
        ("samples", pa.binary()),
    ]
)
"""A decoded recording: `samples` is 16-bit little-endian mono, empty where `reason` says why there is none; `content`
is `soundstorm.serialization.recordings.content_of` its file, `notes` as in `clips`."""

MAX_DURATION_S = 3600.0
RecordingSeconds = Annotated[
    float, Gt(0), Le(MAX_DURATION_S), Allowed(f"seconds, more than 0 and at most {MAX_DURATION_S:g}")
]
"""Type of the option that limits how much of a recording is used."""
KILLS_WORKER = "every process that decoded it died; more memory may help"
BATCH_SIZE = 16
MAX_RETRIES = 12
"""Retries of a batch after its task died; Ray Data itself would retry without limit."""
HANG_S = 1800.0
"""A batch or shard hangs if it takes longer than this plus the longest duration of its audio."""


def pcm16(waveform_N: np.ndarray, clip_id: str) -> bytes:
    """A recording as 16-bit little-endian samples."""
    return to_pcm16(waveform_N).astype("<i2").tobytes()


def decode_clips(
    clips: pa.Table, sample_rate: int, max_duration_s: float, keep: Callable[[np.ndarray, str], bytes] = pcm16
) -> "ray.data.Dataset":
    """The recordings of `clips` (schema CLIPS), decoded by Ray tasks, in the object store; schema DECODED.

    A recording that crashes the tasks that decode it is rejected.

    Args:
        clips: clips to decode.
        sample_rate: sample rate of the result, in Hz.
        max_duration_s: seconds of a recording that are used.
        keep: makes the bytes that are kept as its `samples`, at least one, of a waveform (N,) and its clip_id.

    Raises:
        SoundStormError: tasks died repeatedly.
        ClusterError: no node is left, or the storage cannot be reached.
    """
    if not clips.num_rows:
        return ray.data.from_arrow(DECODED.empty_table())
    with tracking() as tracker:
        decoded = _decoded(clips, sample_rate, max_duration_s, keep, tracker)
    decoded.context.execution_no_progress_timeout_s = BLOCK_TIMEOUT_S  # its readers run without a watchdog
    return decoded


def _decoded(
    clips: pa.Table, sample_rate: int, max_duration_s: float, keep: Callable[[np.ndarray, str], bytes], tracker: Any
) -> "ray.data.Dataset":
    def decode(batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        decoded = [_row(row) | {"reason": Reason.KILLED_WORKER.value, "detail": KILLS_WORKER} for row in rows]
        with Attempt(tracker, rows[0]["clip_id"], HANG_S + len(rows) * max_duration_s) as attempt:
            for portion in attempt.batches([row["clip_id"] for row in rows]):
                for number in portion:
                    decoded[number] = _decoded_row(rows[number], sample_rate, max_duration_s, keep)
        return pa.Table.from_pylist(decoded, schema=DECODED)

    quiet_ray_data(watched=True)
    shards = ray.data.from_arrow(clips).repartition(min(clips.num_rows, 32))
    with bounded_retries():
        dataset = shards.map_batches(decode, batch_format="pyarrow", batch_size=BATCH_SIZE, max_retries=MAX_RETRIES)
    watchdog = Watchdog(tracker=tracker, worker={"CPU": 1.0}, storage_uri=clips["uri"][0].as_py(), limits=limits_here())
    try:
        return run_with_watchdog(dataset.materialize, watchdog)
    except DIED as error:
        _, poison = ray.get(tracker.deadliest_shard.remote(), timeout=ANSWER_S)
        named = f" at {', '.join(poison[:5])}" if poison else ""
        raise SoundStormError(
            f"decoding was aborted: tasks died {MAX_RETRIES + 1} times{named}; leave these out, or give more memory"
        ) from error


def _row(clip: dict[str, Any]) -> dict[str, Any]:
    return {
        "clip_id": clip["clip_id"],
        "label": clip["label"],
        "reason": "",
        "detail": "",
        "content": "",
        "notes": [],
        "samples": b"",
    }


def _decoded_row(
    row: dict[str, Any], sample_rate: int, max_duration_s: float, keep: Callable[[np.ndarray, str], bytes]
) -> dict[str, Any]:
    decoded = _row(row)
    try:
        recording, decoded["content"] = load_known_recording(
            row["uri"], sample_rate, max_duration_s, dataset=row["dataset"]
        )
        decoded |= {"samples": keep(recording.waveform, row["clip_id"]), "notes": list(recording.notes)}
    except RejectedAudio as error:
        decoded |= {"reason": error.reason.value, "detail": error.detail}
    return decoded


def warn_of_rejected(decoded: "ray.data.Dataset") -> int:
    """Print a warning for each rejected recording and the notes of the others; returns the number of usable ones."""
    usable, num_rows, notes = 0, 0, NoteTally()
    for row in decoded.select_columns(["clip_id", "reason", "detail", "notes"]).iter_rows():
        num_rows += 1
        notes.add(row["clip_id"], row["notes"])
        if row["reason"]:
            print_warning(f"{row['clip_id']} is left out: {row['reason']} ({row['detail']})")
        else:
            usable += 1
    report_notes(notes, num_rows)
    return usable


def usable_recordings(decoded: Any) -> Iterator[tuple[np.ndarray, int]]:
    """Samples (int16) and label of each usable recording of a dataset or a worker's shard of it, in order of
    clip_id."""
    tables = [batch for batch in decoded.iter_batches(batch_format="pyarrow", batch_size=None) if batch.num_rows]
    for samples, label in in_order(tables, "samples", "label"):
        if samples:
            yield np.frombuffer(samples, dtype="<i2"), label


def in_order(tables: Sequence[pa.Table], *columns: str) -> Iterator[tuple[Any, ...]]:
    """These columns of each row, in order of clip_id. Only the names are sorted: Arrow would sort the samples in one
    array, which cannot hold more than 2 GiB."""
    if not tables:
        return
    rows = pa.concat_tables(tables)
    for number in pc.sort_indices(rows.select(["clip_id"]), sort_keys=[("clip_id", "ascending")]).to_pylist():
        yield tuple(rows[name][number].as_py() for name in columns)


def training_recordings(
    clips: pa.Table, fold: int, location: str, max_duration_s: float
) -> "tuple[ray.data.Dataset, int]":
    """All recordings outside the test fold, decoded at 24 kHz, and the number of usable ones.

    Args:
        clips: clips of all folds, schema CLIPS.
        fold: the test fold.
        location: folder of the dataset, for errors.
        max_duration_s: seconds of a recording that are used.

    Raises:
        SoundStormError: no recording is usable.
    """
    training = decode_clips(rows_of_folds(clips, set(clips["fold"].to_pylist()) - {fold}), SAMPLE_RATE, max_duration_s)
    usable = warn_of_rejected(training)
    if not usable:
        raise SoundStormError(f"{location}: no usable recording outside fold {fold}; see the warnings above")
    return training, usable
