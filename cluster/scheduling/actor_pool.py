"""Work on many shards with a few actors, through faults: each shard is done exactly once or set aside with its error,
and no wait is unbounded.

Shards come from an iterator and results leave through a callback, so that memory does not grow with their number. Each
actor works on one shard at a time. A shard whose actor raised, died or took too long is tried again a bounded number of
times; a dead actor is replaced. This is what `ray.util.ActorPool` does not survive: nodes and processes that go away.
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
from cluster.storage.retry import pause_s

TICK_S = 1.0
BACKOFF_S = 0.5  # doubled at each attempt
MAX_BACKOFF_S = 30.0
RESTART_S = 30.0  # until an actor that could not be started is tried again, while others work

logger = logging.getLogger(__name__)


def run_shards(
    shards: Iterable[Shard],
    make_actor: Callable[[], Any],
    method: str,
    *,
    num_actors: int,
    on_done: Callable[[Shard, Any], None],
    on_failed: Callable[[Shard, str], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    check: Callable[[], None] | None = None,
    has_room: Callable[[], bool] = lambda: False,
    limits: Limits | None = None,
) -> ShardsResult:
    """Call `method(shard.payload)` of some actor for every shard.

    Args:
        shards: the work; taken from the iterator only as actors become free.
        make_actor: creates one actor, without waiting for it, e.g. `lambda: Worker.options(num_cpus=1).remote(...)`;
            its `max_restarts` must be 0.
        method: name of the actor's method; it may run more than once for a shard, so it should write nothing a
            repetition would spoil.
        num_actors: how many actors at most; never more than there are shards.
        on_done: called here, in the driver, once for each finished shard with the method's result. What it raises ends
            the run.
        on_failed: called once for each shard set aside, with its error.
        on_progress: called after every change and at least about once a second.
        check: called in a thread while no shard gets finished; a ClusterError that it raises (the storage is gone, say)
            ends the run.
        has_room: whether the nodes could hold an actor: then one that is slow to start is waited for.
        limits: see `Limits`.

    Raises:
        ClusterError: no actor can be started or kept alive, shard after shard fails, the disk is full, or `check`
            raised. What was finished before went through `on_done`.
    """
    limits = limits or Limits()
    run = _Run(
        iter(shards),
        make_actor,
        method,
        max(num_actors, 1),
        on_done,
        on_failed,
        limits,
        Health(limits, check, has_room),
    )
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
class _Worker:
    """A place for an actor, and the actor that holds it now."""

    actor: Any = None
    ref: ray.ObjectRef | None = None  # of the start, or of the shard at work; None = idle
    since: float = 0.0  # when `ref` was made
    shard: Shard | None = None
    ready: bool = False
    start_failures: int = 0
    start_after: float = 0.0  # where there is no actor: when to try again
    node_id: str = ""


@dataclass(slots=True)
class _Run:
    """The state of one `run_shards`."""

    source: Iterator[Shard]
    make_actor: Callable[[], Any]
    method: str
    num_actors: int
    on_done: Callable[[Shard, Any], None]
    on_failed: Callable[[Shard, str], None] | None
    limits: Limits
    health: Health
    counts: Progress = field(default_factory=Progress)
    failed: dict[str, str] = field(default_factory=dict)
    workers: list[_Worker] = field(default_factory=list)
    waiting: deque[Shard] = field(
        default_factory=deque
    )  # taken from the source, not yet tried, or tried in vain by no fault of its own
    retries: list[tuple[float, int, Shard]] = field(default_factory=list)  # a heap: not before when, tie-break, what
    attempts: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # of shards not yet finished: how often they failed, and were lost
    exhausted: bool = False  # the source
    tie: int = 0

    # ---- life

    def start(self) -> None:
        """Start as many actors as there is work for."""
        while len(self.waiting) < self.num_actors and self._pull():
            pass
        self.workers = [_Worker() for _ in range(len(self.waiting))]
        for worker in self.workers:
            self._start_actor(worker)

    def has_work(self) -> bool:
        """Whether any shard is not yet finished or set aside."""
        return bool(self.waiting or self.retries or not self.exhausted or any(worker.shard for worker in self.workers))

    def stop(self) -> None:
        """End all actors."""
        self.health.close()
        for worker in self.workers:
            self._kill(worker)

    def progress(self) -> Progress:
        """Where the run stands."""
        return replace(self.counts, ready=sum(worker.ready for worker in self.workers))

    def step(self) -> None:
        """Hand out work, wait a moment for something to happen, and deal with all that did."""
        for worker in self.workers:
            if worker.actor is None and worker.start_after <= time.monotonic():
                self._start_actor(worker)
            self._assign(worker)
        busy = {worker.ref: worker for worker in self.workers if worker.ref is not None}
        if busy:
            refs = list(busy)
            ray.wait(refs, num_returns=1, timeout=self._patience())
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            for ref in done:
                self._receive(busy[ref], ref)
        elif self.has_work():
            time.sleep(self._patience())
        self._check_limits()

    # ---- work

    def _pull(self) -> bool:
        """Take one shard from the source; False if there is none left."""
        if not self.exhausted:
            shard = next(self.source, None)
            if shard is not None:
                self.waiting.append(shard)
                return True
            self.exhausted = True
        return False

    def _next_shard(self) -> Shard | None:
        """What to do next: a retry whose time has come, else something new unless too many retries are pending."""
        if self.retries and self.retries[0][0] <= time.monotonic():
            return heapq.heappop(self.retries)[2]
        if not self.waiting and len(self.retries) < 2 * self.num_actors:
            self._pull()
        return self.waiting.popleft() if self.waiting else None

    def _assign(self, worker: _Worker) -> None:
        if worker.ready and worker.ref is None:
            shard = self._next_shard()
            if shard is not None:
                worker.shard, worker.since = shard, time.monotonic()
                worker.ref = getattr(worker.actor, self.method).remote(shard.payload)

    def _receive(self, worker: _Worker, ref: ray.ObjectRef) -> None:
        """Deal with a start or a shard that ended, well or not."""
        shard = worker.shard
        worker.ref = worker.shard = None
        try:
            result = ray.get(ref, timeout=self.limits.start_timeout_s)
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, NoRoomError):
                raise self.health.given_up(str(error.cause)) from error
            if isinstance(error, RayTaskError) and shard is not None:  # the actor's method raised; the actor lives
                self._retry(shard, _error_text(error))
                return
            self._lose(worker, shard, _error_text(error), unreachable=isinstance(error, ActorUnavailableError))
        else:
            if shard is None:
                worker.ready, worker.start_failures, worker.node_id = True, 0, str(result)
                return
            self._assign(worker)  # before the callback, so that the actor need not wait for it
            self.attempts.pop(shard.key, None)
            self.health.finished()
            self.on_done(shard, result)
            self.counts = replace(self.counts, done=self.counts.done + 1)

    def _retry(self, shard: Shard, error: str, lost: bool = False) -> None:
        """Plan another attempt at `shard`, or set it aside. `lost` = the attempt ended with its node, not through the
        shard."""
        self.health.last_error = error
        failures, losses = self.attempts.get(shard.key, (0, 0))
        failures, losses = failures + (not lost), losses + lost
        attempts = failures + losses
        if failures <= self.limits.max_retries and losses <= self.limits.max_losses:
            self.attempts[shard.key] = failures, losses
            pause = pause_s(attempts, BACKOFF_S, MAX_BACKOFF_S)
            self.tie += 1
            heapq.heappush(self.retries, (time.monotonic() + pause, self.tie, shard))
            self.counts = replace(self.counts, retries=self.counts.retries + 1)
            logger.info(
                "shard %s is tried again in %.1f s, attempt %d did not succeed: %s", shard.key, pause, attempts, error
            )
            return
        logger.warning("shard %s is set aside after %d attempts: %s", shard.key, attempts, error)
        self.attempts.pop(shard.key, None)
        self.failed[shard.key] = error
        self.counts = replace(self.counts, failed=self.counts.failed + 1)
        if self.on_failed is not None:
            self.on_failed(shard, error)
        self.health.set_aside(shard.key, error)

    # ---- actors

    def _start_actor(self, worker: _Worker) -> None:
        worker.actor, worker.ready, worker.shard, worker.since = self.make_actor(), False, None, time.monotonic()
        worker.ref = worker.actor.__ray_call__.remote(_node_of)

    def _lose(self, worker: _Worker, shard: Shard | None, error: str, unreachable: bool = False) -> None:
        """Replace an actor that died, hung or did not start, and plan its shard anew. Of a dying node one first hears
        that it is unreachable."""
        node_lost = unreachable or (
            bool(worker.node_id) and worker.node_id not in {node["NodeID"] for node in alive_nodes()}
        )
        was_ready = worker.ready
        self._kill(worker)
        self.counts = replace(self.counts, replaced=self.counts.replaced + 1)
        if shard is not None:
            self._retry(shard, error, lost=node_lost)
        worker.start_failures = 0 if was_ready else worker.start_failures + 1
        self.health.lost(len(self.workers), error)
        if all(other.start_failures >= MAX_START_FAILURES for other in self.workers):
            self.health.unstartable(error)
        if worker.start_failures < MAX_START_FAILURES:
            self._start_actor(worker)
        else:
            worker.start_after = time.monotonic() + RESTART_S

    def _kill(self, worker: _Worker) -> None:
        actor, worker.actor, worker.ref, worker.shard, worker.ready, worker.node_id = (
            worker.actor,
            None,
            None,
            None,
            False,
            "",
        )
        if actor is not None:
            with contextlib.suppress(RayError, RuntimeError, ValueError):  # it is gone already, or Ray itself is
                ray.kill(actor, no_restart=True)

    # ---- limits

    def _patience(self) -> float:
        """Seconds to wait before looking again."""
        if not self.retries:
            return TICK_S
        return min(TICK_S, max(self.retries[0][0] - time.monotonic(), 0.01))

    def _check_limits(self) -> None:
        now = time.monotonic()
        for worker in self.workers:
            waited_s = now - worker.since
            if worker.shard is not None and waited_s > self.limits.shard_timeout_s:
                self._lose(worker, worker.shard, f"not finished after {self.limits.shard_timeout_s:g} s")
            elif (
                worker.ref is not None
                and not worker.ready
                and waited_s > self.limits.start_timeout_s + self.limits.growth_s
            ):
                self.health.last_error = f"actor not ready after {waited_s:.0f} s"
                self._kill(worker)
                self._start_actor(worker)
        if self.has_work():
            self.health.look(any(worker.ready for worker in self.workers))


def _node_of(_actor: Any) -> str:
    """Runs in the actor: when this returns, the actor has started."""
    return str(ray.get_runtime_context().get_node_id())


def _error_text(error: RayError) -> str:
    """One line that says what went wrong in the actor."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"[:1000]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, RayActorError) and getattr(error, "actor_init_failed", False):
        return f"the actor could not start: {lines[-1]}"[:1000]  # the last line of a traceback is its exception
    return f"{type(error).__name__}: {lines[0]}"[:1000]
