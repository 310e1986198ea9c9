"""Decoded recordings in Ray's object store: every worker of a codec training reads all of them from there."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from rich.markup import escape

from cluster import storage
from cluster.data import quiet_ray_data
from cluster.errors import ClusterError
from jobs.entry import console
from soundstorm.audio import RejectedAudio, read_audio, to_pcm16
from soundstorm.schemas import Reason

DECODED = pa.schema([("clip_id", pa.string()), ("label", pa.int32()), ("reason", pa.string()), ("detail", pa.string()), ("samples", pa.binary())])
"""A decoded recording: `samples` is 16-bit little-endian mono, empty where `reason` says why there is none."""


def decode_clips(clips: pa.Table, sample_rate: int, max_duration_s: float) -> "ray.data.Dataset":
    """The recordings of `clips` (schema CLIPS), decoded by Ray tasks, in the object store; schema DECODED."""

    def decode(batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([_decoded_row(row, sample_rate, max_duration_s) for row in batch.to_pylist()], schema=DECODED)

    if not clips.num_rows:
        return ray.data.from_arrow(DECODED.empty_table())
    quiet_ray_data()
    shards = ray.data.from_arrow(clips).repartition(min(clips.num_rows, 32))
    return shards.map_batches(decode, batch_format="pyarrow", batch_size=16).materialize()


def _decoded_row(row: dict[str, Any], sample_rate: int, max_duration_s: float) -> dict[str, Any]:
    decoded = {"clip_id": row["clip_id"], "label": row["label"], "reason": "", "detail": "", "samples": b""}
    try:
        recording = read_audio(storage.read_bytes(row["uri"]), sample_rate, max_duration_s)
        decoded["samples"] = to_pcm16(recording.waveform).astype("<i2").tobytes()
    except RejectedAudio as error:
        decoded |= {"reason": error.reason.value, "detail": error.detail}
    except ClusterError as error:
        decoded |= {"reason": Reason.UNREADABLE_FILE.value, "detail": str(error)}
    return decoded


def warn_of_rejected(decoded: "ray.data.Dataset") -> int:
    """Name the recordings that could not be decoded; returns how many could."""
    usable = 0
    for row in decoded.select_columns(["clip_id", "reason", "detail"]).iter_rows():
        if row["reason"]:
            console.print(f"[yellow]warning:[/] {escape(row['clip_id'])} is left out: {row['reason']} ({escape(row['detail'])})", highlight=False)
        else:
            usable += 1
    return usable


def usable_recordings(decoded: Any) -> Iterator[tuple[np.ndarray, int]]:
    """Samples (int16) and label of each usable recording of a dataset or a worker's shard of it, in order of clip_id."""
    tables = [batch for batch in decoded.iter_batches(batch_format="pyarrow", batch_size=None) if batch.num_rows]
    rows = pa.concat_tables(tables).sort_by("clip_id").to_pylist() if tables else []
    for row in rows:
        if row["samples"]:
            yield np.frombuffer(row["samples"], dtype="<i2"), row["label"]
