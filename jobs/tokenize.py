"""Recordings to codec tokens: Ray Data has a pool of codec actors read and encode them; for actors with GPUs, CPU tasks
read and decode ahead.

The unit of work is a shard of clips with a fixed number. Its actor writes the shard's table of tokens itself, whole or
not at all, under a name made of that number: doing a shard twice changes nothing, and a later run skips the shards that
are there. A clip that cannot be used becomes a row of `rejected`, and the run goes on; so does one at which worker
after worker dies. With `--views` the tokens have as many rows more of each clip, see `soundstorm.data.views`; what a
view is does not depend on how the clips are cut into shards.
"""

import gc
import json
import re
from collections import Counter as Counts
from dataclasses import asdict, dataclass, replace
from queue import SimpleQueue
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, WorkerCrashedError
from rich.markup import escape

from cluster import storage, tables
from cluster.runtime.connect import ClusterInfo, connect
from cluster.runtime.ray_data import bounded_retries, quiet_ray_data
from cluster.scheduling.attempt_tracker import ANSWER_S, open_ledger
from cluster.scheduling.watchdog import Vigil, limits_here, watch
from cluster.tables import stage_record as records
from jobs.actors.sharded_output import SETTINGS, settings_digest
from jobs.actors.tokenizer import PLANNED_CLIPS, ShardEncoder, read_shard, to_ipc
from jobs.console.command import console, leave, start
from jobs.console.progress import Counter, progress
from jobs.console.resume import all_there, told_again
from jobs.inputs.audio_files import split_long
from jobs.inputs.clip_notes import read_notes, tell, with_notes
from jobs.inputs.codecs import choose_codec
from jobs.inputs.datasets import (
    DatasetOptions,
    folds_record,
    index_digest,
    only_listed,
    open_and_tell,
    require_apart,
    tell_ignored,
)
from jobs.inputs.tokens import CODEC_TRAINED_ON
from soundstorm.audio.files import MAX_DURATION_S
from soundstorm.codec.files import provenance_of_codec
from soundstorm.data.accounting import Account, account
from soundstorm.data.datasets import Index
from soundstorm.data.notes import count_notes, kind_of, unused_s
from soundstorm.data.views import RECORDED, choose_partner
from soundstorm.errors import SoundStormError
from soundstorm.schemas import REJECTED, Note, check_table
from soundstorm.serialization.provenance import TrainedOn

MAX_SHARD_RETRIES = 20
"""Times that a shard is tried again after its worker died: Ray Data by itself would go on for ever. Enough to find six
deadly clips in it."""
MAX_POOLS = 4
"""Pools of actors that are begun, should actors be ended from outside again and again."""
HANG_S = 1800.0
"""A shard that takes this long and as long as all of its sound lasts hangs; its worker is replaced."""
SHORTEST_WINDOW_S = 0.1
"""Of `--long split`; windows are named by milliseconds."""
IGNORED_FILE = "ignored.parquet"
MAX_NAMED = 5
"""Clips named in an error."""
MAX_ERROR_CHARACTERS = 300
MAX_VIEWS = 1000


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Turn the recordings of a dataset into codec tokens."""

    output_dir: str = "runs/tokens"
    """Folder or s3:// prefix for clips.parquet, tokens/, rejected/, ignored.parquet, notes/ and tokenize.json."""
    clips: str | None = None
    """Text file, path or URI, with one clip id or file name a line: only these are tokenized. Default: all."""
    codec: str | None = None
    """Weights of the codec (.safetensors or the official .th), path or URI; default: official EnCodec if to be had,
    else the one in the package."""
    max_duration: float = MAX_DURATION_S
    """Seconds of a clip at most."""
    long: Literal["cut", "split"] = "cut"
    """What becomes of longer recordings: cut off what lies beyond, or split them into windows of equal length, each a
    clip, in the fold of theirs."""
    views: int = 0
    """Augmented views of each clip to tokenize beside the recording: other speed, start and level, some mixed with
    another clip of their class."""
    max_rejected: float = 0.05
    """Share of clips (0 to 1) that may be rejected before the job fails."""
    num_actors: int | None = None
    """Codec actors; default: one per GPU, or one per CPU where there is none."""
    shard_size: int = 32
    """Clips per unit of work."""
    verbose: bool = False
    """Name every file of the data folder that is ignored, with the reason."""
    overwrite: bool = False
    """Start afresh: delete what earlier runs left in the output folder."""
    address: str | None = None
    """Ray cluster to join; default: start one here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_duration <= 3600:
            raise SoundStormError(f"--max-duration is {self.max_duration}: give seconds, more than 0 and at most 3600")
        if self.long == "split" and self.max_duration < SHORTEST_WINDOW_S:
            raise SoundStormError(
                f"--max-duration is {self.max_duration}: with --long split, give at least {SHORTEST_WINDOW_S:g} seconds"
            )
        if not 0 <= self.views <= MAX_VIEWS:
            raise SoundStormError(f"--views is {self.views}: give 0 to {MAX_VIEWS} views beside the recording")
        if not 0 <= self.max_rejected <= 1:
            raise SoundStormError(f"--max-rejected is {self.max_rejected}: give a share from 0 to 1")
        if self.num_actors is not None and self.num_actors < 1:
            raise SoundStormError(f"--num-actors is {self.num_actors}: give at least 1")
        if not 1 <= self.shard_size <= 4096:
            raise SoundStormError(f"--shard-size is {self.shard_size}: give 1 to 4096 clips")


def run(options: Options) -> dict[str, Any]:
    """Index the dataset, tokenize every clip that has no tokens yet, and account for the rest."""
    require_apart(options.output_dir, options)
    storage.check_writable(options.output_dir)
    index = only_listed(open_and_tell(options), options.clips)
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
    tell_ignored(index, options.verbose)
    record = records.begin(options.output_dir, "tokenize", settings, overwrite=options.overwrite, outputs=outputs)
    if record is not None and _is_whole(options, index):
        return told_again(options.output_dir, "tokenize", lambda: _summary(options, record.counts, "already done: "))
    if options.long == "split":
        index = replace(index, clips=split_long(index.clips, options.max_duration))
    tables.write_table(storage.join(options.output_dir, "clips.parquet"), index.clips, _index_metadata(index))
    tables.write_table(storage.join(options.output_dir, "rejected", "part-index.parquet"), index.rejected, {})
    tables.write_table(storage.join(options.output_dir, IGNORED_FILE), index.ignored, {})
    metadata = (
        fingerprint.to_metadata()
        | _index_metadata(index)
        | {"max_duration_s": str(options.max_duration), SETTINGS: settings_digest(settings)}
    )
    _tokenize(options, index.clips, weights, metadata)
    learned = provenance_of_codec(weights)
    counts = _account(options, index) | {
        CODEC_TRAINED_ON: learned.to_dict() if isinstance(learned, TrainedOn) else None
    }
    records.finish(options.output_dir, "tokenize", settings, counts)
    return _summary(options, counts, "")


def _tokenize(options: Options, clips: pa.Table, weights: bytes, metadata: dict[str, str]) -> None:
    """Do the shards that are missing. Ray Data does not replace an actor that was ended with `ray.kill`: then another
    pool does what is left."""
    todo = _missing(options, clips)
    if not todo:
        return
    with (
        connect(options.address) as info,
        progress("tokenize", clips.num_rows, _num_done(options, clips, todo)) as counter,
    ):
        ledger = open_ledger()
        for pools_left in reversed(range(MAX_POOLS)):
            try:
                _work(options, _plan(options, clips, weights, metadata, todo, info, ledger), info, ledger, counter)
                return
            except RayError as error:
                cause = _cause(error, ledger)
                if not (_was_killed(error) and pools_left):
                    raise SoundStormError(
                        f"{options.output_dir}: tokenizing broke off ({cause}); what is finished is kept, run again"
                    ) from error
            console.print(f"[yellow]warning:[/] {escape(cause)}; another one does what is left", highlight=False)
            # the actors that are left hold their CPUs while the error, a cycle of references, is not collected
            gc.collect()
            todo = _missing(options, clips)
            counter.advance(max(0, _num_done(options, clips, todo) - counter.done))


def _is_whole(options: Options, index: Index) -> bool:
    """Whether all that a finished run left is still there; of windows of recordings, which are not counted yet, only
    whether there are any."""
    if not all_there(options.output_dir, "clips.parquet", "tokens", "rejected", IGNORED_FILE):
        return False
    return options.long == "split" or not _missing(options, index.clips)


def _missing(options: Options, clips: pa.Table) -> list[int]:
    """Shards that have no table of tokens yet."""
    there = {entry.uri for entry in storage.list_objects(storage.join(options.output_dir, "tokens"), ".parquet")}
    return [
        shard
        for shard in range(-(-clips.num_rows // options.shard_size))
        if _part_uri(options.output_dir, shard) not in there
    ]


def _num_done(options: Options, clips: pa.Table, todo: list[int]) -> int:
    """Clips of the shards that are not in `todo`."""
    return clips.num_rows - sum(_shard_clips(clips, shard, options.shard_size).num_rows for shard in todo)


def _work(options: Options, shards: ray.data.Dataset, info: ClusterInfo, ledger: Any, counter: Counter) -> None:
    """Have Ray Data do the shards, and keep watch over it."""
    rows: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def work() -> None:
        for row in shards.iter_rows():
            rows.put(row)

    def show() -> None:
        while not rows.empty():
            row = rows.get()
            counter.advance(row["clips"], row["rejected"])

    worker = {"CPU": 1.0, "GPU": 1.0 if info.num_gpus else 0.0}
    watch(work, Vigil(ledger=ledger, worker=worker, storage_uri=options.output_dir, limits=limits_here()), show)


def _was_killed(error: RayError) -> bool:
    """Whether an actor was ended from outside, and not by the shard that it worked on."""
    return isinstance(error, RayActorError) and "ray.kill" in str(error)


def _plan(
    options: Options,
    clips: pa.Table,
    weights: bytes,
    metadata: dict[str, str],
    todo: list[int],
    info: ClusterInfo,
    ledger: Any,
) -> ray.data.Dataset:
    quiet_ray_data(watched=True)
    planned = with_partners(clips, options.views)
    rows = [{"shard": shard, "clips": to_ipc(_shard_clips(planned, shard, options.shard_size))} for shard in todo]
    room = int(info.num_gpus) or max(1, int(info.num_cpus))
    num_actors = min(options.num_actors or room, room, len(todo))
    limit_s = HANG_S + options.shard_size * (1 + options.views) * options.max_duration
    shards = ray.data.from_items(rows, override_num_blocks=len(rows))
    # CPU tasks read ahead of the GPUs; elsewhere an actor reads for itself, so that throughput grows with their number
    if info.num_gpus:
        reading = {"max_duration_s": options.max_duration, "ledger": ledger, "limit_s": limit_s}
        with bounded_retries():
            shards = shards.map(read_shard, fn_kwargs=reading, num_cpus=1, max_retries=MAX_SHARD_RETRIES)
    output_dir = storage.absolute(options.output_dir)
    with bounded_retries():
        return shards.map(
            ShardEncoder,
            fn_constructor_args=(
                ray.put(weights),
                output_dir,
                metadata,
                options.max_duration,
                bool(info.num_gpus),
                ledger,
                limit_s,
            ),
            compute=ray.data.ActorPoolStrategy(size=num_actors),
            num_cpus=1,
            num_gpus=1 if info.num_gpus else 0,
            max_task_retries=MAX_SHARD_RETRIES,
        )


def with_partners(clips: pa.Table, num_views: int) -> pa.Table:
    """Clips (schema CLIPS) with the recordings that their views are mixed with, which are of their class and fold:
    schema PLANNED_CLIPS."""
    rows = clips.select(["clip_id", "fold", "label", "uri"]).to_pylist()
    groups: dict[tuple[int, int], list[str]] = {}
    for row in sorted(rows, key=lambda row: row["clip_id"]):
        groups.setdefault((row["fold"], row["label"]), []).append(row["clip_id"])
    uris: dict[str | None, str] = {row["clip_id"]: row["uri"] for row in rows}
    partners = [
        [
            uris.get(choose_partner(row["clip_id"], view, groups[row["fold"], row["label"]]))
            for view in range(RECORDED + 1, num_views + 1)
        ]
        for row in rows
    ]
    return pa.table([*clips.columns, pa.array(partners, PLANNED_CLIPS.field("partners").type)], schema=PLANNED_CLIPS)


def _account(options: Options, index: Index) -> dict[str, Any]:
    """Row counts of what lies in storage; raises when too many clips were rejected or any is unaccounted for."""
    num_tokens = tables.table_info(storage.join(options.output_dir, "tokens")).num_rows
    rejected_uri = storage.join(options.output_dir, "rejected")
    rejected, _ = tables.read_table(rejected_uri)
    check_table(rejected, REJECTED, rejected_uri)
    total = index.clips.num_rows + index.rejected.num_rows
    rows_per_clip = 1 + options.views
    if num_tokens != rows_per_clip * (total - rejected.num_rows):
        each = f", {rows_per_clip} a clip," if options.views else ""
        raise SoundStormError(
            f"{options.output_dir}: {total} clips gave {num_tokens} rows of tokens{each} and {rejected.num_rows} "
            "rejected: run again with --overwrite"
        )
    reasons = Counts(rejected["reason"].to_pylist())
    if rejected.num_rows > options.max_rejected * total:
        listing = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        first = rejected.slice(0, 1).to_pylist()[0]
        raise SoundStormError(
            f"{rejected.num_rows} of {total} clips were rejected ({listing}; for example {first['clip_id']}: "
            f"{first['detail']}), more than "
            f"--max-rejected {options.max_rejected:g} allows; all are listed in "
            f"{storage.join(options.output_dir, 'rejected')}"
        )
    notes = read_notes(options.output_dir)
    clips = with_notes(
        index.clips, notes, set(rejected.filter(pc.not_equal(rejected["stage"], "index"))["clip_id"].to_pylist())
    )
    tables.write_table(storage.join(options.output_dir, "clips.parquet"), clips, _index_metadata(index))
    tell(notes, total, "" if options.long == "split" else "; --long split uses them")
    files = account(index.num_files, index.clips, rejected, index.ignored, index.rejected_files)
    return {
        "clips": total,
        "tokens": num_tokens,
        "views": options.views,
        "rejected": rejected.num_rows,
        "reasons": dict(reasons),
        "silent": sorted(
            clip_id for clip_id, given in notes.items() if any(kind_of(note) == Note.SILENT for note in given)
        ),
        "notes": count_notes(notes),
        "unused_s": round(unused_s(notes), 2),
        "files": asdict(files),
        "ignored_reasons": dict(Counts(index.ignored["reason"].to_pylist())),
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


def _cause(error: RayError, ledger: Any) -> str:
    """What went wrong in a worker: Ray carries the traceback over as text, in which the last error that is not Ray's
    own is the cause."""
    if _was_killed(error):
        return "a codec actor was ended from outside, with ray.kill"
    if isinstance(error, RayActorError | WorkerCrashedError | OutOfMemoryError):
        shard, clips = ray.get(ledger.worst.remote(), timeout=ANSWER_S)
        named = f" with {', '.join(clips[:MAX_NAMED])}{', ...' if len(clips) > MAX_NAMED else ''}" if clips else ""
        return (
            f"workers died {MAX_SHARD_RETRIES + 1} times at the same shard ('{shard}'{named}); more memory may "
            "help, or a smaller --shard-size"
        )
    errors = re.findall(r"^(?!ray\.)[\w.]+: (.+)$", str(error), re.MULTILINE)
    return str(errors[-1] if errors else type(error).__name__)[:MAX_ERROR_CHARACTERS]


def _part_uri(output_dir: str, shard: int) -> str:
    return tables.part_uri(storage.join(output_dir, "tokens"), shard)


def _shard_clips(clips: pa.Table, shard: int, shard_size: int) -> pa.Table:
    return clips.slice(shard * shard_size, shard_size)


if __name__ == "__main__":
    leave(start(Options, run))
