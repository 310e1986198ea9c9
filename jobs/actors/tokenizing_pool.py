"""The pool of codec actors of `tokenize`: Ray Data assigns shards of clips to them. If they have GPUs, CPU tasks read
and decode ahead of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, cast

import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayError

from cluster import storage, tables
from cluster.runtime.connect import ClusterInfo
from cluster.runtime.ray_data import bounded_retries, quiet_ray_data
from cluster.scheduling.attempt_tracker import ANSWER_S, DIED
from cluster.scheduling.watchdog import Watchdog, limits_here, run_with_watchdog
from jobs.actors.mixing_partners import MixingPartners
from jobs.actors.sharded_output import actor_capacity
from jobs.actors.tokenizer import TokenizerActor, read_shard, to_ipc
from jobs.console.progress import ProgressCounter
from jobs.inputs.recordings import HANG_S

MAX_SHARD_RETRIES = 20
"""Retries of a shard after its worker died; Ray Data itself would retry without limit. Enough to isolate six poison
clips."""
CLIPS_AT_ONCE = 65_536
"""Clips whose shards the driver holds at a time: 20 MB."""
SHARDS_PER_ACTOR = 16
"""Shards for each actor that the driver holds at least, so that no actor waits for the others often."""
MAX_LISTED = 5
"""Clips that an error lists."""
MAX_ERROR_CHARACTERS = 300


@dataclass(kw_only=True, frozen=True)
class TokenizingPool:
    """Settings that all shards share."""

    output_dir: str
    clips: pa.Table
    """Clips of all shards, schema CLIPS."""
    shard_size: int
    """Clips per shard."""
    views: int
    """Number of augmented views of each clip beside the original."""
    weights: bytes
    """Weights of the codec."""
    metadata: dict[str, str]
    """Metadata of the tables of tokens."""
    max_duration_s: float
    """Longest part of a recording that is used."""
    num_actors: int | None
    """Maximum number of actors; None: as many as the cluster can hold."""

    def missing_shards(self) -> list[int]:
        """Shards that have no table of tokens yet."""
        return missing_shards(self.output_dir, self.clips.num_rows, self.shard_size)

    def num_done(self, todo: list[int]) -> int:
        """Clips of the shards that are not in `todo`."""
        return self.clips.num_rows - sum(self._size_of(shard) for shard in todo)

    def run(self, todo: list[int], info: ClusterInfo, tracker: Any, counter: ProgressCounter) -> None:
        """Process the shards in `todo` with Ray Data, some thousands of clips at a time; `tracker` counts their
        attempts."""
        for rows in self.plan(todo, actor_capacity(info)):
            self._process(rows, info, tracker, counter)

    def plan(self, todo: list[int], capacity: int) -> Iterator[list[dict[str, Any]]]:
        """The shards in `todo` with their clips, in portions that the driver holds one at a time; each has several
        shards for each of `capacity` actors."""
        partners = MixingPartners(self.clips, self.views)
        at_once = max(CLIPS_AT_ONCE // self.shard_size, SHARDS_PER_ACTOR * capacity)
        for first in range(0, len(todo), at_once):
            yield [
                {"shard": shard, "clips": to_ipc(partners.planned(shard * self.shard_size, self.shard_size))}
                for shard in todo[first : first + at_once]
            ]

    def _process(
        self, planned: list[dict[str, Any]], info: ClusterInfo, tracker: Any, counter: ProgressCounter
    ) -> None:
        """Process these shards under a watchdog."""
        shards = self._build_dataset(planned, info, tracker)
        rows: SimpleQueue[dict[str, Any]] = SimpleQueue()

        def work() -> None:
            for row in shards.iter_rows():
                rows.put(row)

        def show() -> None:
            while not rows.empty():
                row = rows.get()
                counter.advance(row["clips"], row["rejected"])

        worker = {"CPU": 1.0, "GPU": 1.0 if info.num_gpus else 0.0}
        run_with_watchdog(
            work, Watchdog(tracker=tracker, worker=worker, storage_uri=self.output_dir, limits=limits_here()), show
        )

    def _build_dataset(self, rows: list[dict[str, Any]], info: ClusterInfo, tracker: Any) -> ray.data.Dataset:
        quiet_ray_data(watched=True)
        limit_s = HANG_S + self.shard_size * (1 + self.views) * self.max_duration_s
        # Ray Data waits for all actors of a pool, so a joined cluster does not get more than it holds either.
        capacity = actor_capacity(info)
        num_actors = min(self.num_actors or capacity, capacity, len(rows))
        shards: ray.data.Dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        # CPU tasks read ahead of actors with GPUs. Without GPUs each actor reads for itself, so throughput grows with
        # the number of actors
        if info.num_gpus:
            reading: dict[str, Any] = {"max_duration_s": self.max_duration_s, "tracker": tracker, "limit_s": limit_s}
            with bounded_retries():
                shards = shards.map(cast(Any, read_shard), fn_kwargs=reading, num_cpus=1, max_retries=MAX_SHARD_RETRIES)
        with bounded_retries():
            return shards.map(
                cast(Any, TokenizerActor),
                fn_constructor_args=(
                    ray.put(self.weights),
                    storage.absolute(self.output_dir),
                    self.metadata,
                    self.max_duration_s,
                    bool(info.num_gpus),
                    tracker,
                    limit_s,
                ),
                compute=ray.data.ActorPoolStrategy(size=num_actors),
                num_cpus=1,
                num_gpus=1 if info.num_gpus else 0,
                max_task_retries=MAX_SHARD_RETRIES,
            )

    def _size_of(self, shard: int) -> int:
        """Clips of a shard."""
        return min(self.shard_size, self.clips.num_rows - shard * self.shard_size)


def missing_shards(output_dir: str, num_clips: int, shard_size: int) -> list[int]:
    """Shards that have no table of tokens in `output_dir` yet."""
    folder = storage.join(output_dir, "tokens")
    existing = {entry.uri for entry in storage.iter_objects(folder, ".parquet")}
    return [shard for shard in range(-(-num_clips // shard_size)) if tables.part_uri(folder, shard) not in existing]


def was_killed(error: RayError) -> bool:
    """Whether an actor was killed from outside, not by a crash at its shard."""
    return isinstance(error, RayActorError) and "ray.kill" in str(error)


def cause_of(error: RayError, tracker: Any) -> str:
    """The cause of a worker's failure: Ray passes the traceback as text, and the last error in it that is not Ray's own
    is the cause."""
    if was_killed(error):
        return "a codec actor was killed from outside, with ray.kill"
    if isinstance(error, DIED):
        shard, clips = ray.get(tracker.deadliest_shard.remote(), timeout=ANSWER_S)
        named = f" with {', '.join(clips[:MAX_LISTED])}{', ...' if len(clips) > MAX_LISTED else ''}" if clips else ""
        return (
            f"workers died {MAX_SHARD_RETRIES + 1} times at the same shard ('{shard}'{named}); more memory may "
            "help, or a smaller --shard-size"
        )
    errors = re.findall(r"^(?!ray\.)[\w.]+: (.+)$", str(error), re.MULTILINE)
    return str(errors[-1] if errors else type(error).__name__)[:MAX_ERROR_CHARACTERS]
