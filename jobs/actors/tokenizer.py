"""Workers of `tokenize`: a task reads and decodes a shard's recordings, an actor encodes them and writes the shard's
tables.

After a worker died at a shard, the next worker processes its clips one by one. A clip that crashes every worker (a
poison item) is rejected, and the run continues.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.runtime.memory import held_together
from cluster.scheduling.attempt_tracker import Attempt
from jobs.inputs.audio_files import load_known_recording, load_recording
from jobs.inputs.clip_notes import write_notes
from soundstorm.audio.files import SAMPLE_RATE, RejectedAudio, from_pcm16, to_pcm16
from soundstorm.codec.files import load_codec
from soundstorm.data.views import make_view
from soundstorm.schemas import CLIPS, REJECTED, TOKENIZED, Reason, codes_to_lists
from soundstorm.serialization.damaged import one_line

PLANNED_CLIPS = CLIPS.append(pa.field("partners", pa.list_(pa.string()), nullable=False))
"""Schema of a shard's clips; `partners` has, for each augmented view, the URI of the recording that it is mixed with,
or null."""
MAX_BATCH_S = 60.0
"""Longest batch in seconds of decoded audio: two batches of a codec. A longer clip is a batch of its own."""
KILLS_WORKER = "every process that worked on it died; more memory may help"


@dataclass(slots=True)
class _ShardResult:
    """Result of a shard: tokens, rejected clips and notes."""

    tokens: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    """Notes of each decoded clip, by clip_id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A decoded recording, 16-bit mono at the codec's rate, or why it was rejected (reason and detail, one line
    each)."""

    pcm: bytes = b""
    problem: str = ""
    notes: str = ""
    """One note per line."""
    content: str = ""
    """Hash of the content: see `soundstorm.serialization.recordings.content_of`."""

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / (2 * SAMPLE_RATE)


def read_shard(row: dict[str, Any], max_duration_s: float, tracker: Any, limit_s: float) -> dict[str, Any]:
    """Ray task: decode a shard's recordings to 16-bit mono at the codec's rate. Rejections are stored beside their
    clips."""
    clips = from_ipc(row["clips"]).to_pylist()
    decoded = [Decoded(problem=f"{Reason.KILLED_WORKER.value}\n{KILLS_WORKER}")] * len(clips)
    with Attempt(tracker, f"decode {row['shard']}", limit_s) as attempt:
        for portion in attempt.batches([clip["clip_id"] for clip in clips]):
            for number in portion:
                decoded[number] = decode_recording(clips[number]["uri"], clips[number]["dataset"], max_duration_s)
    columns = {name: [getattr(found, name) for found in decoded] for name in ("pcm", "problem", "notes", "content")}
    return {"shard": row["shard"], "clips": row["clips"], **columns}


def decode_recording(uri: str, dataset: str, max_duration_s: float) -> Decoded:
    """Read and decode the recording at `uri`, a clip of `dataset`."""
    torch.set_num_threads(1)
    try:
        recording, content = load_known_recording(uri, max_duration_s=max_duration_s, dataset=dataset)
    except RejectedAudio as error:
        return Decoded(problem=f"{error.reason.value}\n{error.detail}")
    return Decoded(pcm=to_pcm16(recording.waveform).tobytes(), notes="\n".join(recording.notes), content=content)


class TokenizerActor:
    """Actor that encodes shards and writes their tables. It reads the recordings itself unless `read_shard` did.

    It makes the views of one clip at a time, and reads mixing partners when it needs them. A clip is tokenized in all
    its views or rejected.

    Args:
        weights: weights of the codec.
        output_dir: URI of the output folder.
        metadata: metadata of the tables of tokens.
        max_duration_s: longest part of a recording that is used.
        gpu: whether to encode on a GPU.
        tracker: the attempt tracker.
        limit_s: seconds after which a shard hangs, and the process kills itself.
    """

    def __init__(
        self,
        weights: ray.ObjectRef,
        output_dir: str,
        metadata: dict[str, str],
        max_duration_s: float,
        gpu: bool,
        tracker: Any,
        limit_s: float,
    ) -> None:
        torch.set_num_threads(1)
        self.codec = load_codec(ray.get(weights), device="cuda" if gpu else "cpu")
        self.output_dir, self.metadata, self.max_duration_s = output_dir, metadata, max_duration_s
        self.tracker, self.limit_s = tracker, limit_s

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        clips, found = from_ipc(row["clips"]).to_pylist(), _ShardResult()
        with Attempt(self.tracker, f"encode {row['shard']}", self.limit_s) as attempt:
            for portion in attempt.batches([clip["clip_id"] for clip in clips]):
                decoded = ((clips[number], self._read(row, clips[number], number)) for number in portion)
                for some in held_together(decoded, lambda one: one[1].duration_s, MAX_BATCH_S):
                    self._encode_clips(some, found)
            found.rejected += [
                _rejection(clip, "encode", Reason.KILLED_WORKER.value, KILLS_WORKER)
                for clip in clips
                if clip["clip_id"] in attempt.poison
            ]
            self._write_rejections(row["shard"], found)
            table = pa.Table.from_pylist(found.tokens, TOKENIZED)
            tables.write_table(
                tables.part_uri(storage.join(self.output_dir, "tokens"), row["shard"]), table, self.metadata
            )
        return {"shard": row["shard"], "clips": len(clips), "rejected": len(found.rejected)}

    def _read(self, row: dict[str, Any], clip: dict[str, Any], number: int) -> Decoded:
        if "pcm" not in row:
            return decode_recording(clip["uri"], clip["dataset"], self.max_duration_s)
        return Decoded(
            pcm=row["pcm"][number],
            problem=row["problem"][number],
            notes=row["notes"][number],
            content=row["content"][number],
        )

    def _encode_clips(self, clips: list[tuple[dict[str, Any], Decoded]], found: _ShardResult) -> None:
        """Add the results of these clips to `found`."""
        usable: list[tuple[dict[str, Any], bytes]] = []
        contents = {clip["clip_id"]: decoded.content for clip, decoded in clips}
        for clip, decoded in clips:
            if decoded.problem:
                reason, _, detail = decoded.problem.partition("\n")
                found.rejected.append(_rejection(clip, "decode", reason, detail))
                continue
            usable.append((clip, decoded.pcm))
            found.notes[clip["clip_id"]] = [*(clip["notes"] or []), *decoded.notes.splitlines()]
        for clip, views in self._encode_views(usable):
            failed = next((codes_QT for codes_QT in views if isinstance(codes_QT, str)), None)
            if failed is not None:
                found.rejected.append(_rejection(clip, "encode", Reason.CODEC_FAILED.value, failed))
                continue
            fields = {key: clip[key] for key in ("clip_id", "dataset", "fold", "label", "category")} | {
                "content": contents[clip["clip_id"]]
            }
            found.tokens += [
                fields | {"view": view, "num_frames": codes_QT.shape[1], "codes": codes_to_lists(codes_QT)}
                for view, codes_QT in enumerate(views)
                if not isinstance(codes_QT, str)
            ]

    def _encode_views(
        self, clips: list[tuple[dict[str, Any], bytes]]
    ) -> Iterator[tuple[dict[str, Any], list[np.ndarray | str]]]:
        """Each clip with the codes of its views, the original first."""
        if not any(clip["partners"] for clip, _ in clips):
            recordings = self._encode([_waveform(pcm) for _, pcm in clips])
            yield from ((clip, [codes_QT]) for (clip, _), codes_QT in zip(clips, recordings, strict=True))
            return
        for clip, pcm in clips:
            waveform = _waveform(pcm)
            partners = [self._partner(uri, clip["dataset"]) for uri in (None, *clip["partners"])]
            views = [make_view(waveform, clip["clip_id"], view, partner) for view, partner in enumerate(partners)]
            yield clip, self._encode(views)

    def _partner(self, uri: str | None, dataset: str) -> np.ndarray | None:
        """The waveform of a mixing partner; None if there is none or it is rejected."""
        if uri is None:
            return None
        try:
            return load_recording(uri, max_duration_s=self.max_duration_s, dataset=dataset).waveform
        except RejectedAudio:
            return None

    def _write_rejections(self, shard: int, found: _ShardResult) -> None:
        """Write the rejected clips of the shard and the notes of the others; replaces those of an earlier attempt."""
        rejected_uri = tables.part_uri(storage.join(self.output_dir, "rejected"), shard)
        if found.rejected:
            tables.write_table(rejected_uri, pa.Table.from_pylist(found.rejected, REJECTED), {})
        else:
            storage.delete(rejected_uri)
        write_notes(self.output_dir, shard, found.notes)

    def _encode(self, waveforms: list[np.ndarray]) -> list[np.ndarray | str]:
        """Codes of each waveform. If the batch fails, each clip is encoded alone; a clip that fails gets the error's
        text instead of codes."""
        try:
            return list(self.codec.encode_clips(waveforms))
        except RuntimeError:
            results: list[np.ndarray | str] = []
            for waveform in waveforms:
                try:
                    results.append(self.codec.encode_clips([waveform])[0])
                except RuntimeError as error:
                    results.append(one_line(error, 300))
            return results


def _waveform(pcm: bytes) -> np.ndarray:
    return from_pcm16(np.frombuffer(pcm, dtype=np.int16))


def _rejection(clip: dict[str, Any], stage: str, reason: str, detail: str) -> dict[str, str]:
    return {"clip_id": clip["clip_id"], "uri": clip["uri"], "stage": stage, "reason": reason, "detail": detail}


def to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
