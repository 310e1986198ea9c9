"""Watching over what Ray does by itself (Ray Data, Ray Train): it may wait for ever for nodes that never come; here,
every wait has a limit."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster import storage
from cluster.errors import ClusterError, StorageUnavailableError
from cluster.runtime.connect import GROWTH_TIMEOUT_S, MAX_GPUS
from cluster.runtime.resources import alive_nodes
from cluster.scheduling.limits import Limits

POLL_S = 0.25
LOOK_S = 5.0
ANSWER_S = 30.0
WATCHED = "watched"
"""Name of the thread that waits in Ray."""

Result = TypeVar("Result")


@dataclass(kw_only=True, frozen=True)
class Vigil:
    """What tells work that goes on from work that does not.

    Slow work is left alone: what counts is that some worker says that it is at work, see
    `cluster.scheduling.attempt_tracker`.
    """

    ledger: Any
    """That the workers report to."""
    worker: Mapping[str, float]
    """Resources that one worker reserves."""
    num_workers: int = 1
    """How many workers the work needs at least."""
    storage_uri: str
    """What the work reads or writes; it is looked for every few seconds, and storage that does not answer ends the
    work."""
    limits: Limits
    """`stall_timeout_s`: silence that is allowed while the nodes have no room for the workers; `start_timeout_s`: while
    they have."""


def has_abandoned_thread() -> bool:
    """Whether a thread of `watch` still waits in Ray, for a run that was given up."""
    return any(thread.name == WATCHED for thread in threading.enumerate())


def watch(work: Callable[[], Result], vigil: Vigil, on_tick: Callable[[], None] = lambda: None) -> Result:
    """`work()`, done in a thread of its own.

    Args:
        work: whatever Ray may wait in.
        vigil: when to give it up.
        on_tick: called here several times a second, and once more after the end; what it raises ends the wait.

    Raises:
        ClusterError: no worker was at work for too long, or the storage is gone. The thread is left behind.
        Exception: what `work` raised.
    """
    outcome: dict[str, Any] = {}

    def do() -> None:
        try:
            outcome["result"] = work()
        except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
            outcome["error"] = error

    thread = threading.Thread(target=do, name=WATCHED, daemon=True)
    problems: SimpleQueue[ClusterError] = SimpleQueue()
    closed = threading.Event()
    answered = time.monotonic()
    next_look = answered + LOOK_S
    thread.start()
    threading.Thread(target=_check, args=(vigil, closed, problems), name="check", daemon=True).start()
    try:
        while thread.is_alive():
            thread.join(POLL_S)
            on_tick()
            if not problems.empty():
                raise ClusterError(f"{problems.get()}. What is finished is kept: mend the cause and run again")
            if time.monotonic() >= next_look:
                answered = _look(vigil, answered)
                next_look = time.monotonic() + LOOK_S
    finally:
        closed.set()
    on_tick()
    if "error" in outcome:
        raise outcome["error"]
    result: Result = outcome["result"]
    return result


def limits_here() -> Limits:
    """The limits for the cluster that this process is connected to: one that grows has time for it."""
    return Limits(growth_s=GROWTH_TIMEOUT_S if ray.cluster_resources().get(MAX_GPUS) else 0.0)


def has_room(worker: Mapping[str, float], num_workers: int = 1) -> bool:
    """Whether the nodes that live could hold the workers, if nothing else ran on them."""
    nodes = [node["Resources"] for node in alive_nodes()]
    return (
        sum(
            min((int(node.get(name, 0.0) // amount) for name, amount in worker.items() if amount), default=1)
            for node in nodes
        )
        >= num_workers
    )


def _check(vigil: Vigil, closed: threading.Event, problems: "SimpleQueue[ClusterError]") -> None:
    """Runs in a thread, so that storage that takes its time delays nothing."""
    while not closed.wait(vigil.limits.quiet_s):
        try:
            storage.exists(vigil.storage_uri)
        except StorageUnavailableError as error:
            problems.put(error)
            return
        except ClusterError:  # of this one object; the workers will tell, if they need it
            continue


def _look(vigil: Vigil, answered: float) -> float:
    """Raise if nobody has been at work for too long; returns when the ledger last answered, which it had done at
    `answered`."""
    try:
        silence_s = ray.get(vigil.ledger.silence_s.remote(), timeout=ANSWER_S)
    except GetTimeoutError:  # a machine this busy says nothing about the work, but it does not stay so for ever
        unheard_s = time.monotonic() - answered
        if unheard_s > vigil.limits.start_timeout_s + vigil.limits.growth_s:
            raise ClusterError(
                f"Ray has not answered for {unheard_s:.0f} s; check with `ray status` whether its head is alive. What "
                "is finished is kept: run again"
            ) from None
        return answered
    except RayError as error:
        raise ClusterError(
            f"Ray no longer works on this machine ({type(error).__name__}). What is finished is kept: run again"
        ) from error
    limits = vigil.limits
    needed = " and ".join(f"{amount:g} {name}" for name, amount in vigil.worker.items() if amount)
    if silence_s > limits.stall_timeout_s + limits.growth_s and not has_room(vigil.worker, vigil.num_workers):
        raise ClusterError(
            f"no worker was at work for {silence_s:.0f} s, and the nodes that are left cannot hold "
            f"{vigil.num_workers} with {needed} each; "
            "check with `ray status`. What is finished is kept: run again when there are nodes"
        )
    if silence_s > limits.start_timeout_s + limits.growth_s:
        raise ClusterError(
            f"no worker was at work for {silence_s:.0f} s, though the nodes could hold {vigil.num_workers} with "
            f"{needed} each; check with "
            "`ray status` whether other jobs hold them. What is finished is kept: run again"
        )
    return time.monotonic()
