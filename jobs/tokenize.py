"""Turn recordings into codec tokens: Ray Data runs a pool of codec actors that read and encode the recordings. If the
actors have GPUs, CPU tasks read and decode ahead of them.

The unit of work is a numbered shard of clips. The actor writes the shard's table of tokens atomically, under a name
made of the number: processing a shard twice changes nothing, and a later run skips finished shards. A clip that cannot
be decoded, or that crashes every worker, becomes a row of `rejected`, and the run continues. With `--views` the table
has further rows of each clip, one per augmented view, see `soundstorm.data.views`. Views do not depend on how clips are
divided into shards.
"""

import gc
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import pyarrow as pa
from annotated_types import Ge, Gt, Le
from ray.exceptions import RayError

from cluster import storage, tables
from cluster.runtime.connect import connect
from cluster.scheduling.attempt_tracker import tracking
from cluster.tables.stream import in_slices, write_table_stream
from jobs.actors.sharded_output import SETTINGS, settings_digest
from jobs.actors.tokenized_clips import TokenizedClips
from jobs.actors.tokenizing_pool import TokenizingPool, cause_of, missing_shards, was_killed
from jobs.console.command import exit_process, print_warning, run_command
from jobs.console.options import Allowed, Fraction, PoolOptions
from jobs.console.progress import progress
from jobs.console.resume import Stage, run_once
from jobs.inputs.audio_files import split_long
from jobs.inputs.clip_notes import report_notes
from jobs.inputs.codecs import choose_codec
from jobs.inputs.datasets import (
    DatasetOptions,
    check_not_inside_dataset,
    folds_record,
    index_digest,
    only_listed,
    open_and_report,
    report_ignored,
)
from jobs.inputs.rejections import check_rejected_fraction
from jobs.inputs.tokens import CODEC_TRAINED_ON
from soundstorm.audio.files import MAX_DURATION_S
from soundstorm.codec.files import provenance_of_codec
from soundstorm.data.accounting import Account
from soundstorm.data.datasets import Index
from soundstorm.data.indexing.text_lookup import iter_texts
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CodecFingerprint
from soundstorm.serialization.provenance import TrainedOn

MAX_POOLS = 4
"""Number of pools that are started at most, if actors are killed from outside repeatedly."""
SHORTEST_WINDOW_S = 0.1
"""Shortest window of `--long split`; windows are named by milliseconds."""
IGNORED_FILE = "ignored.parquet"
MAX_VIEWS = 1000


@dataclass(kw_only=True)
class Options(DatasetOptions, PoolOptions):
    """Turn the recordings of a dataset into codec tokens."""

    output_dir: str = "runs/tokens"
    """Folder or s3:// prefix for clips.parquet, tokens/, rejected/, ignored.parquet, notes/ and tokenize.json."""
    clips: str | None = None
    """Text file, path or URI, with one clip id or file name per line: only these are tokenized. Default: all."""
    codec: str | None = None
    """Weights of the codec (.safetensors or the official .th), path or URI; default: official EnCodec if available,
    else the one in the package."""
    max_duration: Annotated[float, Gt(0), Le(3600), Allowed("seconds, more than 0 and at most 3600")] = MAX_DURATION_S
    """Longest clip in seconds."""
    long: Literal["cut", "split"] = "cut"
    """How longer recordings are treated: cut: the rest is ignored; split: they are divided into windows of equal
    length, each a clip in the recording's fold."""
    views: Annotated[int, Ge(0), Le(MAX_VIEWS), Allowed(f"0 to {MAX_VIEWS} views beside the recording")] = 0
    """Number of augmented views of each clip that are tokenized beside the original: at another speed, start and
    loudness, some mixed with another clip of the class."""
    max_rejected: Fraction = 0.05
    """Fraction of clips (0 to 1) that may be rejected before the job fails."""
    shard_size: Annotated[int, Ge(1), Le(4096), Allowed("1 to 4096 clips")] = 32
    """Clips per shard."""
    verbose: bool = False
    """List every file of the data folder that is ignored, with the reason."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.long == "split" and self.max_duration < SHORTEST_WINDOW_S:
            raise SoundStormError(
                f"--max-duration is {self.max_duration}: with --long split, give at least {SHORTEST_WINDOW_S:g} seconds"
            )


def run(options: Options) -> dict[str, Any]:
    """Index the dataset, tokenize every clip that has no tokens yet, and count what was rejected."""
    check_not_inside_dataset(options.output_dir, options)
    storage.check_writable(options.output_dir)
    index = only_listed(open_and_report(options), options.clips)
    weights, codec = choose_codec(options.codec)
    fingerprint = codec.fingerprint
    settings = {
        "dataset": options.dataset,
        "data_dir": storage.absolute(options.location),
        "clips": index_digest(index.clips),
        "codec_sha256": fingerprint.sha256,
        "max_duration_s": options.max_duration,
        "long": options.long,
        "shard_size": options.shard_size,
        "views": options.views,
    }
    outputs = ("clips.parquet", "tokens", "rejected", IGNORED_FILE, "notes")
    report_ignored(index, options.verbose)
    stage = Stage(
        "tokenize", options, settings, outputs, required=("clips.parquet", "tokens", "rejected", IGNORED_FILE)
    )
    return run_once(
        stage,
        lambda: _write(options, index, weights, fingerprint, settings),
        partial(_summary, options),
        is_complete=lambda counts: _has_all_shards(options, index),
    )


def _write(
    options: Options, index: Index, weights: bytes, fingerprint: CodecFingerprint, settings: dict[str, Any]
) -> dict[str, Any]:
    """Tokenize the clips that have no tokens yet, and write all tables; returns the counts."""
    if options.long == "split":
        index = replace(index, clips=split_long(index.clips, options.max_duration))
    for name, table, about in (
        ("clips.parquet", index.clips, _index_metadata(index)),
        ("rejected/part-index.parquet", index.rejected, {}),
        (IGNORED_FILE, index.ignored, {}),
    ):
        write_table_stream(storage.join(options.output_dir, name), table.schema, in_slices(table), about)
    metadata = (
        fingerprint.to_metadata()
        | _index_metadata(index)
        | {"max_duration_s": str(options.max_duration), SETTINGS: settings_digest(settings)}
    )
    _tokenize(options, index.clips, weights, metadata)
    learned = provenance_of_codec(weights)
    return _account(options, index) | {CODEC_TRAINED_ON: learned.to_dict() if isinstance(learned, TrainedOn) else None}


def _tokenize(options: Options, clips: pa.Table, weights: bytes, metadata: dict[str, str]) -> None:
    """Process the missing shards. Ray Data does not replace an actor that was killed with `ray.kill`: then another pool
    processes the remaining shards."""
    pool = TokenizingPool(
        output_dir=options.output_dir,
        clips=clips,
        shard_size=options.shard_size,
        views=options.views,
        weights=weights,
        metadata=metadata,
        max_duration_s=options.max_duration,
        num_actors=options.num_actors,
    )
    todo = pool.missing_shards()
    if not todo:
        return
    with (
        connect(options.address) as info,
        progress("tokenize", clips.num_rows, pool.num_done(todo)) as counter,
        tracking() as tracker,
    ):
        for pools_left in reversed(range(MAX_POOLS)):
            try:
                pool.run(todo, info, tracker, counter)
                return
            except RayError as error:
                cause = cause_of(error, tracker)
                if not (was_killed(error) and pools_left):
                    raise SoundStormError(
                        f"{options.output_dir}: tokenizing failed ({cause}); what is finished is kept, run the same "
                        "command again"
                    ) from error
            print_warning(f"{cause}; a new pool processes the remaining shards")
            # the remaining actors hold their CPUs until the error, a reference cycle, is garbage-collected
            gc.collect()
            todo = pool.missing_shards()
            counter.advance(max(0, pool.num_done(todo) - counter.done))


def _has_all_shards(options: Options, index: Index) -> bool:
    """Whether a finished run still has all shards. With `--long split` their number is not known yet, so only their
    folder is checked."""
    return options.long == "split" or not missing_shards(options.output_dir, index.clips.num_rows, options.shard_size)


def _account(options: Options, index: Index) -> dict[str, Any]:
    """Count the rows in storage; raises SoundStormError if too many clips were rejected or any is missing."""
    num_tokens = tables.table_info(storage.join(options.output_dir, "tokens")).num_rows
    result = TokenizedClips(
        output_dir=options.output_dir, index=index, shard_size=options.shard_size, metadata=_index_metadata(index)
    )
    num_rejected = result.num_rejected()
    total = index.clips.num_rows + index.rejected.num_rows
    rows_per_clip = 1 + options.views
    if num_tokens != rows_per_clip * (total - num_rejected):
        each = f", {rows_per_clip} per clip," if options.views else ""
        raise SoundStormError(
            f"{options.output_dir}: {total} clips gave {num_tokens} rows of tokens{each} and {num_rejected} "
            "rejected: run again with --overwrite"
        )
    reasons = check_rejected_fraction(
        result.rejections(),
        total,
        options.max_rejected,
        problem="were rejected",
        named_by="clip_id",
        remedy=f"all are listed in {result.rejected_uri}",
    )
    notes, files = result.write_notes()
    report_notes(notes, total, "" if options.long == "split" else "; --long split uses them")
    return {
        "clips": total,
        "tokens": num_tokens,
        "views": options.views,
        "rejected": num_rejected,
        "reasons": reasons,
        "silent": sorted(notes.silent),
        "notes": notes.counts,
        "unused_s": round(notes.unused_s, 2),
        "files": asdict(files),
        "ignored_reasons": dict(Counter(iter_texts(index.ignored["reason"]))),
    } | folds_record(index, options)


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    usable = counts["clips"] - counts["rejected"]
    views = f" in {1 + counts['views']} views each" if counts["views"] else ""
    message = (
        f"{prefix}{usable} of {counts['clips']} clips tokenized{views}, {counts['rejected']} rejected, in "
        f"{options.output_dir}"
    )
    message += f" ({Account(**counts['files'])})"
    return {"message": message, "output_dir": options.output_dir, **counts}


def _index_metadata(index: Index) -> dict[str, str]:
    return {"categories": json.dumps(index.categories, ensure_ascii=False), "num_folds": str(index.num_folds)}


if __name__ == "__main__":
    exit_process(run_command(Options, run))
