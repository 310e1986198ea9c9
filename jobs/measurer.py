"""The actor behind `evaluate`: brings clips to the one sample rate, measures them, also through the codec, and compares pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from jobs.clips import Clip
from soundstorm.audio import SAMPLE_RATE, from_pcm16, read_audio, to_pcm16
from soundstorm.codec import Codec, load_codec
from soundstorm.errors import SoundStormError
from soundstorm.metrics import clip_metrics, log_spectral_distance, spectral_convergence
from soundstorm.schemas import METRICS, PAIRS, Source


class Measurer:
    """An actor that measures the clips of a part."""

    def __init__(self, weights: list[ray.ObjectRef], pairs_folder: str, device: str) -> None:
        torch.set_num_threads(1)
        self.codec = load_codec(ray.get(weights[0]), device)
        self.pairs_folder = pairs_folder

    def measure_part(self, work: tuple[str, list[tuple[Source, Clip, Clip | None]]]) -> int:
        """Write the metrics of `(source, clip, partner)` triples, real ones also through the codec, and the pairs; returns how many."""
        part_uri, triples = work
        rows, pairs = [], []
        waveforms = [load_clip(clip.uri) for _, clip, _ in triples]
        real = [index for index, (source, _, _) in enumerate(triples) if source == Source.REAL]
        resynthesized = dict(zip(real, resynthesize(self.codec, [waveforms[index] for index in real]), strict=True))
        for index, (source, clip, partner) in enumerate(triples):
            rows.append(metrics_row(clip, source, waveforms[index]))
            if index in resynthesized:
                rows.append(metrics_row(clip, Source.RESYNTHESIZED, resynthesized[index]))
            if partner is not None:
                pairs.append(pairs_row(partner, clip, load_clip(partner.uri), waveforms[index]))
        tables.write_table(f"{self.pairs_folder}/{part_uri.rpartition('/')[2]}", pa.Table.from_pylist(pairs, PAIRS), {})
        tables.write_table(part_uri, pa.Table.from_pylist(rows, METRICS), {})
        return len(triples)


def load_clip(uri: str) -> np.ndarray:
    """A clip at the common sample rate, as a 16-bit file would hold it: int16 (N,)."""
    try:
        return to_pcm16(read_audio(storage.read_bytes(uri)).waveform)
    except SoundStormError as error:
        raise SoundStormError(f"{uri}: {error}") from error


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
