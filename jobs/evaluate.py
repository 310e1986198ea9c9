"""Generated sound against real: every clip is brought to one sample rate, measured by a pool of actors, and shown side by side.

Three columns: real, real through the codec (the ceiling of any model on that codec), generated. Parts are written by the actors
that made them; a run that was stopped goes on where it was.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import ray

from cluster import records, storage, tables
from cluster.connect import connect
from jobs.clips import Clip, digest, draw_per_category, find_clips, pair_up
from jobs.codecs import choose_codec
from jobs.entry import start
from jobs.listening import choose_examples, read_log
from jobs.measurer import Measurer, load_clip, resynthesize
from jobs.parts import Plan, actor_resources, complete, default_actors
from soundstorm.audio import SAMPLE_RATE
from soundstorm.codec import Codec
from soundstorm.datasets import DATASETS
from soundstorm.errors import SoundStormError
from soundstorm.report import ReportData, render_report
from soundstorm.schemas import CodecFingerprint, Source
from soundstorm.statistics import Summary, summarize


@dataclass(kw_only=True)
class Options:
    """Measure generated clips against real ones and write a report with players."""

    real_audio: str
    """Real clips: a dataset's folder, a table of clips, the output of `tokenize`, or a folder of audio; path or URI."""
    generated_audio: str
    """Generated clips: the output of `generate`, its samples.parquet, or a folder of audio."""
    output_dir: str = "runs/evaluation"
    """Folder or s3:// prefix for metrics.parquet, pairs.parquet, rejected.parquet, summary.json, report.html and evaluate.json."""
    metrics: Literal["all", "acoustic"] = "all"
    """acoustic: the six of single clips; all: also the two that compare pairs."""
    fold: int | None = None
    """Use real clips of this fold only."""
    clips_per_class: int | None = None
    """Real clips per class, drawn by --seed; default: all."""
    seed: int = 0
    """Draws the real clips."""
    codec: str | None = None
    """Weights of the codec for the column `resynthesized`; default: the one the generated clips were made with, else as in `tokenize`."""
    training_log: str | None = None
    """log.csv of `train`, for the curves in the report."""
    examples_per_class: int = 1
    """Clips of each class and source to listen to in the report."""
    max_rejected: float = 0.05
    """Share of clips (0 to 1) that may be unusable before the job fails."""
    num_actors: int | None = None
    """Measuring actors; default: one per GPU, or one per CPU where there is none."""
    shard_size: int = 16
    """Clips per part."""
    overwrite: bool = False
    """Start afresh: delete what earlier runs left in the output folder."""
    address: str | None = None
    """Ray cluster to join; default: start one here."""

    def __post_init__(self) -> None:
        for name, value, lowest in (
            ("--clips-per-class", self.clips_per_class, 1),
            ("--num-actors", self.num_actors, 1),
            ("--shard-size", self.shard_size, 1),
            ("--examples-per-class", self.examples_per_class, 0),
            ("--fold", self.fold, 1),
        ):
            if value is not None and value < lowest:
                raise SoundStormError(f"{name} is {value}: give at least {lowest}")
        if not 0 <= self.max_rejected <= 1:
            raise SoundStormError(f"--max-rejected is {self.max_rejected}: give a share from 0 to 1")


def run(options: Options) -> dict[str, Any]:
    """Measure what is missing, then compare and write the report."""
    storage.check_writable(options.output_dir)
    real = _real_clips(options)
    generated = find_clips("--generated-audio", options.generated_audio)
    training_log = read_log(options.training_log)
    weights, codec = choose_codec(options.codec, *_codec_of(options.generated_audio))
    settings = {
        "real_audio": storage.absolute(options.real_audio),
        "generated_audio": storage.absolute(options.generated_audio),
        "real_clips": digest(real),
        "generated_clips": digest(generated),
        "training_log": hashlib.sha256(repr(training_log).encode()).hexdigest(),
        "examples_per_class": options.examples_per_class,
        "metrics": options.metrics,
        "fold": options.fold,
        "clips_per_class": options.clips_per_class,
        "seed": options.seed,
        "codec_sha256": codec.fingerprint.sha256,
        "sample_rate": SAMPLE_RATE,
        "shard_size": options.shard_size,
    }
    outputs = ("parts", "metrics.parquet", "pairs.parquet", "rejected.parquet", "summary.json", "report.html")
    record = records.begin(options.output_dir, "evaluate", settings, overwrite=options.overwrite, outputs=outputs)
    if record is not None:
        return _summary(options, record.counts, "already done: ")
    metrics, pairs, rejected = _measure(options, real, generated, weights)
    reasons = _check_rejected(options, rejected, len(real) + len(generated))
    unusable = set(rejected["uri"].to_pylist())
    real, generated = ([clip for clip in clips if clip.uri not in unusable] for clips in (real, generated))
    summary = summarize(metrics, pairs)
    tables.write_table(storage.join(options.output_dir, "metrics.parquet"), metrics, codec.fingerprint.to_metadata())
    tables.write_table(storage.join(options.output_dir, "pairs.parquet"), pairs, {})
    tables.write_table(storage.join(options.output_dir, "rejected.parquet"), rejected, {})
    content = json.dumps(summary.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    storage.write_bytes(storage.join(options.output_dir, "summary.json"), content.encode())
    page = _report(options, real, generated, codec, metrics, summary, training_log, reasons)
    storage.write_bytes(storage.join(options.output_dir, "report.html"), page.encode())
    counts = {"real": len(real), "generated": len(generated), "rejected": rejected.num_rows, "worst": _worst(summary)}
    records.finish(options.output_dir, "evaluate", settings, counts)
    return _summary(options, counts, "")


def _real_clips(options: Options) -> list[Clip]:
    clips = find_clips("--real-audio", options.real_audio)
    if options.fold is not None:
        folds = sorted({clip.fold for clip in clips})
        clips = [clip for clip in clips if clip.fold == options.fold]
        if not clips:
            raise SoundStormError(f"--fold is {options.fold}: {options.real_audio} has folds {', '.join(map(str, folds))}")
    return draw_per_category(clips, options.clips_per_class, options.seed)


def _codec_of(generated_audio: str) -> tuple[CodecFingerprint | None, str]:
    """Fingerprint of the codec that made the clips, from their manifest, and the manifest's name; None where there is no manifest."""
    for uri in (generated_audio, storage.join(generated_audio, "samples.parquet")):
        if uri.endswith(".parquet") and storage.exists(uri):
            metadata = tables.table_info(uri).metadata
            if "codec_sha256" in metadata:
                return CodecFingerprint.from_metadata(metadata, uri), uri
    return None, ""


def _measure(options: Options, real: list[Clip], generated: list[Clip], weights: bytes) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Metrics, pairs and rejected, from parts that are made where they are missing."""
    partners: Sequence[Clip | None] = pair_up(generated, real) if options.metrics == "all" else [None] * len(generated)
    work = [(Source.REAL, clip, None) for clip in real] + [
        (Source.GENERATED, clip, partner) for clip, partner in zip(generated, partners, strict=True)
    ]
    parts_folder = storage.join(options.output_dir, "parts")
    plan = Plan(
        description="evaluate",
        folder=storage.join(parts_folder, "metrics"),
        num_items=len(work),
        shard_size=options.shard_size,
        payload=lambda items: [work[item] for item in items],
    )
    if plan.missing():
        with connect(options.address) as info:
            reference = ray.put(weights)
            actor_class = ray.remote(Measurer).options(**actor_resources(info))
            device = "cuda" if info.num_gpus else "cpu"
            complete(plan, lambda: actor_class.remote([reference], parts_folder, device), "measure_part", default_actors(info, options.num_actors))
    metrics, pairs, rejected = (tables.read_table(storage.join(parts_folder, name))[0] for name in ("metrics", "pairs", "rejected"))
    return metrics, pairs, rejected


def _check_rejected(options: Options, rejected: pa.Table, total: int) -> dict[str, int]:
    """How many clips were rejected for each reason; raises when they are too many."""
    reasons = Counter(rejected["reason"].to_pylist())
    if rejected.num_rows > options.max_rejected * total:
        first = rejected.slice(0, 1).to_pylist()[0]
        raise SoundStormError(
            f"{rejected.num_rows} of {total} clips cannot be measured ({', '.join(f'{count} {reason}' for reason, count in reasons.most_common())}; "
            f"for example {first['uri']}: {first['detail']}), more than --max-rejected {options.max_rejected:g} allows"
        )
    return dict(reasons)


def _report(
    options: Options,
    real: list[Clip],
    generated: list[Clip],
    codec: Codec,
    metrics: pa.Table,
    summary: Summary,
    training_log: list[dict[str, Any]],
    reasons: dict[str, int],
) -> str:
    examples = choose_examples(real, generated, options.examples_per_class, load_clip, lambda pcm: resynthesize(codec, [pcm])[0])
    fingerprints = {"codec": f"{codec.fingerprint.name} {codec.fingerprint.sha256}"}
    manifest = (
        storage.join(options.generated_audio, "samples.parquet") if not options.generated_audio.endswith(".parquet") else options.generated_audio
    )
    sampler: dict[str, str] = {}
    if storage.exists(manifest):
        metadata = tables.table_info(manifest).metadata
        sampler = {name.removeprefix("sampler_"): value for name, value in metadata.items() if name.startswith("sampler_")}
        if "checkpoint_sha256" in metadata:
            fingerprints["checkpoint"] = metadata["checkpoint_sha256"]
    return render_report(
        ReportData(
            title="Generated against real",
            generated_at=datetime.now(UTC),
            summary=summary,
            metrics=metrics,
            examples=examples,
            training_log=training_log,
            settings={
                "Real clips": {"from": options.real_audio, "fold": options.fold or "all", "per class": options.clips_per_class or "all"},
                "Generated clips": {"from": options.generated_audio},
                "Sampler": sampler,
                "Comparison": {"sample rate": f"{SAMPLE_RATE} Hz", "metrics": options.metrics},
            },
            fingerprints=fingerprints,
            rejected=reasons,
            warnings=[] if options.fold else ["The real clips come from all folds, also from those that the model was trained on; --fold takes one."],
            credits=[f"{DATASETS[name].credit} ({DATASETS[name].licence})" for name in sorted({clip.dataset for clip in real}) if name in DATASETS],
        )
    )


def _worst(summary: Summary) -> str:
    """The metric that tells generated from real most surely, in words."""
    found = [(values["generated"].ks or 0.0, name) for name, values in summary.overall.metrics.items() if values["generated"] is not None]
    if not found:
        return "nothing generated"
    distance, name = max(found)
    return f"largest KS distance {distance:.2f} ({name})"


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    message = f"{prefix}{counts['generated']} generated against {counts['real']} real clips, {counts['worst']}: {options.output_dir}/report.html"
    return {"message": message, "output_dir": options.output_dir, **counts}


if __name__ == "__main__":
    sys.exit(start(Options, run))
