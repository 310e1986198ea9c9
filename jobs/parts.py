"""A result made in parts: one Parquet file per shard, written by the actor that did the shard, whole or not at all.

A part that exists is done. A run does the parts that are missing, so it can be stopped and started at any moment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster import storage, tables
from cluster.connect import ClusterInfo
from cluster.shards import Progress as ShardProgress
from cluster.shards import Shard, run_shards
from jobs.progress import progress
from soundstorm.errors import SoundStormError


@dataclass(kw_only=True, frozen=True)
class Plan:
    """Work cut into parts."""

    description: str
    """What the progress line says."""
    folder: str
    """URI of the folder of the parts."""
    num_items: int
    """Items in all (clips, samples)."""
    shard_size: int
    """Items per part; the last may have fewer."""
    payload: Callable[[range], Any]
    """What the actor's method gets beside the part's URI, for a range of items."""

    @property
    def num_parts(self) -> int:
        return -(-self.num_items // self.shard_size)

    def items(self, part: int) -> range:
        """The items of one part."""
        return range(part * self.shard_size, min((part + 1) * self.shard_size, self.num_items))

    def missing(self) -> list[int]:
        """Parts that are not there yet."""
        there = {entry.uri for entry in storage.list_objects(self.folder, ".parquet")}
        return [part for part in range(self.num_parts) if tables.part_uri(self.folder, part) not in there]


def default_actors(info: ClusterInfo, requested: int | None) -> int:
    """How many actors: what was asked for, else one per GPU, else one per CPU."""
    return requested or int(info.num_gpus) or max(1, int(info.num_cpus))


def actor_resources(info: ClusterInfo) -> dict[str, float]:
    """Ray resources of one actor: a core, and a GPU where the cluster has any."""
    return {"num_cpus": 1, "num_gpus": 1 if info.num_gpus else 0, "max_restarts": 0}


def complete(plan: Plan, make_actor: Callable[[], Any], method: str, num_actors: int) -> None:
    """Have actors make every missing part; `method` is called with `(part_uri, payload)`.

    Raises:
        SoundStormError: parts were set aside after repeated failure; the others are kept.
        ClusterError: the run cannot go on.
    """
    missing = plan.missing()
    if not missing:
        return
    shards = (Shard(f"part-{part:05d}", (tables.part_uri(plan.folder, part), plan.payload(plan.items(part)))) for part in missing)
    with progress(plan.description, plan.num_items) as counter:
        counter.advance(plan.num_items - sum(len(plan.items(part)) for part in missing))
        state = {"note": ""}

        def on_done(shard: Shard, count: int) -> None:
            counter.advance(count, state["note"])

        def on_progress(now: ShardProgress) -> None:
            state["note"] = f"({now.retries} retries, {now.replaced} actors replaced)" if now.retries or now.replaced else ""

        result = run_shards(shards, make_actor, method, num_actors=min(num_actors, len(missing)), on_done=on_done, on_progress=on_progress)
    if result.failed:
        key, error = next(iter(result.failed.items()))
        raise SoundStormError(
            f"{plan.description}: {len(result.failed)} of {plan.num_parts} parts failed again and again ({key}: {error}); run again to retry"
        )
