"""The workers behind `tokenize`: one reads and decodes a shard's recordings, the other encodes them and writes the shard's tables."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.errors import ClusterError
from soundstorm.audio import RejectedAudio, from_pcm16, read_audio, to_pcm16
from soundstorm.codec import load_codec
from soundstorm.schemas import CLIPS, REJECTED, TOKENS, Reason, codes_to_lists
from soundstorm.views import make_view

PLANNED_CLIPS = CLIPS.append(pa.field("partners", pa.list_(pa.string()), nullable=False))
"""A shard's clips; `partners` has, for each view to make beside the recording, the URI of the recording that it is mixed with, or null."""


def read_shard(row: dict[str, Any], max_duration_s: float) -> dict[str, Any]:
    """Decode a shard's recordings to 16-bit mono at the codec's rate; failures are kept beside their clips."""
    torch.set_num_threads(1)
    waveforms, problems, silent = [], [], []
    for clip in from_ipc(row["clips"]).to_pylist():
        try:
            recording = read_audio(read_recording(clip["uri"]), max_duration_s=max_duration_s)
        except RejectedAudio as error:
            waveforms.append(b"")
            problems.append(f"{error.reason.value}\n{error.detail}")
            continue
        waveforms.append(to_pcm16(recording.waveform).tobytes())
        problems.append("")
        if recording.is_silent:
            silent.append(clip["clip_id"])
    return {"shard": row["shard"], "clips": row["clips"], "waveforms": waveforms, "problems": problems, "silent": silent}


def read_recording(uri: str) -> bytes:
    """The content of a recording's file; RejectedAudio says whether it is missing or cannot be read."""
    try:
        return storage.read_bytes(uri)
    except ClusterError as error:
        reason = Reason.UNREADABLE_FILE if storage.exists(uri) else Reason.MISSING_FILE
        raise RejectedAudio(reason, str(error)) from error


class ShardEncoder:
    """An actor that encodes shards, which it reads itself unless `read_shard` did, and writes their tables.

    It makes the views of one clip at a time, and reads their partners as it needs them. A clip is tokenized in all its views or rejected.
    """

    def __init__(self, weights: ray.ObjectRef, output_dir: str, metadata: dict[str, str], max_duration_s: float, gpu: bool) -> None:
        torch.set_num_threads(1)
        self.codec = load_codec(ray.get(weights), device="cuda" if gpu else "cpu")
        self.output_dir, self.metadata, self.max_duration_s = output_dir, metadata, max_duration_s

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if "waveforms" not in row:
            row = read_shard(row, self.max_duration_s)
        clips = from_ipc(row["clips"]).to_pylist()
        tokens: list[dict[str, Any]] = []
        rejected: list[dict[str, str]] = []
        usable: list[tuple[dict[str, Any], bytes]] = []
        for clip, pcm, problem in zip(clips, row["waveforms"], row["problems"], strict=True):
            if problem:
                reason, _, detail = problem.partition("\n")
                rejected.append(_rejection(clip, "decode", reason, detail))
            else:
                usable.append((clip, pcm))
        for clip, views in self._encode_views(usable):
            failed = next((codes_QT for codes_QT in views if isinstance(codes_QT, str)), None)
            if failed is not None:
                rejected.append(_rejection(clip, "encode", Reason.CODEC_FAILED.value, failed))
                continue
            fields = {key: clip[key] for key in ("clip_id", "dataset", "fold", "label", "category")}
            tokens += [
                fields | {"view": view, "num_frames": codes_QT.shape[1], "codes": codes_to_lists(codes_QT)}
                for view, codes_QT in enumerate(views)
                if not isinstance(codes_QT, str)
            ]
        self._note(row["shard"], rejected, list(row["silent"]))
        tables.write_table(
            tables.part_uri(storage.join(self.output_dir, "tokens"), row["shard"]), pa.Table.from_pylist(tokens, TOKENS), self.metadata
        )
        return {"shard": row["shard"], "clips": len(clips)}

    def _encode_views(self, clips: list[tuple[dict[str, Any], bytes]]) -> Iterator[tuple[dict[str, Any], list[np.ndarray | str]]]:
        """Each clip with the codes of its views, the recording first."""
        if not any(clip["partners"] for clip, _ in clips):
            recordings = self._encode([_waveform(pcm) for _, pcm in clips])
            yield from ((clip, [codes_QT]) for (clip, _), codes_QT in zip(clips, recordings, strict=True))
            return
        for clip, pcm in clips:
            waveform = _waveform(pcm)
            views = [make_view(waveform, clip["clip_id"], view, self._partner(uri)) for view, uri in enumerate([None, *clip["partners"]])]
            yield clip, self._encode(views)

    def _partner(self, uri: str | None) -> np.ndarray | None:
        """The recording that a view is mixed with; None where it has none, or it cannot be used."""
        if uri is None:
            return None
        try:
            return read_audio(read_recording(uri), max_duration_s=self.max_duration_s).waveform
        except RejectedAudio:
            return None

    def _note(self, shard: int, rejected: list[dict[str, str]], silent: list[str]) -> None:
        """Write which clips of the shard were rejected and which are digital silence, in place of what an earlier attempt noted."""
        rejected_uri = tables.part_uri(storage.join(self.output_dir, "rejected"), shard)
        silent_uri = storage.join(self.output_dir, "silent", f"part-{shard:05d}.json")
        if rejected:
            tables.write_table(rejected_uri, pa.Table.from_pylist(rejected, REJECTED), {})
        else:
            storage.delete(rejected_uri)
        if silent:
            storage.write_bytes(silent_uri, json.dumps(silent, ensure_ascii=False).encode())
        else:
            storage.delete(silent_uri)

    def _encode(self, waveforms: list[np.ndarray]) -> list[np.ndarray | str]:
        """Codes of each waveform; where the batch fails, clip by clip, and the error's text in place of the codes of a clip that fails."""
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
