"""Who is at work on what, told by the workers themselves: so that a run that stands still is noticed, and what kills
its worker is found.

A ledger is an actor on the driver's node. Whoever works tells it every few seconds that it is alive, and which shard it
has begun and ended. A shard that is begun again without having ended has cost its worker's life; then its items are
taken one by one and noted before they are touched, so that after a few more lives the ledger knows which of them it is.
Lives that went with their node do not count.
"""

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
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.runtime.resources import alive_nodes

BEAT_S = 5.0
MAX_DEATHS = 3
"""Workers that may die at one item; then it is left out."""
ANSWER_S = 60.0
"""How long the ledger may take to answer a worker."""


@dataclass(slots=True)
class _Entry:
    """A shard that was begun and has not ended."""

    node_id: str
    item: str = ""  # the one noted last
    is_open: bool = True
    deaths: Counter[str] = field(default_factory=Counter)  # by item; "" = no item was noted


class Ledger:
    """The actor. Make it with `open_ledger`."""

    def __init__(self, max_deaths: int) -> None:
        self.max_deaths = max_deaths
        self.entries: dict[str, _Entry] = {}
        self.last_beat = time.monotonic()

    def beat(self) -> None:
        """A worker is alive and at work."""
        self.last_beat = time.monotonic()

    def silence_s(self) -> float:
        """Seconds since anyone was alive and at work."""
        return time.monotonic() - self.last_beat

    def begin(self, shard: str, node_id: str) -> tuple[bool, list[str]]:
        """Somebody begins `shard`. Returns whether to take its items one by one, and the items to leave out."""
        self.beat()
        entry = self.entries.setdefault(shard, _Entry(node_id, is_open=False))
        if entry.is_open and entry.node_id in {node["NodeID"] for node in alive_nodes()}:
            entry.deaths[entry.item] += 1
        entry.node_id, entry.item, entry.is_open = node_id, "", True
        return bool(entry.deaths), [item for item, deaths in entry.deaths.items() if item and deaths >= self.max_deaths]

    def note(self, shard: str, item: str) -> None:
        """`item` of `shard` is about to be touched."""
        self.beat()
        self.entries[shard].item = item

    def end(self, shard: str) -> None:
        """`shard` is done, or was given up by a worker that lives."""
        self.beat()
        self.entries.pop(shard, None)

    def worst(self) -> tuple[str, list[str]]:
        """The shard at which most workers died, "" if none did, and the items of it at which they died, as far as they
        are known."""
        shard, entry = max(self.entries.items(), key=lambda pair: pair[1].deaths.total(), default=("", _Entry("")))
        return shard, sorted({item for item in (*entry.deaths, entry.item) if item})


def open_ledger(max_deaths: int = MAX_DEATHS) -> Any:
    """A handle of a new ledger; it ends when the last handle does. Ray must run."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Ledger).options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote(max_deaths)


class Beats:
    """In its block a worker tells `ledger` every few seconds that it is at work.

    Args:
        ledger: from `open_ledger`.
        limit_s: when the block takes longer, it hangs: its process ends itself. None = it may take as long as it likes.
    """

    def __init__(self, ledger: Any, limit_s: float | None = None) -> None:
        self.ledger, self.limit_s = ledger, limit_s
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self._ended.clear()
        threading.Thread(target=self._beat, args=(self._ended, time.monotonic()), name="beats", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()

    def _beat(self, ended: threading.Event, began: float) -> None:
        self.ledger.beat.remote()
        while not ended.wait(BEAT_S):
            if self.limit_s is not None and time.monotonic() - began > self.limit_s:
                os.kill(os.getpid(), signal.SIGKILL)
            self.ledger.beat.remote()


class Attempt(Beats):
    """A worker's attempt at a shard, a context manager; use `portions` within.

    Args:
        ledger: from `open_ledger`.
        shard: its name, the same at every attempt.
        limit_s: see `Beats`.
    """

    def __init__(self, ledger: Any, shard: str, limit_s: float) -> None:
        super().__init__(ledger, limit_s)
        self.shard = shard
        self.one_by_one = False
        self.deadly: frozenset[str] = frozenset()
        """Items to leave out, because every worker that touched them died."""

    def __enter__(self) -> Self:
        node_id = ray.get_runtime_context().get_node_id()
        self.one_by_one, deadly = ray.get(self.ledger.begin.remote(self.shard, node_id), timeout=ANSWER_S)
        self.deadly = frozenset(deadly)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.ledger.end.remote(self.shard)

    def portions(self, items: list[str]) -> Iterator[list[int]]:
        """Positions in `items` to work on together, in order, without those of deadly items."""
        alive = [number for number, item in enumerate(items) if item not in self.deadly]
        if not self.one_by_one:
            yield alive
            return
        for number in alive:
            ray.get(self.ledger.note.remote(self.shard, items[number]), timeout=ANSWER_S)
            yield [number]
