"""A fault-tolerant pool of actors that processes many shards: each shard is finished exactly once or fails with an
error, and every wait is bounded.

Shards are read from an iterator and results are passed to a callback, so memory does not grow with their number. Each
actor processes one shard at a time. A shard whose actor raised, died or took too long is retried a bounded number of
times; a dead actor is replaced. `ray.util.ActorPool` does not survive the loss of nodes and processes.
"""

import contextlib
import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from cluster.errors import NoRoomError
from cluster.runtime.resources import alive_nodes
from cluster.scheduling.limits import MAX_START_FAILURES, Health, Limits
from cluster.scheduling.shards import Progress, Shard, ShardsResult
from cluster.storage.retry import backoff_s

TICK_S = 1.0
BACKOFF_S = 0.5  # doubled at each attempt
MAX_BACKOFF_S = 30.0
RESTART_S = 30.0  # until an actor that did not start is started again, while others work

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Actors:
    """The actors that process shards."""

    make: Callable[[], Any]
    """Creates one without waiting for it, e.g. `lambda: Worker.options(num_cpus=1).remote(...)`; its `max_restarts`
    must be 0."""
    method: str
    """Name of the method that is called with the payload of a shard. It may run more than once for a shard, so it must
    be idempotent."""
    most: int
    """Maximum number of actors, 1 if it is less; never more are started than there are shards."""
    can_schedule: Callable[[], bool]
    """Whether the nodes could hold an actor: if so, an actor that is slow to start is waited for."""


def run_shards(
    shards: Iterable[Shard],
    actors: Actors,
    *,
    on_done: Callable[[Shard, Any], None],
    on_failed: Callable[[Shard, str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    check: Callable[[], None] | None = None,
    limits: Limits | None = None,
) -> ShardsResult:
    """Have every shard processed by some actor.

    Args:
        shards: the work; the iterator is advanced only as actors become free.
        actors: see `Actors`.
        on_done: called in the driver, once for each finished shard, with the method's result. An exception that it
            raises ends the run.
        on_failed: called once for each failed shard, with its error.
        on_progress: called after every change, and about once a second.
        check: called in a thread while no shard is finished; a ClusterError that it raises (for example, the storage
            cannot be reached) ends the run.
        limits: see `Limits`.

    Raises:
        ClusterError: no actor can be started or kept alive, shard after shard fails, the disk is full, or `check`
            raised it. Shards that were finished before went through `on_done`.
        ValueError: two unfinished shards have the same key.
    """
    limits = limits or Limits()
    actors = replace(actors, most=max(actors.most, 1))
    run = _Run(iter(shards), actors, on_done, on_failed, limits, Health(limits, check, actors.can_schedule))
    try:
        run.start()
        while run.has_work():
            run.step()
            if on_progress is not None:
                on_progress(run.progress())
    finally:
        run.stop()
    return ShardsResult(
        done=run.counts.done, failed=run.failed, retries=run.counts.retries, replaced=run.counts.replaced
    )


@dataclass(slots=True, eq=False)
class _Slot:
    """A slot for one actor, and the actor that fills it now."""

    actor: Any = None
    ref: ray.ObjectRef | None = None  # of the start, or of the current shard; None = idle
    since: float = 0.0  # when `ref` was made
    shard: Shard | None = None
    ready: bool = False
    start_failures: int = 0
    start_after: float = 0.0  # without an actor: when to start the next
    node_id: str = ""


@dataclass(slots=True)
class _Run:
    """The state of one `run_shards`."""

    source: Iterator[Shard]
    actors: Actors
    on_done: Callable[[Shard, Any], None]
    on_failed: Callable[[Shard, str], None] | None
    limits: Limits
    health: Health
    counts: Progress = field(default_factory=Progress)
    failed: dict[str, str] = field(default_factory=dict)
    slots: list[_Slot] = field(default_factory=list)
    waiting: deque[Shard] = field(
        default_factory=deque
    )  # taken from the source and not yet tried, or lost with its node
    retries: list[tuple[float, int, Shard]] = field(
        default_factory=list
    )  # a heap: earliest time, sequence number, shard
    attempts: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # of unfinished shards: number of failures and of losses
    exhausted: bool = False  # the source
    sequence: int = 0

    # ---- life cycle

    def start(self) -> None:
        """Start as many actors as there are shards for."""
        while len(self.waiting) < self.actors.most and self._pull():
            pass
        self.slots = [_Slot() for _ in range(len(self.waiting))]
        for slot in self.slots:
            self._start_actor(slot)

    def has_work(self) -> bool:
        """Whether any shard has neither finished nor failed."""
        return bool(self.waiting or self.retries or not self.exhausted or any(slot.shard for slot in self.slots))

    def stop(self) -> None:
        """End all actors."""
        self.health.close()
        for slot in self.slots:
            self._kill(slot)

    def progress(self) -> Progress:
        """Progress of the run."""
        return replace(self.counts, ready=sum(slot.ready for slot in self.slots))

    def step(self) -> None:
        """Assign shards to idle actors, wait for events for a moment, and handle all events."""
        for slot in self.slots:
            if slot.actor is None and slot.start_after <= time.monotonic():
                self._start_actor(slot)
            self._assign(slot)
        busy = {slot.ref: slot for slot in self.slots if slot.ref is not None}
        if busy:
            refs = list(busy)
            ray.wait(refs, num_returns=1, timeout=self._poll_s())
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            for ref in done:
                self._receive(busy[ref], ref)
        elif self.has_work():
            time.sleep(self._poll_s())
        self._check_limits()

    # ---- work

    def _pull(self) -> bool:
        """Take one shard from the source; False if none is left."""
        if not self.exhausted:
            shard = next(self.source, None)
            if shard is not None:
                if shard.key in self.attempts:
                    raise ValueError(f"two shards of one run have the key '{shard.key}'")
                self.attempts[shard.key] = 0, 0
                self.waiting.append(shard)
                return True
            self.exhausted = True
        return False

    def _next_shard(self) -> Shard | None:
        """The next shard: a retry that is due, else a new shard unless too many retries are pending."""
        if self.retries and self.retries[0][0] <= time.monotonic():
            return heapq.heappop(self.retries)[2]
        if not self.waiting and len(self.retries) < 2 * self.actors.most:
            self._pull()
        return self.waiting.popleft() if self.waiting else None

    def _assign(self, slot: _Slot) -> None:
        if slot.ready and slot.ref is None:
            shard = self._next_shard()
            if shard is not None:
                slot.shard, slot.since = shard, time.monotonic()
                slot.ref = getattr(slot.actor, self.actors.method).remote(shard.payload)

    def _receive(self, slot: _Slot, ref: ray.ObjectRef) -> None:
        """Handle the end of a start or of a shard, successful or not."""
        shard = slot.shard
        slot.ref = slot.shard = None
        try:
            result = ray.get(ref, timeout=self.limits.start_timeout_s)
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, NoRoomError):
                raise self.health.abort_error(str(error.cause)) from error
            if isinstance(error, RayTaskError) and shard is not None:  # the actor's method raised; the actor lives
                self._retry(shard, _error_text(error))
                return
            self._lose(slot, shard, _error_text(error), unreachable=isinstance(error, ActorUnavailableError))
        else:
            if shard is None:
                slot.ready, slot.start_failures, slot.node_id = True, 0, str(result)
                return
            self._assign(slot)  # before the callback: the actor does not wait for it
            self.attempts.pop(shard.key, None)
            self.health.finished()
            self.on_done(shard, result)
            self.counts = replace(self.counts, done=self.counts.done + 1)

    def _retry(self, shard: Shard, error: str, lost: bool = False) -> None:
        """Schedule another attempt at `shard`, or let it fail. `lost`: the attempt ended with the node, which is not
        the shard's fault."""
        self.health.last_error = error
        failures, losses = self.attempts[shard.key]
        failures, losses = failures + (not lost), losses + lost
        attempts = failures + losses
        if failures <= self.limits.max_retries and losses <= self.limits.max_losses:
            self.attempts[shard.key] = failures, losses
            pause = backoff_s(attempts, BACKOFF_S, MAX_BACKOFF_S)
            self.sequence += 1
            heapq.heappush(self.retries, (time.monotonic() + pause, self.sequence, shard))
            self.counts = replace(self.counts, retries=self.counts.retries + 1)
            logger.info("shard %s is retried in %.1f s, attempt %d failed: %s", shard.key, pause, attempts, error)
            return
        logger.warning("shard %s failed after %d attempts: %s", shard.key, attempts, error)
        self.attempts.pop(shard.key, None)
        self.failed[shard.key] = error
        self.counts = replace(self.counts, failed=self.counts.failed + 1)
        if self.on_failed is not None:
            self.on_failed(shard, error)
        self.health.shard_failed(shard.key, error)

    # ---- actors

    def _start_actor(self, slot: _Slot) -> None:
        slot.actor, slot.ready, slot.shard, slot.since = self.actors.make(), False, None, time.monotonic()
        slot.ref = slot.actor.__ray_call__.remote(_node_of)

    def _lose(self, slot: _Slot, shard: Shard | None, error: str, unreachable: bool = False) -> None:
        """Replace an actor that died, hung or did not start, and retry its shard. Ray reports a dying node as
        unreachable first."""
        node_lost = unreachable or (
            bool(slot.node_id) and slot.node_id not in {node["NodeID"] for node in alive_nodes()}
        )
        was_ready = slot.ready
        self._kill(slot)
        self.counts = replace(self.counts, replaced=self.counts.replaced + 1)
        if shard is not None:
            self._retry(shard, error, lost=node_lost)
        slot.start_failures = 0 if was_ready else slot.start_failures + 1
        self.health.actor_lost(len(self.slots), error)
        if all(other.start_failures >= MAX_START_FAILURES for other in self.slots):
            self.health.no_actor_starts(error)
        if slot.start_failures < MAX_START_FAILURES:
            self._start_actor(slot)
        else:
            slot.start_after = time.monotonic() + RESTART_S

    def _kill(self, slot: _Slot) -> None:
        actor, slot.actor, slot.ref, slot.shard, slot.ready, slot.node_id = (
            slot.actor,
            None,
            None,
            None,
            False,
            "",
        )
        if actor is not None:
            with contextlib.suppress(
                RayError, RuntimeError, ValueError
            ):  # the actor has already ended, or Ray itself has
                ray.kill(actor, no_restart=True)

    # ---- limits

    def _poll_s(self) -> float:
        """Seconds to wait for the next event."""
        if not self.retries:
            return TICK_S
        return min(TICK_S, max(self.retries[0][0] - time.monotonic(), 0.01))

    def _check_limits(self) -> None:
        now = time.monotonic()
        for slot in self.slots:
            waited_s = now - slot.since
            if slot.shard is not None and waited_s > self.limits.shard_timeout_s:
                self._lose(slot, slot.shard, f"not finished after {self.limits.shard_timeout_s:g} s")
            elif (
                slot.ref is not None
                and not slot.ready
                and waited_s > self.limits.start_timeout_s + self.limits.scale_up_s
            ):
                self.health.last_error = f"actor not ready after {waited_s:.0f} s"
                self._kill(slot)
                self._start_actor(slot)
        if self.has_work():
            self.health.check_progress(any(slot.ready for slot in self.slots))


def _node_of(_actor: Any) -> str:
    """Runs in the actor: its return shows that the actor has started."""
    return str(ray.get_runtime_context().get_node_id())


def _error_text(error: RayError) -> str:
    """The actor's error in one line."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"[:1000]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, RayActorError) and getattr(error, "actor_init_failed", False):
        return f"the actor could not start: {lines[-1]}"[:1000]  # the last line of a traceback is its exception
    return f"{type(error).__name__}: {lines[0]}"[:1000]
