"""The workers behind `tokenize`: one reads and decodes a shard's recordings, the other encodes them and writes the shard's tables."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.errors import ClusterError
from soundstorm.audio import RejectedAudio, from_pcm16, read_audio, to_pcm16
from soundstorm.codec import load_codec
from soundstorm.schemas import REJECTED, TOKENS, Reason, codes_to_lists


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
    """An actor that encodes shards, which it reads itself unless `read_shard` did, and writes their tables."""

    def __init__(self, weights: ray.ObjectRef, output_dir: str, metadata: dict[str, str], max_duration_s: float, gpu: bool) -> None:
        torch.set_num_threads(1)
        self.codec = load_codec(ray.get(weights), device="cuda" if gpu else "cpu")
        self.output_dir, self.metadata, self.max_duration_s = output_dir, metadata, max_duration_s

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if "waveforms" not in row:
            row = read_shard(row, self.max_duration_s)
        clips = from_ipc(row["clips"]).to_pylist()
        tokens, rejected, usable = [], [], []
        for clip, pcm, problem in zip(clips, row["waveforms"], row["problems"], strict=True):
            if problem:
                reason, _, detail = problem.partition("\n")
                rejected.append(_rejection(clip, "decode", reason, detail))
            else:
                usable.append((clip, from_pcm16(np.frombuffer(pcm, dtype=np.int16))))
        for clip, codes_QT in zip([clip for clip, _ in usable], self._encode([waveform for _, waveform in usable]), strict=True):
            if isinstance(codes_QT, str):
                rejected.append(_rejection(clip, "encode", Reason.CODEC_FAILED.value, codes_QT))
                continue
            fields = {key: clip[key] for key in ("clip_id", "dataset", "fold", "label", "category")}
            tokens.append(fields | {"view": 0, "num_frames": codes_QT.shape[1], "codes": codes_to_lists(codes_QT)})
        self._note(row["shard"], rejected, list(row["silent"]))
        tables.write_table(
            tables.part_uri(storage.join(self.output_dir, "tokens"), row["shard"]), pa.Table.from_pylist(tokens, TOKENS), self.metadata
        )
        return {"shard": row["shard"], "clips": len(clips)}

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


def _rejection(clip: dict[str, Any], stage: str, reason: str, detail: str) -> dict[str, str]:
    return {"clip_id": clip["clip_id"], "uri": clip["uri"], "stage": stage, "reason": reason, "detail": detail}


def to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_ipc(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
