"""The actor of `evaluate`: resamples clips to one rate and computes their metrics, also through the codec, the metrics
of pairs, and features."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from cluster import storage, tables
from cluster.runtime.connect import ClusterInfo
from cluster.runtime.memory import held_together
from cluster.tables import tar_shards as tars
from jobs.actors.sharded_output import SETTINGS, ShardedOutput, TableRun, actor_resources, run_missing_shards
from jobs.evaluation.earlier_tables import require_measured
from jobs.evaluation.measurement_cache import MeasurementCache, Measurements
from jobs.evaluation.resynthesis import Resynthesizer
from jobs.evaluation.selection import MeasurementRequest, Model, recording_of
from jobs.inputs.audio_files import MAX_CLIP_S, load_clip
from jobs.inputs.clips import Clip
from soundstorm.audio.bands import low_passed
from soundstorm.audio.files import SAMPLE_RATE, RejectedAudio
from soundstorm.classification.cnn import load_classifier
from soundstorm.codec.files import load_codec
from soundstorm.evaluation.acoustic import clip_metrics, log_spectral_distance, spectral_convergence
from soundstorm.evaluation.features import FeatureExtractor
from soundstorm.schemas import FEATURES, METRICS, PAIRS, REJECTED, Source

TABLES = {"metrics": METRICS, "pairs": PAIRS, "features": FEATURES, "rejected": REJECTED}
"""Tables that each shard writes."""
MAX_BATCH_S = 120.0
"""Longest batch in seconds of audio; a longer clip is a batch of its own."""


@dataclass(slots=True)
class _ShardResult:
    """Result of a shard: rows of its tables."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def add(self, item: MeasurementRequest, measured: Measurements) -> None:
        """Add the rows of a measured clip."""
        if item.source is not None:
            self.metrics.append(metrics_row(item.clip, item.source) | measured["metrics"])
        if item.source == Source.REAL:
            self.metrics.append(metrics_row(item.clip, Source.RESYNTHESIZED) | measured["resynthesized"])
        if item.role is not None:
            self.features.append(features_row(item) | measured["features"])


class EvaluatorActor:
    """Actor that measures the clips of a shard.

    Args:
        weights: a list of one reference to a tuple: the codec's file, the classifier's file or None, the embedding
            model or None.
        parts_folder: URI of the folder with a folder of part files for each table.
        settings: digest of all settings of the run.
        device: where the codec and the classifier run.
        max_duration_s: longest part of a clip that is measured.
        common_band_hz: cutoff of the low-pass that is applied to every clip, after the codec, before it is measured;
            None: no low-pass.
        cache_dir: path or URI of the folder with measurements of earlier runs; None: all clips are measured.
    """

    def __init__(
        self,
        weights: list[ray.ObjectRef],
        parts_folder: str,
        settings: str,
        device: str,
        max_duration_s: float = MAX_CLIP_S,
        common_band_hz: float | None = None,
        cache_dir: str | None = None,
    ) -> None:
        torch.set_num_threads(1)
        codec, classifier, model = ray.get(weights[0])
        self.codec = load_codec(codec, device)
        classes = None if classifier is None else load_classifier(classifier, device)
        self.extractor = FeatureExtractor(self.codec, classes, None if model is None else model.open())
        self.resynthesize = Resynthesizer(self.codec, cache_dir)
        self.cache = MeasurementCache(
            cache_dir,
            {"max_duration_s": max_duration_s, "common_band_hz": common_band_hz},
            {
                "device": device,
                "codec": self.codec.fingerprint.sha256,
                "classifier": None if classes is None else classes.sha256,
                "model": None if model is None else [hashlib.sha256(model.content).hexdigest(), model.sample_rate],
            },
        )
        self.parts_folder, self.max_duration_s, self.common_band_hz = parts_folder, max_duration_s, common_band_hz
        self.metadata = {SETTINGS: settings}

    def evaluate_shard(self, work: tuple[str, list[MeasurementRequest]]) -> int:
        """Evaluate a shard: write the metrics of clips (of real ones also through the codec), pairs, features and
        rejected clips; returns the number of clips.

        If the table of metrics exists, because another attempt or another run wrote it, nothing is written.
        """
        name, items = work
        part_uri = storage.join(self.parts_folder, "metrics", name)
        if storage.exists(part_uri):
            return len(items)
        found, reader = _ShardResult(), tars.TarMemberReader()
        contents = {item: None if item.partner else self.cache.content(item, reader) for item in items}
        measured = {item: known for item in items if (known := self.cache.find(item, contents[item])) is not None}
        unknown = self._loaded([item for item in items if item not in measured], found, reader)
        for clips in held_together(unknown, lambda one: len(one[1]) / SAMPLE_RATE, MAX_BATCH_S):
            for (item, _), measurements in zip(clips, self._measure(clips, found, reader), strict=True):
                measured[item] = measurements
                self.cache.keep(item, contents[item], measurements)
        for item in items:
            if item in measured:
                found.add(item, measured[item])
        for folder, content, schema in (
            ("rejected", found.rejected, REJECTED),
            ("pairs", found.pairs, PAIRS),
            ("features", found.features, FEATURES),
        ):
            tables.write_table(
                storage.join(self.parts_folder, folder, name), pa.Table.from_pylist(content, schema), self.metadata
            )
        tables.write_table(part_uri, pa.Table.from_pylist(found.metrics, METRICS), self.metadata)
        return len(items)

    def _loaded(
        self, items: Sequence[MeasurementRequest], found: _ShardResult, reader: tars.TarMemberReader
    ) -> Iterator[tuple[MeasurementRequest, np.ndarray]]:
        """Requests with their decoded clips; rejected clips are added to `found`."""
        for item in items:
            clip = item.clip
            try:
                yield item, load_clip(clip.uri, reader, self.max_duration_s, clip.dataset)
            except RejectedAudio as error:
                rejection = {
                    "clip_id": clip.clip_id,
                    "uri": clip.uri,
                    "stage": "measure",
                    "reason": error.reason.value,
                    "detail": error.detail,
                }
                found.rejected.append(rejection)

    def _measure(
        self, clips: Sequence[tuple[MeasurementRequest, np.ndarray]], found: _ShardResult, reader: tars.TarMemberReader
    ) -> Iterator[Measurements]:
        """The measurements of each request; metrics of pairs are added to `found`.

        Each clip is a batch of its own, because the last bits of a network's output depend on the batch size, and a
        measurement must not depend on the other clips.
        """
        partners: dict[str, np.ndarray] = {}  # real clips by URI; one may be paired with several generated clips
        for item, whole in clips:
            measured: Measurements = {}
            waveform = self._low_passed(whole)
            through_codec = self._low_passed(self.resynthesize([whole])[0]) if item.through_codec else waveform
            if item.source is not None:
                measured["metrics"] = metrics_of(waveform)
            if item.source == Source.REAL:
                measured["resynthesized"] = metrics_of(through_codec)
            if item.partner is not None:
                with contextlib.suppress(RejectedAudio):  # the rejection is in the row of the real clip
                    if item.partner.uri not in partners:
                        partner = load_clip(item.partner.uri, reader, self.max_duration_s, item.partner.dataset)
                        partners[item.partner.uri] = self._low_passed(partner)
                    found.pairs.append(pairs_row(item.partner, item.clip, partners[item.partner.uri], waveform))
            if item.role is not None:
                [measured["features"]] = self.extractor.features([waveform], [through_codec])
            yield measured

    def _low_passed(self, pcm: np.ndarray) -> np.ndarray:
        """The clip to measure: low-passed if a common band is set."""
        return pcm if self.common_band_hz is None else low_passed(pcm, self.common_band_hz)


def metrics_of(pcm: np.ndarray) -> dict[str, float]:
    """The columns of `metrics` that are measured."""
    return {"duration_s": len(pcm) / SAMPLE_RATE} | clip_metrics(pcm, SAMPLE_RATE)


def metrics_row(clip: Clip, source: Source) -> dict[str, Any]:
    """The columns of `metrics` that are not measured."""
    return {"clip_id": clip.clip_id, "source": source.value, "category": clip.category}


def pairs_row(real: Clip, generated: Clip, real_pcm: np.ndarray, generated_pcm: np.ndarray) -> dict[str, Any]:
    """A row of `pairs`."""
    return {
        "real_id": real.clip_id,
        "generated_id": generated.clip_id,
        "spectral_convergence": spectral_convergence(real_pcm, generated_pcm),
        "log_spectral_distance": log_spectral_distance(real_pcm, generated_pcm),
    }


def features_row(item: MeasurementRequest) -> dict[str, Any]:
    """The columns of `features` that are not measured."""
    clip = item.clip
    return {
        "clip_id": clip.clip_id,
        "role": item.role,
        "category": clip.category,
        "fold": clip.fold,
        "recording": recording_of(clip),
    }


def evaluation_tables(
    run: TableRun,
    items: list[MeasurementRequest],
    weights: tuple[bytes, bytes | None, Model | None],
    *,
    job: dict[str, Any],
    shard_size: int,
) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
    """Evaluate the missing shards; returns the tables of metrics, pairs, features and rejected clips.

    Args:
        run: the evaluation.
        items: the measurement requests.
        weights: content of the codec's file, content of the classifier's file or None, the embedding model or None.
        job: the last three arguments of `EvaluatorActor`, by name.
        shard_size: items per shard.

    Raises:
        SoundStormError, ClusterError: as `jobs.actors.sharded_output.run_missing_shards` does.
    """
    output = ShardedOutput(
        description="evaluate",
        output_dir=run.output_dir,
        folder="parts/metrics",
        num_items=len(items),
        shard_size=shard_size,
        payload=lambda numbers: [items[number] for number in numbers],
        settings=run.settings,
    )
    parts_folder = storage.join(run.output_dir, "parts")

    def prepare(info: ClusterInfo) -> Callable[[], Any]:
        reference = ray.put(weights)
        actor_class = ray.remote(EvaluatorActor).options(**actor_resources(info))
        device = "cuda" if info.num_gpus else "cpu"
        return lambda: actor_class.remote([reference], parts_folder, run.settings, device, **job)

    run_missing_shards(output, run.address, prepare, "evaluate_shard", run.num_actors)
    metrics, pairs, features, rejected = (
        pa.concat_tables(output.tables(schema, f"parts/{name}")) for name, schema in TABLES.items()
    )
    for name, table in (("metrics", metrics), ("pairs", pairs), ("features", features)):
        require_measured(table, TABLES[name], storage.join(parts_folder, name))
    return metrics, pairs, features, rejected
