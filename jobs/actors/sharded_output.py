"""A result made in parts: one Parquet file per shard, written by the actor that did the shard, whole or not at all,
after all that it speaks of.

A part that exists is done. A run makes the parts that are missing, so it can be stopped and started at any moment. A
part may be made twice: by an actor that was given up and works on, or by two runs at once. The same work gives the same
bytes under the same names (on processors of one kind), so that changes nothing; each part says which settings it was
made with, so parts of different runs are never taken for one result.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from cluster import storage, tables
from cluster.runtime.connect import ClusterInfo, connect
from cluster.scheduling.actor_pool import run_shards
from cluster.scheduling.limits import Limits
from cluster.scheduling.shards import Shard
from cluster.scheduling.watchdog import has_room
from cluster.tables.stream import read_parts
from jobs.console.progress import progress
from soundstorm.errors import SoundStormError
from soundstorm.schemas import FAILED

FAN_OUT = 100
"""Folders that numbered files are spread over, by the last two digits: neighbours are written to different prefixes,
and none grows too long."""
SETTINGS = "settings_sha256"
"""Key of a part's metadata."""


def folder_of(number: int) -> str:
    """The name of the folder for file `number`."""
    return f"{number % FAN_OUT:02d}"


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that decide what a result is."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(kw_only=True, frozen=True)
class Plan:
    """Work cut into parts."""

    description: str
    """What the progress line says."""
    output_dir: str
    """URI of the folder of the result."""
    folder: str
    """Name of the folder of the parts in it."""
    num_items: int
    """Items in all (clips, samples)."""
    shard_size: int
    """Items per part; the last may have fewer."""
    payload: Callable[[range], Any]
    """What the actor's method gets beside the part's name, for a range of items; asked for in rising order of the
    ranges."""
    settings: str
    """Digest of the settings, which each part has in its metadata."""

    @property
    def num_parts(self) -> int:
        return -(-self.num_items // self.shard_size)

    @property
    def failed_uri(self) -> str:
        """Where the table of the parts lies that were set aside."""
        return storage.join(self.output_dir, "failed.parquet")

    def part_name(self, part: int) -> str:
        """The name of a part in the folder of the parts."""
        return f"{folder_of(part)}/part-{part:07d}{tables.SUFFIX}"

    def part_uri(self, part: int) -> str:
        """Where a part lies."""
        return storage.join(self.output_dir, self.folder, self.part_name(part))

    def items(self, part: int) -> range:
        """The items of one part."""
        return range(part * self.shard_size, min((part + 1) * self.shard_size, self.num_items))

    def missing(self) -> list[int]:
        """Parts that are not there yet."""
        there = bytearray(self.num_parts)
        root = storage.join(self.output_dir, self.folder)
        for entry in storage.iter_objects(root, tables.SUFFIX):
            name = entry.uri[len(root) + 1 :]
            number = name[: -len(tables.SUFFIX)].rpartition("-")[2]
            if number.isdecimal() and int(number) < len(there) and name == self.part_name(int(number)):
                there[int(number)] = True
        return [part for part, is_there in enumerate(there) if not is_there]

    def require_storage(self) -> None:
        """Raise a ClusterError if the storage does not answer."""
        storage.exists(self.output_dir)

    def tables(self, schema: pa.Schema, folder: str | None = None) -> Iterator[pa.Table]:
        """The table of each part in order, a few at a time in memory.

        Args:
            schema: columns of the table.
            folder: name of the folder, if it is not that of the parts.

        Raises:
            SoundStormError: a part was made with other settings, or has other columns.
            ClusterError: a part is missing or malformed.
        """
        root = storage.join(self.output_dir, folder or self.folder)
        for uri, table, metadata in read_parts(f"{root}/{self.part_name(part)}" for part in range(self.num_parts)):
            if metadata.get(SETTINGS) != self.settings or not table.schema.equals(schema):
                raise SoundStormError(
                    f"{uri} was made with other settings, by a process of an earlier run that was still at work; "
                    "delete it and run again"
                )
            yield table


def default_actors(info: ClusterInfo, requested: int | None) -> int:
    """How many actors: what was asked for, else one per GPU, else one per CPU."""
    return requested or int(info.num_gpus) or max(1, int(info.num_cpus))


def actor_resources(info: ClusterInfo) -> dict[str, float]:
    """Ray resources of one actor: a core, and a GPU where the cluster has any."""
    return {"num_cpus": 1, "num_gpus": 1 if info.num_gpus else 0, "max_restarts": 0}


def complete(
    plan: Plan,
    address: str | None,
    prepare: Callable[[ClusterInfo], Callable[[], Any]],
    method: str,
    num_actors: int | None,
    limits: Limits | None = None,
) -> None:
    """Have actors make every missing part; joins or starts a Ray if any is.

    Args:
        plan: the work.
        address: Ray cluster to join.
        prepare: called once in the cluster; returns what creates an actor.
        method: of the actor; called with a part's name and `plan.payload` of its items.
        num_actors: how many; None: by the cluster's size.
        limits: when a part is given up; `growth_s` is taken from the cluster.

    Raises:
        SoundStormError: parts were set aside after repeated failure; `failed.parquet` names them, and the others are
            kept.
        ClusterError: the run cannot go on: no node is left, or the storage cannot be reached.
    """
    missing = plan.missing()
    failed: list[dict[str, Any]] = []
    if missing:
        with connect(address) as info:
            _make(
                plan,
                missing,
                info,
                prepare(info),
                method,
                num_actors,
                replace(limits or Limits(), growth_s=info.growth_s),
                failed,
            )
    if failed:
        tables.write_table(plan.failed_uri, pa.Table.from_pylist(failed, FAILED), {SETTINGS: plan.settings})
        raise SoundStormError(
            f"{plan.description}: {len(failed)} of {plan.num_parts} parts failed again and again, "
            f"{sum(row['num_items'] for row in failed)} of "
            f"{plan.num_items} clips are missing (part {failed[0]['part']}: {failed[0]['error']}; all are in "
            f"{plan.failed_uri}). "
            "Everything else is kept; run again to try these again"
        )
    storage.delete(plan.failed_uri)


def _make(
    plan: Plan,
    missing: list[int],
    info: ClusterInfo,
    make_actor: Callable[[], Any],
    method: str,
    num_actors: int | None,
    limits: Limits,
    failed: list[dict[str, Any]],
) -> None:
    """Make the parts that are missing; appends a row to `failed` for each that is set aside."""

    def set_aside(shard: Shard, error: str) -> None:
        part = int(shard.key)
        failed.append(
            {"part": part, "first_item": plan.items(part).start, "num_items": len(plan.items(part)), "error": error}
        )

    finished = plan.num_items - sum(len(plan.items(part)) for part in missing)
    with progress(plan.description, plan.num_items, finished) as counter:
        run_shards(
            _shards(plan, missing),
            make_actor,
            method,
            num_actors=min(default_actors(info, num_actors), len(missing)),
            on_done=lambda shard, count: counter.advance(count),
            on_failed=set_aside,
            on_progress=lambda now: counter.watch(now, len(missing)),
            check=plan.require_storage,
            has_room=lambda: has_room({"CPU": 1.0, "GPU": 1.0 if info.num_gpus else 0.0}),
            limits=limits,
        )


def _shards(plan: Plan, parts: Iterable[int]) -> Iterator[Shard]:
    for part in parts:
        yield Shard(str(part), (plan.part_name(part), plan.payload(plan.items(part))))
