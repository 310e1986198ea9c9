"""Watchdog over work that Ray schedules itself (Ray Data, Ray Train): Ray may wait endlessly for nodes that are never
added; under the watchdog, every wait is bounded."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster import storage
from cluster.errors import ClusterError, StorageUnavailableError
from cluster.runtime.connect import MAX_GPUS, SCALE_UP_TIMEOUT_S
from cluster.runtime.resources import alive_nodes
from cluster.scheduling.abandonable import start_abandonable
from cluster.scheduling.limits import Limits
from cluster.scheduling.probe import Probe

POLL_S = 0.25
LOOK_S = 5.0
ANSWER_S = 30.0

Result = TypeVar("Result")


@dataclass(kw_only=True, frozen=True)
class Watchdog:
    """What is watched, and the limits.

    Slow work continues: the watchdog only asks whether any worker still sends heartbeats, see
    `cluster.scheduling.attempt_tracker`.
    """

    tracker: Any
    """Attempt tracker that the workers send heartbeats to."""
    worker: Mapping[str, float]
    """Ray resources that one worker reserves."""
    num_workers: int = 1
    """Minimum number of workers that the work needs."""
    storage_uri: str
    """URI that the work reads or writes; it is checked every few seconds, and the work ends if the storage cannot be
    reached."""
    limits: Limits
    """Longest time without a heartbeat: `stall_timeout_s` if the nodes cannot hold the workers, `start_timeout_s` if
    they can."""


def run_with_watchdog(
    work: Callable[[], Result], watchdog: Watchdog, on_tick: Callable[[], None] = lambda: None
) -> Result:
    """Run `work` in a thread under the watchdog; returns its result.

    Args:
        work: a call in which Ray may block.
        watchdog: what is watched, and the limits.
        on_tick: called in this thread several times a second, and once after the end. An exception that it raises ends
            the wait.

    Raises:
        ClusterError: no worker sent a heartbeat for too long, or the storage cannot be reached. The thread is
            abandoned.
        Exception: whatever `work` raised.
    """
    answered = time.monotonic()
    next_look = answered + LOOK_S
    future = start_abandonable(work)
    probe = Probe(lambda: _check_storage(watchdog.storage_uri), watchdog.limits.quiet_s)
    try:
        while not future.done():
            wait([future], POLL_S)
            on_tick()
            if probe.problem is not None:
                raise ClusterError(
                    f"{probe.problem}. What is finished is kept: fix the cause and run the same command again"
                )
            if time.monotonic() >= next_look:
                answered = _look(watchdog, answered)
                next_look = time.monotonic() + LOOK_S
    finally:
        probe.close()
    on_tick()
    return future.result()


def limits_here() -> Limits:
    """The limits for the connected cluster, with time to scale up if it can."""
    return Limits(scale_up_s=SCALE_UP_TIMEOUT_S if ray.cluster_resources().get(MAX_GPUS) else 0.0)


def can_schedule(worker: Mapping[str, float], num_workers: int = 1) -> bool:
    """Whether the live nodes could hold the workers if nothing else ran on them."""
    nodes = [node["Resources"] for node in alive_nodes()]
    return (
        sum(
            min((int(node.get(name, 0.0) // amount) for name, amount in worker.items() if amount), default=1)
            for node in nodes
        )
        >= num_workers
    )


def _check_storage(uri: str) -> None:
    """Raise StorageUnavailableError if the storage cannot be reached."""
    try:
        storage.exists(uri)
    except StorageUnavailableError:
        raise
    except ClusterError:  # about this one object; the workers report it if they need the object
        pass


def _look(watchdog: Watchdog, answered: float) -> float:
    """Raise if no worker sent a heartbeat for too long; returns when the tracker last answered, before this call at
    `answered`."""
    limits = watchdog.limits
    try:
        silence_s = ray.get(watchdog.tracker.seconds_since_heartbeat.remote(), timeout=ANSWER_S)
    except GetTimeoutError:  # a busy machine says nothing about the work, but must answer at last
        unanswered_s = time.monotonic() - answered
        if unanswered_s > limits.start_timeout_s + limits.scale_up_s:
            raise ClusterError(
                f"Ray has not answered for {unanswered_s:.0f} s; check with `ray status` whether its head is alive. "
                "What "
                "is finished is kept: run again"
            ) from None
        return answered
    except RayError as error:
        raise ClusterError(
            f"Ray no longer works on this machine ({type(error).__name__}). What is finished is kept: run again"
        ) from error
    has_room = partial(can_schedule, watchdog.worker, watchdog.num_workers)
    if not limits.is_stalled(silence_s, has_room):
        return time.monotonic()
    needed = " and ".join(f"{amount:g} {name}" for name, amount in watchdog.worker.items() if amount)
    raise ClusterError(
        f"no worker was active for {silence_s:.0f} s, although the nodes could hold {watchdog.num_workers} with "
        f"{needed} each; check with `ray status` whether other jobs hold them. What is finished is kept: run again"
        if has_room()
        else f"no worker was active for {silence_s:.0f} s, and the remaining nodes cannot hold {watchdog.num_workers} "
        f"with {needed} each; check with `ray status`. What is finished is kept: run again when there are nodes"
    )
