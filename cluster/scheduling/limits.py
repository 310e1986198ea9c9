"""Limits of a run over many shards, and when it is aborted with a ClusterError: no actor is left, shard after shard
fails, or the storage cannot be reached."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.errors import ClusterError
from cluster.scheduling.probe import Probe

MAX_START_FAILURES = 3  # consecutive failed starts of one actor


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits on retries, on waiting and on failures."""

    max_retries: int = 3
    """Retries of a shard after an error, or after its actor died or hung; then the shard fails."""
    max_losses: int = 10
    """Retries of a shard whose actor was lost with its node, which is not the shard's fault."""
    shard_timeout_s: float = 1800.0
    """Longest time of an attempt at a shard; then the attempt fails and the actor is replaced."""
    start_timeout_s: float = 300.0
    """Longest time until an actor is ready; then it is started again. A run without a ready actor is aborted after this
    time if the nodes could hold one."""
    stall_timeout_s: float = 80.0
    """A run without a ready actor is aborted after this time if the nodes cannot hold one. Ray needs up to half a
    minute to notice that a node is lost."""
    scale_up_s: float = 0.0
    """Seconds that the cluster may need to add a node (scale up); they are added to the two limits above."""
    quiet_s: float = 15.0
    """The caller's check runs each time that no shard was finished for this long."""
    max_failed_in_a_row: int = 10
    """The run is aborted when this many shards in a row have failed."""

    def is_stalled(self, idle_s: float, has_room: Callable[[], bool]) -> bool:
        """Whether a run whose last sign of life is `idle_s` old is aborted; `has_room` tells whether the nodes could
        hold its workers."""
        if idle_s <= self.stall_timeout_s + self.scale_up_s:
            return False
        return idle_s > self.start_timeout_s + self.scale_up_s or not has_room()


class Health:
    """Decides whether a run continues: all methods except `close` raise ClusterError when it must be aborted."""

    def __init__(self, limits: Limits, check: Callable[[], None] | None, can_schedule: Callable[[], bool]) -> None:
        self.limits, self._has_room = limits, can_schedule
        self.last_error = "none was scheduled"
        self._done = 0
        self._failed_in_a_row = 0
        self._losses_in_a_row = 0  # actors lost since a shard last finished or failed
        self._last_ready = self._last_success = time.monotonic()
        self._check = check
        self._probe = Probe(self._check_if_quiet, limits.quiet_s)

    def finished(self) -> None:
        """Record that a shard was finished."""
        self._done += 1
        self._failed_in_a_row = self._losses_in_a_row = 0
        self._last_success = time.monotonic()

    def shard_failed(self, key: str, error: str) -> None:
        """Record that a shard failed after all retries."""
        self._failed_in_a_row += 1
        self._losses_in_a_row = 0
        if self._failed_in_a_row >= self.limits.max_failed_in_a_row:
            raise self.abort_error(
                f"{self._failed_in_a_row} shards in a row failed, the last one ({key}) with: {error}"
            )

    def actor_lost(self, num_actors: int, error: str) -> None:
        """Record that one of `num_actors` actors died, hung or did not start."""
        self.last_error = error
        self._losses_in_a_row += 1
        if self._losses_in_a_row > MAX_START_FAILURES + (2 + self.limits.max_retries) * num_actors:
            raise self.abort_error(
                f"{self._losses_in_a_row} actors died with no shard finished in between, the last with: {error}"
            )

    def no_actor_starts(self, error: str) -> None:
        """Abort: no actor is left, and none can be started."""
        raise self.abort_error(f"no actor could be started: {error}")

    def check_progress(self, any_ready: bool) -> None:
        """Call it continually with whether any actor is ready; raises when a limit is exceeded."""
        if self._probe.problem is not None:
            raise self.abort_error(str(self._probe.problem)) from self._probe.problem
        now = time.monotonic()
        unready_s = now - self._last_ready
        if any_ready:
            self._last_ready = now
        elif self.limits.is_stalled(unready_s, self._has_room):
            raise self.abort_error(
                f"no actor was ready for {unready_s:.0f} s (last error: {self.last_error}); "
                "check with `ray status` that nodes are alive with enough free CPUs, GPUs and memory"
            )

    def close(self) -> None:
        """Stop the check: the run has ended."""
        self._probe.close()

    def _check_if_quiet(self) -> None:
        if self._check is not None and time.monotonic() - self._last_success >= self.limits.quiet_s:
            self._check()

    def abort_error(self, why: str) -> ClusterError:
        """The error that aborts the run because of `why`."""
        return ClusterError(
            f"{why}. {self._done} finished shards are kept: fix the cause and run the same command again"
        )
