"""The actor behind `evaluate`: brings clips to the one sample rate, measures them, also through the codec, and compares pairs."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from jobs.clips import Clip
from jobs.shard_encoder import read_recording
from soundstorm.audio import SAMPLE_RATE, RejectedAudio, from_pcm16, read_audio, to_pcm16
from soundstorm.codec import Codec, load_codec
from soundstorm.metrics import clip_metrics, log_spectral_distance, spectral_convergence
from soundstorm.schemas import METRICS, PAIRS, REJECTED, Source

MAX_CLIP_S = 3600.0
"""Seconds of a clip that are measured, the most that `tokenize` and `generate` deal with."""


class Measurer:
    """An actor that measures the clips of a part."""

    def __init__(self, weights: list[ray.ObjectRef], parts_folder: str, device: str) -> None:
        torch.set_num_threads(1)
        self.codec = load_codec(ray.get(weights[0]), device)
        self.parts_folder = parts_folder

    def measure_part(self, work: tuple[str, list[tuple[Source, Clip, Clip | None]]]) -> int:
        """Write the metrics of `(source, clip, partner)` triples, real ones also through the codec, the pairs and the rejected; returns how many."""
        part_uri, triples = work
        rows, pairs, rejected = [], [], []
        waveforms: dict[int, np.ndarray] = {}
        for index, (_, clip, _) in enumerate(triples):
            try:
                waveforms[index] = load_clip(clip.uri)
            except RejectedAudio as error:
                rejected.append({"clip_id": clip.clip_id, "uri": clip.uri, "stage": "measure", "reason": error.reason.value, "detail": error.detail})
        real = [index for index in waveforms if triples[index][0] == Source.REAL]
        resynthesized = dict(zip(real, resynthesize(self.codec, [waveforms[index] for index in real]), strict=True))
        for index, waveform in waveforms.items():
            source, clip, partner = triples[index]
            rows.append(metrics_row(clip, source, waveform))
            if index in resynthesized:
                rows.append(metrics_row(clip, Source.RESYNTHESIZED, resynthesized[index]))
            if partner is not None:
                with contextlib.suppress(RejectedAudio):  # a partner that cannot be used is rejected in its own row
                    pairs.append(pairs_row(partner, clip, load_clip(partner.uri), waveform))
        name = part_uri.rpartition("/")[2]
        tables.write_table(storage.join(self.parts_folder, "rejected", name), pa.Table.from_pylist(rejected, REJECTED), {})
        tables.write_table(storage.join(self.parts_folder, "pairs", name), pa.Table.from_pylist(pairs, PAIRS), {})
        tables.write_table(part_uri, pa.Table.from_pylist(rows, METRICS), {})
        return len(triples)


def load_clip(uri: str) -> np.ndarray:
    """A clip at the common sample rate, as a 16-bit file would hold it: int16 (N,). Raises RejectedAudio."""
    return to_pcm16(read_audio(read_recording(uri), max_duration_s=MAX_CLIP_S).waveform)


def resynthesize(codec: Codec, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Clips (int16) through the codec and back, at their own length."""
    codes = codec.encode_clips([from_pcm16(clip) for clip in clips])
    return [to_pcm16(decoded[: len(clip)]) for decoded, clip in zip(codec.decode_clips(codes), clips, strict=True)]


def metrics_row(clip: Clip, source: Source, pcm: np.ndarray) -> dict[str, Any]:
    """A row of `metrics`."""
    duration = {"duration_s": len(pcm) / SAMPLE_RATE}
    return {"clip_id": clip.clip_id, "source": source.value, "category": clip.category} | duration | clip_metrics(pcm, SAMPLE_RATE)


def pairs_row(real: Clip, generated: Clip, real_pcm: np.ndarray, generated_pcm: np.ndarray) -> dict[str, Any]:
    """A row of `pairs`."""
    return {
        "real_id": real.clip_id,
        "generated_id": generated.clip_id,
        "spectral_convergence": spectral_convergence(real_pcm, generated_pcm),
        "log_spectral_distance": log_spectral_distance(real_pcm, generated_pcm),
    }
