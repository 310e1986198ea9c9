"""Classify any number of audio files: one table with the most probable categories of each file.

Each actor takes a shard of the list of files, reads and decodes them ahead of the classifier, and writes the shard's
tables; the list is never in memory as a whole. An interrupted run resumes with the missing shards. A file that cannot
be decoded, or that crashes every worker, becomes a row of `rejected`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
import ray
import tyro
from annotated_types import Ge, Le
from rich.markup import escape

from cluster import storage, tables
from cluster.runtime.connect import ClusterInfo
from cluster.scheduling.attempt_tracker import start_tracker
from cluster.scheduling.limits import Limits
from cluster.tables.stream import write_table_stream
from jobs.actors.classifier import ClassifierActor
from jobs.actors.sharded_output import ShardedOutput, actor_resources, run_missing_shards, settings_digest
from jobs.console.command import console, exit_process, run_command
from jobs.console.options import Allowed, Count, PoolOptions
from jobs.console.resume import Stage, run_once
from jobs.inputs.classifiers import CODEC_FILE, classifier_files, classifier_place, open_classifier_files
from jobs.inputs.codecs import choose_codec
from jobs.inputs.file_listing import list_audio
from jobs.inputs.recordings import HANG_S
from soundstorm.classification.classifier import Classifier
from soundstorm.classification.token_classifier import TrainedTokenClassifier
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CLASSIFIED, REJECTED

STAGE = "classify"
TABLES = {"classified": CLASSIFIED, "rejected": REJECTED}
"""Tables of each shard, and their schemas."""
MAX_RETRIES = 20
"""Retries of a shard after its actor died: enough to find six poison files in it."""
DEFAULT_TOP = 3
MAX_SHOWN = 20
"""Results of at most this many files are also printed."""

MIN_SHARDS, MAX_SHARD_SIZE = 8, 1024
"""Minimum number of shards, if there are as many files, and maximum size of a shard."""


@dataclass(kw_only=True)
class Options(PoolOptions):
    """Classify audio files: the most probable categories of each, with their probabilities."""

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES_OR_URIS")] = ()
    """Audio files, folders, s3:// prefixes, and patterns such as 's3://bucket/**/*.wav' (in quotes)."""
    list: str | None = None
    """More files: a Parquet table, or a folder of part-*.parquet, with a column `uri`."""
    checkpoint: str | None = None
    """Classifier: the --output-dir of `train-classifier` or its classifier.safetensors, path or URI; default: the one
    in the package."""
    codec: str | None = None
    """Codec, path or URI, if the classifier works on codes; default: the one beside the classifier, else the one in the
    package, else official EnCodec."""
    output_dir: str = "runs/classified"
    """Folder or s3:// prefix for classified.parquet, rejected.parquet, parts/ and classify.json."""
    top: Count | None = None
    """Number of categories per file, the most probable first; default: 3, or all if the classifier knows fewer."""
    name_all: bool = False
    """Also classify silent and very short files, although the result is meaningless. The column `note` marks such files
    in any case."""
    window: Annotated[float, Ge(0.1), Le(600), Allowed("0.1 to 600 seconds")] = 10.0
    """Longest window in seconds: a longer file is classified in windows of equal length, and their probabilities are
    averaged."""
    max_duration: Annotated[float, Ge(0.1), Le(86_400), Allowed("0.1 to 86400 seconds")] = 3600.0
    """Seconds of each file that are used; the rest is ignored."""
    shard_size: Count | None = None
    """Files per shard; an interrupted run repeats its unfinished shards. Give fewer if files are long. Default: an
    eighth of all files, at most 1,024."""


def run(options: Options) -> dict[str, Any]:
    """Classify the files that are missing, then write the tables."""
    storage.check_writable(options.output_dir)
    files, classifier = _open_classifier(options)
    known = len(classifier.categories)
    if options.top is not None and options.top > known:
        raise SoundStormError(
            f"--top is {options.top}: the classifier knows {known} {'category' if known == 1 else 'categories'}; give "
            "at most that many"
        )
    top = options.top or min(DEFAULT_TOP, known)
    with list_audio(options.files, options.list) as listing:
        shard_size = options.shard_size or default_shard_size(listing.count)
        settings = {
            "classifier_sha256": classifier.sha256,
            "num_files": listing.count,
            "files_sha256": listing.digest,
            "top": top,
            "name_all": options.name_all,
            "window_s": options.window,
            "max_duration_s": options.max_duration,
            "shard_size": shard_size,
        }
        stage = Stage(STAGE, options, settings, ("parts", *(f"{name}.parquet" for name in TABLES), "failed.parquet"))
        output = ShardedOutput(
            description=STAGE,
            output_dir=options.output_dir,
            folder="parts/classified",
            num_items=listing.count,
            shard_size=shard_size,
            payload=listing.reader(),
            settings=settings_digest(settings),
        )

        def work() -> dict[str, Any]:
            limit_s = HANG_S + shard_size * options.max_duration
            run_missing_shards(
                output,
                options.address,
                lambda info: _actors(options, top, output, info, files, limit_s),
                "classify_shard",
                options.num_actors,
                Limits(max_retries=MAX_RETRIES, shard_timeout_s=limit_s),
            )
            return _write_tables(options, output, classifier)

        return run_once(
            stage,
            work,
            partial(_summary, options),
            is_complete=lambda counts: all(storage.exists(_table_uri(options, name)) for name in TABLES),
        )


def default_shard_size(count: int) -> int:
    """Default number of files per shard: small runs are divided among several actors, and shards are never too
    large."""
    return max(1, min(MAX_SHARD_SIZE, -(-count // MIN_SHARDS)))


def _open_classifier(options: Options) -> tuple[dict[str, bytes], Classifier]:
    """The classifier, and its files with the codec that it needs, so that no actor has to find one."""
    files = classifier_files(options.checkpoint)
    where = classifier_place(options.checkpoint)
    classifier = open_classifier_files(files, codec_option=options.codec, where=where)
    if isinstance(classifier, TrainedTokenClassifier) and (options.codec is not None or CODEC_FILE not in files):
        files |= {CODEC_FILE: choose_codec(options.codec, classifier.codec.fingerprint, where)[0]}
    return files, classifier


def _actors(
    options: Options, top: int, output: ShardedOutput, info: ClusterInfo, files: dict[str, bytes], limit_s: float
) -> Callable[[], Any]:
    """A function that creates an actor in the cluster."""
    reference, tracker = ray.put(files), start_tracker()
    actor_class = ray.remote(ClassifierActor).options(**actor_resources(info))
    job = {
        "parts_folder": storage.join(options.output_dir, "parts"),
        "top": top,
        "name_all": options.name_all,
        "window_s": options.window,
        "max_duration_s": options.max_duration,
        "limit_s": limit_s,
        "settings": output.settings,
    }
    return lambda: actor_class.remote([reference], tracker, job, "cuda" if info.num_gpus else "cpu")


def _write_tables(options: Options, output: ShardedOutput, classifier: Classifier) -> dict[str, Any]:
    """Write both tables from those of the shards, a few at a time; returns the counts."""
    reasons: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    first: list[str] = []

    def counted(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for part in parts:
            reasons.update(part["reason"].to_pylist())
            first.extend(f"{row['uri']}: {row['detail']}" for row in part.slice(0, 1 - len(first)).to_pylist())
            yield part

    def noted(parts: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for part in parts:
            notes.update(note for note in part["note"].to_pylist() if note is not None)
            yield part

    metadata = {
        "categories": json.dumps(classifier.categories, ensure_ascii=False),
        "dataset": classifier.dataset,
        "model": classifier.kind,
        "classifier_sha256": classifier.sha256,
        "window_s": str(options.window),
    }
    rejected = write_table_stream(
        _table_uri(options, "rejected"), REJECTED, counted(output.tables(REJECTED, "parts/rejected")), {}
    )
    if rejected == output.num_items:
        listing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise SoundStormError(
            f"none of {rejected} files can be used ({listing}; {first[0]}); all are listed in "
            f"{_table_uri(options, 'rejected')}"
        )
    classified = write_table_stream(
        _table_uri(options, "classified"), CLASSIFIED, noted(output.tables(CLASSIFIED, "parts/classified")), metadata
    )
    if classified + rejected != output.num_items:
        raise SoundStormError(
            f"{options.output_dir}: {output.num_items} files gave {classified} rows and {rejected} rejected: use "
            "--overwrite"
        )
    return {
        "files": output.num_items,
        "classified": classified,
        "rejected": rejected,
        "reasons": dict(reasons),
        "notes": dict(notes),
    }


def _table_uri(options: Options, name: str) -> str:
    return storage.join(options.output_dir, f"{name}.parquet")


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    uri = _table_uri(options, "classified")
    if counts["classified"] <= MAX_SHOWN:
        for row in tables.read_table(uri)[0].to_pylist():
            named = ", ".join(
                f"{category} {share:.0%}"
                for category, share in zip(row["categories"], row["probabilities"], strict=True)
            )
            said = " ".join(part for part in (row["note"] and f"({row['note']})", named or "no class") if part)
            console.print(f"{escape(row['uri'])}: [bold]{escape(said)}[/]")
    noted = ", ".join(f"{count} {note}" for note, count in counts["notes"].items())
    unnamed = 0 if options.name_all else sum(counts["notes"].values())
    without = f", {unnamed} without a class ({noted})" if unnamed else f" (of them {noted})" if noted else ""
    listing = (
        f" ({', '.join(f'{count} {reason}' for reason, count in counts['reasons'].items())})"
        if counts["rejected"]
        else ""
    )
    named_files = f"{counts['classified'] - unnamed} of {counts['files']} files classified{without}"
    message = f"{prefix}{named_files}, {counts['rejected']} rejected{listing}, in {uri}"
    return {"message": message, "output_dir": options.output_dir, **counts}


if __name__ == "__main__":
    exit_process(run_command(Options, run))
