"""The workers behind `tokenize`: one reads and decodes a shard's recordings, the other encodes them and writes the
shard's tables.

Where a worker died at a shard, the next one takes its clips one by one; a clip at which worker after worker dies is
rejected, and the run goes on.
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

PLANNED_CLIPS = CLIPS.append(pa.field("partners", pa.list_(pa.string()), nullable=False))
"""A shard's clips; `partners` has, for each view to make beside the recording, the URI of the recording that it is
mixed with, or null."""
MAX_BATCH_S = 60.0
"""Seconds of sound that are decoded before they are encoded: two batches of a codec. A clip that is longer is alone."""
KILLS_WORKER = "every process that worked on it died; more memory may help"


@dataclass(slots=True)
class _Found:
    """What became of a shard's clips."""

    tokens: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    """By clip_id; of the clips that were decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """What became of a recording: 16-bit mono at the codec's rate, or why there is none (reason and detail, a line
    each)."""

    pcm: bytes = b""
    problem: str = ""
    notes: str = ""
    """A line each."""
    content: str = ""
    """What the file is known again by: see `soundstorm.serialization.recordings.content_of`."""

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / (2 * SAMPLE_RATE)


def read_shard(row: dict[str, Any], max_duration_s: float, tracker: Any, limit_s: float) -> dict[str, Any]:
    """A task that decodes a shard's recordings to 16-bit mono at the codec's rate; failures are kept beside their
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
    """An actor that encodes shards, which it reads itself unless `read_shard` did, and writes their tables.

    It makes the views of one clip at a time, and reads their partners as it needs them. A clip is tokenized in all its
    views or rejected.

    Args:
        weights: of the codec.
        output_dir: URI of the folder of the tables.
        metadata: of the tables of tokens.
        max_duration_s: what a recording holds beyond is cut off.
        gpu: whether to encode on one.
        tracker: of `cluster.scheduling.attempt_tracker`.
        limit_s: a shard that takes longer hangs: the process ends itself.
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
        clips, found = from_ipc(row["clips"]).to_pylist(), _Found()
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
            self._note(row["shard"], found)
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

    def _encode_clips(self, clips: list[tuple[dict[str, Any], Decoded]], found: _Found) -> None:
        """Add what becomes of these clips to `found`."""
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
        """Each clip with the codes of its views, the recording first."""
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
        """The recording that a view is mixed with; None where it has none, or it cannot be used."""
        if uri is None:
            return None
        try:
            return load_recording(uri, max_duration_s=self.max_duration_s, dataset=dataset).waveform
        except RejectedAudio:
            return None

    def _note(self, shard: int, found: _Found) -> None:
        """Write which clips of the shard were rejected and the notes of the others, in place of what an earlier attempt
        wrote."""
        rejected_uri = tables.part_uri(storage.join(self.output_dir, "rejected"), shard)
        if found.rejected:
            tables.write_table(rejected_uri, pa.Table.from_pylist(found.rejected, REJECTED), {})
        else:
            storage.delete(rejected_uri)
        write_notes(self.output_dir, shard, found.notes)

    def _encode(self, waveforms: list[np.ndarray]) -> list[np.ndarray | str]:
        """Codes of each waveform; where the batch fails, clip by clip, and the error's text in place of the codes of a
        clip that fails."""
        try:
            return list(self.codec.encode_clips(waveforms))
        except RuntimeError:
            results: list[np.ndarray | str] = []
            for waveform in waveforms:
                try:
                    results.append(self.codec.encode_clips([waveform])[0])
                except RuntimeError as error:
                    results.append(" ".join(str(error).split())[:300])
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
