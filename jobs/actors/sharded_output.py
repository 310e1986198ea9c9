"""Sharded output: one part file (Parquet) per shard. The actor that processes a shard writes the part file atomically,
after every other file of the shard.

A shard whose part file exists is done. A run processes the shards that are missing, so it can be interrupted and
resumed at any time. A shard may be processed twice: by an actor that was abandoned but still runs, or by two runs at
once. This is harmless, because the same work writes the same bytes under the same names (on processors of one kind).
The metadata of each part file has a digest of the run's settings, so part files of different runs are never mixed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from cluster import storage, tables
from cluster.runtime.connect import ClusterInfo, connect
from cluster.scheduling.actor_pool import Actors, run_shards
from cluster.scheduling.limits import Limits
from cluster.scheduling.shards import Shard
from cluster.scheduling.watchdog import can_schedule
from cluster.tables.stream import read_parts
from jobs.console.progress import progress
from soundstorm.errors import SoundStormError
from soundstorm.schemas import FAILED

FAN_OUT = 100
"""Number of folders that numbered files are spread over, by their last two digits. Consecutive files go to different
S3 prefixes, and no folder grows too large."""
SETTINGS = "settings_sha256"
"""Key of a part file's metadata: the digest of the run's settings."""


def folder_of(number: int) -> str:
    """The name of the folder for file `number`."""
    return f"{number % FAN_OUT:02d}"


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that a result depends on."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(kw_only=True, frozen=True)
class ShardedOutput:
    """The output of a job, divided into shards."""

    description: str
    """Name of the job in progress lines and errors."""
    output_dir: str
    """URI of the output folder."""
    folder: str
    """Name of the folder in it that holds the part files."""
    num_items: int
    """Total number of items (clips, samples)."""
    shard_size: int
    """Items per shard; the last may have fewer."""
    payload: Callable[[range], Any]
    """The argument of the actor's method, beside the name of the part file, for a range of items. It is called with
    increasing ranges."""
    settings: str
    """Digest of the settings, for the metadata of each part file."""

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_items // self.shard_size)

    @property
    def failed_uri(self) -> str:
        """URI of the table of failed shards."""
        return storage.join(self.output_dir, "failed.parquet")

    def part_name(self, shard: int) -> str:
        """Name of a shard's part file, relative to the folder of part files."""
        return f"{folder_of(shard)}/part-{shard:07d}{tables.SUFFIX}"

    def part_uri(self, shard: int) -> str:
        """URI of a shard's part file."""
        return storage.join(self.output_dir, self.folder, self.part_name(shard))

    def items(self, shard: int) -> range:
        """The items of one shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.num_items))

    def count(self, shards: Iterable[int]) -> int:
        """Number of items in shards."""
        return sum(len(self.items(shard)) for shard in shards)

    def missing_shards(self) -> list[int]:
        """Numbers of the shards whose part file does not exist."""
        is_done = bytearray(self.num_shards)
        root = storage.join(self.output_dir, self.folder)
        for entry in storage.iter_objects(root, tables.SUFFIX):
            name = entry.uri[len(root) + 1 :]
            number = name[: -len(tables.SUFFIX)].rpartition("-")[2]
            if number.isdecimal() and int(number) < len(is_done) and name == self.part_name(int(number)):
                is_done[int(number)] = True
        return [shard for shard, done in enumerate(is_done) if not done]

    def require_storage(self) -> None:
        """Raises ClusterError if the storage of the output folder cannot be reached."""
        storage.exists(self.output_dir)

    def tables(self, schema: pa.Schema, folder: str | None = None) -> Iterator[pa.Table]:
        """The table of each shard in order; only a few are in memory at once.

        Args:
            schema: columns of the tables.
            folder: name of another folder with one table per shard.

        Raises:
            SoundStormError: a table was written with other settings, or has other columns.
            ClusterError: a table is missing or malformed.
        """
        root = storage.join(self.output_dir, folder or self.folder)
        for uri, table, metadata in read_parts(f"{root}/{self.part_name(shard)}" for shard in range(self.num_shards)):
            table = with_nulls(table, schema)
            if metadata.get(SETTINGS) != self.settings or not table.schema.equals(schema):
                raise SoundStormError(
                    f"{uri} was written with other settings by a process of an earlier run: delete it and run the "
                    "same command again"
                )
            yield table


def with_nulls(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of an earlier version with nulls in the columns that it lacks and that may be null."""
    for field in schema:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def actor_capacity(info: ClusterInfo) -> int:
    """Number of actors that the cluster can hold: one per GPU, else one per CPU."""
    return int(info.num_gpus) or max(1, int(info.num_cpus))


def default_actors(info: ClusterInfo, requested: int | None) -> int:
    """Number of actors: as many as the cluster can hold, or as requested. A Ray that was started here gets no more than
    it can hold; a cluster that was joined may grow."""
    capacity = actor_capacity(info)
    if requested is None:
        return capacity
    return min(requested, capacity) if info.started_here else requested


def actor_threads(info: ClusterInfo, requested: int | None, num_shards: int, most: int) -> int:
    """Number of CPUs of one actor: several if Ray was started on this machine and has more CPUs than there are shards.

    Args:
        info: the cluster; a joined cluster is shared, so each actor gets one CPU, as on GPUs.
        requested: requested number of actors; each then has one CPU.
        num_shards: number of shards of the run.
        most: maximum number of threads that an actor can use.
    """
    if not info.started_here or info.num_gpus or requested is not None:
        return 1
    return max(1, min(most, int(info.num_cpus) // max(1, num_shards)))


def actor_resources(info: ClusterInfo, threads: int = 1) -> dict[str, float]:
    """Ray resources of one actor: a CPU for each thread, and one GPU if the cluster has any."""
    return {"num_cpus": threads, "num_gpus": 1 if info.num_gpus else 0, "max_restarts": 0}


def run_missing_shards(
    output: ShardedOutput,
    address: str | None,
    prepare: Callable[[ClusterInfo], Callable[[], Any]],
    method: str,
    num_actors: int | None,
    limits: Limits | None = None,
) -> None:
    """Process all missing shards with a pool of actors. Joins or starts Ray if any shard is missing.

    Args:
        output: the sharded output.
        address: address of the Ray cluster to join.
        prepare: called once after Ray is connected; returns a function that creates an actor.
        method: name of the actor's method; it is called with the name of a part file and `output.payload` of its items.
        num_actors: maximum number of actors; None: as many as the cluster can hold.
        limits: when a shard fails and when the run is aborted; `scale_up_s` is taken from the cluster.

    Raises:
        SoundStormError: shards failed repeatedly; `failed.parquet` lists them, and the others are kept.
        ClusterError: the run cannot continue: no node is left, or the storage cannot be reached.
    """
    missing = output.missing_shards()
    failed: list[dict[str, Any]] = []
    if missing:
        with connect(address) as info:
            _run_shards(
                output,
                missing,
                info,
                prepare(info),
                method,
                num_actors,
                replace(limits or Limits(), scale_up_s=info.scale_up_s),
                failed,
            )
    if failed:
        tables.write_table(output.failed_uri, pa.Table.from_pylist(failed, FAILED), {SETTINGS: output.settings})
        raise SoundStormError(
            f"{output.description}: {len(failed)} of {output.num_shards} shards failed repeatedly, "
            f"{sum(row['num_items'] for row in failed)} of "
            f"{output.num_items} clips are missing (shard {failed[0]['part']}: {failed[0]['error']}; all are in "
            f"{output.failed_uri}). "
            "The others are kept: run the same command again to retry"
        )
    storage.delete(output.failed_uri)


def run_in_process(output: ShardedOutput, make_worker: Callable[[], Any], method: str) -> None:
    """Process the missing shards in this process: for few, a Ray would take longer to start than they take.

    Args:
        output: the sharded output.
        make_worker: creates what would be an actor; called if a shard is missing.
        method: name of its method, as in `run_missing_shards`.

    Raises:
        Exception: of the worker; the shards before it are kept.
    """
    missing = output.missing_shards()
    if missing:
        worker = make_worker()
        with progress(output.description, output.num_items, output.num_items - output.count(missing)) as counter:
            for shard in _shards(output, missing):
                counter.advance(getattr(worker, method)(shard.payload))
    storage.delete(output.failed_uri)


@dataclass(frozen=True, kw_only=True)
class TableRun:
    """A run whose actors compute tables."""

    output_dir: str
    """Output folder."""
    address: str | None
    """Address of the Ray cluster to join."""
    settings: str
    """Digest of all settings of the run."""
    num_actors: int | None
    """Maximum number of actors; None: as many as the cluster can hold."""


def sharded_table(
    name: str,
    run: TableRun,
    lines: Sequence[Any],
    schema: pa.Schema,
    prepare: Callable[[ClusterInfo, str], Callable[[], Any]],
) -> pa.Table:
    """Compute the rows of a table with actors, one part file per row; existing part files of an interrupted run are
    kept.

    Args:
        name: name of the table: its part files are in the folder `parts/NAME`, and the actor's method is `NAME_shard`.
        run: see `TableRun`.
        lines: argument of the actor's method for each row.
        schema: schema of the table.
        prepare: called once after Ray is connected, with the URI of the folder of part files; returns a function that
            creates an actor.

    Raises:
        SoundStormError, ClusterError: as `run_missing_shards`.
    """
    output = ShardedOutput(
        description=name,
        output_dir=run.output_dir,
        folder=f"parts/{name}",
        num_items=len(lines),
        shard_size=1,
        payload=lambda numbers: [lines[number] for number in numbers],
        settings=run.settings,
    )
    folder = storage.join(run.output_dir, output.folder)
    run_missing_shards(output, run.address, lambda info: prepare(info, folder), f"{name}_shard", run.num_actors)
    return pa.concat_tables(output.tables(schema))


def _run_shards(
    output: ShardedOutput,
    missing: list[int],
    info: ClusterInfo,
    make_actor: Callable[[], Any],
    method: str,
    num_actors: int | None,
    limits: Limits,
    failed: list[dict[str, Any]],
) -> None:
    """Process the missing shards; appends a row to `failed` for each that fails."""

    def record_failure(shard: Shard, error: str) -> None:
        number, items = int(shard.key), output.items(int(shard.key))
        failed.append({"part": number, "first_item": items.start, "num_items": len(items), "error": error})

    with progress(output.description, output.num_items, output.num_items - output.count(missing)) as counter:
        run_shards(
            _shards(output, missing),
            Actors(
                make=make_actor,
                method=method,
                most=min(default_actors(info, num_actors), len(missing)),
                can_schedule=lambda: can_schedule({"CPU": 1.0, "GPU": 1.0 if info.num_gpus else 0.0}),
            ),
            on_done=lambda shard, count: counter.advance(count),
            on_failed=record_failure,
            on_progress=lambda now: counter.update_shards(now, len(missing)),
            check=output.require_storage,
            limits=limits,
        )


def _shards(output: ShardedOutput, numbers: Iterable[int]) -> Iterator[Shard]:
    for number in numbers:
        yield Shard(str(number), (output.part_name(number), output.payload(output.items(number))))
