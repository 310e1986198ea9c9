"""Tracker of the workers' attempts at shards: it notices a run that makes no progress, and finds poison items, which
crash every worker that processes them.

The tracker is an actor on the driver's node. Each worker sends it a heartbeat every few seconds, and reports the start
and the end of each shard. A shard that is started again although it has not ended has crashed its worker. From then on
its items are processed one by one, and each is reported before it is processed: after a few more crashes the tracker
knows the poison item. Workers that were lost with their node do not count.
"""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from cluster.runtime.resources import alive_nodes, on_this_node

BEAT_S = 5.0
MAX_DEATHS = 3
"""Workers that one item may crash before it is skipped."""
DIED = (RayActorError, WorkerCrashedError, OutOfMemoryError)
"""Ray's errors of work whose process died."""
ANSWER_S = 60.0
"""Longest time for the tracker to answer a worker."""


@dataclass(slots=True)
class _Entry:
    """A shard that was started and has not ended."""

    node_id: str
    item: str = ""  # reported last
    is_open: bool = True
    deaths: Counter[tuple[str, str]] = field(default_factory=Counter)  # by item and node; "" = no item was reported

    def deaths_by_item(self) -> Counter[str]:
        """Number of deaths at each item."""
        by_item: Counter[str] = Counter()
        for (item, _), deaths in self.deaths.items():
            by_item[item] += deaths
        return by_item


class AttemptTracker:
    """The actor; `start_tracker` creates it, and `tracking` also ends it."""

    def __init__(self, max_deaths: int) -> None:
        self.max_deaths = max_deaths
        self.entries: dict[str, _Entry] = {}
        self.last_heartbeat = time.monotonic()

    def heartbeat(self) -> None:
        """Record that a worker is alive."""
        self.last_heartbeat = time.monotonic()

    def seconds_since_heartbeat(self) -> float:
        """Seconds since any worker sent a heartbeat."""
        return time.monotonic() - self.last_heartbeat

    def begin(self, shard: str, node_id: str) -> tuple[bool, list[str]]:
        """Record that a worker starts `shard`; returns whether to process its items one by one, and the items to skip.

        Ray reports that a node is lost up to half a minute late: a death that was counted is taken back at the next
        call.
        """
        self.heartbeat()
        entry = self.entries.setdefault(shard, _Entry(node_id, is_open=False))
        if entry.is_open:
            entry.deaths[entry.item, entry.node_id] += 1
        if entry.deaths:
            alive = {node["NodeID"] for node in alive_nodes()}
            entry.deaths = Counter({at: deaths for at, deaths in entry.deaths.items() if at[1] in alive})
        entry.node_id, entry.item, entry.is_open = node_id, "", True
        poison = [item for item, deaths in entry.deaths_by_item().items() if item and deaths >= self.max_deaths]
        return bool(entry.deaths), poison

    def note(self, shard: str, item: str) -> None:
        """Record that a worker is about to process `item` of `shard`."""
        self.heartbeat()
        self.entries[shard].item = item

    def end(self, shard: str) -> None:
        """Record that an attempt at `shard` ended without a crash."""
        self.heartbeat()
        self.entries.pop(shard, None)

    def deadliest_shard(self) -> tuple[str, list[str]]:
        """The shard that crashed most workers ("" if none did), and its known items at which they crashed."""
        shard, entry = max(self.entries.items(), key=lambda pair: pair[1].deaths.total(), default=("", _Entry("")))
        return shard, sorted({item for item in (*entry.deaths_by_item(), entry.item) if item})


def start_tracker(max_deaths: int = MAX_DEATHS) -> Any:
    """Start a tracker; returns its handle. The tracker ends with its last handle. Ray must be connected."""
    options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": on_this_node()}
    return ray.remote(AttemptTracker).options(**options).remote(max_deaths)


@contextlib.contextmanager
def tracking(max_deaths: int = MAX_DEATHS) -> Iterator[Any]:
    """Context manager: a tracker that ends with the block. What Ray keeps of a task for repeating it, and with it a
    handle of its tracker, may live as long as the driver."""
    tracker = start_tracker(max_deaths)
    try:
        yield tracker
    finally:
        ray.kill(tracker)


class Heartbeat:
    """Context manager: within its block a worker sends heartbeats to `tracker`.

    Args:
        tracker: from `start_tracker`.
        limit_s: a block that takes longer hangs: the process kills itself. None: no limit.
    """

    def __init__(self, tracker: Any, limit_s: float | None = None) -> None:
        self.tracker, self.limit_s = tracker, limit_s
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._ended.clear()
        threading.Thread(
            target=self._send_heartbeats, args=(self._ended, time.monotonic()), name="heartbeat", daemon=True
        ).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()

    def _send_heartbeats(self, ended: threading.Event, began: float) -> None:
        self.tracker.heartbeat.remote()
        while not ended.wait(BEAT_S):
            if self.limit_s is not None and time.monotonic() - began > self.limit_s:
                os.kill(os.getpid(), signal.SIGKILL)
            self.tracker.heartbeat.remote()


class Attempt(Heartbeat):
    """Context manager: a worker's attempt at a shard. Its block iterates over `batches`.

    Args:
        tracker: from `start_tracker`.
        shard: name of the shard, the same at every attempt.
        limit_s: see `Heartbeat`.
    """

    def __init__(self, tracker: Any, shard: str, limit_s: float) -> None:
        super().__init__(tracker, limit_s)
        self.shard = shard
        self.isolate = False
        self.poison: frozenset[str] = frozenset()
        """Items to skip, because every worker that processed them crashed."""

    def __enter__(self) -> Self:
        node_id = ray.get_runtime_context().get_node_id()
        with contextlib.suppress(ActorDiedError):  # the run is over: Ray makes a lost block of its result again
            self.isolate, poison = ray.get(self.tracker.begin.remote(self.shard, node_id), timeout=ANSWER_S)
            self.poison = frozenset(poison)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.tracker.end.remote(self.shard)

    def batches(self, items: list[str]) -> Iterator[list[int]]:
        """Indices of the items to process together, in order, without poison items."""
        alive = [number for number, item in enumerate(items) if item not in self.poison]
        if not self.isolate:
            yield alive
            return
        for number in alive:
            ray.get(self.tracker.note.remote(self.shard, items[number]), timeout=ANSWER_S)
            yield [number]
