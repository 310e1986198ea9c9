"""When a run over many shards is given up: nobody is left to work, nothing succeeds any more, or the storage is gone.
Each raises a ClusterError."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.errors import ClusterError

MAX_START_FAILURES = 3  # attempts to start one actor, in a row


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much goes wrong before something is given up."""

    max_retries: int = 3
    """Times a shard is tried again after it failed, or its actor died or hung; then it is set aside."""
    max_losses: int = 10
    """Times a shard is tried again after the node under its actor went away, which is not the shard's fault."""
    shard_timeout_s: float = 1800.0
    """A shard that takes longer has failed, and its actor is replaced."""
    start_timeout_s: float = 300.0
    """An actor that is not ready by then is started anew; where the nodes have room for one, a run without any is given
    up then."""
    stall_timeout_s: float = 80.0
    """Where they have no room, it is given up after this long. Ray takes up to half a minute to notice that a node is
    gone."""
    growth_s: float = 0.0
    """Seconds that the cluster may take to add a node; the two limits above are longer by these."""
    quiet_s: float = 15.0
    """After this long without a finished shard the caller's own check is made, and again after as long."""
    max_failed_in_a_row: int = 10
    """The run is given up when this many shards were set aside with none finished in between."""


class Health:
    """What tells a run that goes on from one that does not. All methods but `close` may raise ClusterError."""

    def __init__(
        self, limits: Limits, check: Callable[[], None] | None, has_room: Callable[[], bool] = lambda: False
    ) -> None:
        self.limits, self._has_room = limits, has_room
        self.last_error = "none was scheduled"
        self._done = 0
        self._failed_in_a_row = 0
        self._losses_in_a_row = 0  # actors lost since a shard was last finished or set aside
        self._last_life = self._last_success = time.monotonic()
        self._problem: Exception | None = None  # what the check raised
        self._closed = threading.Event()
        if check is not None:
            threading.Thread(target=self._watch, args=(check,), name="check", daemon=True).start()

    def finished(self) -> None:
        """A shard was finished."""
        self._done += 1
        self._failed_in_a_row = self._losses_in_a_row = 0
        self._last_success = time.monotonic()

    def set_aside(self, key: str, error: str) -> None:
        """A shard was set aside."""
        self._failed_in_a_row += 1
        self._losses_in_a_row = 0
        if self._failed_in_a_row >= self.limits.max_failed_in_a_row:
            raise self.given_up(f"{self._failed_in_a_row} shards in a row failed, the last one ({key}) with: {error}")

    def lost(self, num_places: int, error: str) -> None:
        """One of the actors died, hung or did not start; `num_places` is how many there should be."""
        self.last_error = error
        self._losses_in_a_row += 1
        if self._losses_in_a_row > MAX_START_FAILURES + (2 + self.limits.max_retries) * num_places:
            raise self.given_up(
                f"{self._losses_in_a_row} actors died with no shard finished in between, the last with: {error}"
            )

    def unstartable(self, error: str) -> None:
        """No actor is left, and none can be started."""
        raise self.given_up(f"no actor could be started: {error}")

    def look(self, any_ready: bool) -> None:
        """To be called all the time, with whether any actor is at hand."""
        if self._problem is not None:
            raise self.given_up(str(self._problem)) from self._problem
        now = time.monotonic()
        silence_s = now - self._last_life
        if any_ready:
            self._last_life = now
        elif silence_s > self._patience_s(self.limits.stall_timeout_s) and (
            silence_s > self._patience_s(self.limits.start_timeout_s) or not self._has_room()
        ):
            raise self.given_up(
                f"no actor was ready for {silence_s:.0f} s (last error: {self.last_error}); "
                "check with `ray status` that nodes are alive with enough free CPUs, GPUs and memory"
            )

    def _patience_s(self, limit_s: float) -> float:
        return limit_s + self.limits.growth_s

    def close(self) -> None:
        """The run has ended."""
        self._closed.set()

    def _watch(self, check: Callable[[], None]) -> None:
        """Runs in a thread, so that a check that takes its time delays nothing."""
        while not self._closed.wait(self.limits.quiet_s):
            if time.monotonic() - self._last_success >= self.limits.quiet_s:
                try:
                    check()
                except ClusterError as error:
                    self._problem = error
                    return

    def given_up(self, why: str) -> ClusterError:
        """The error that ends the run, because of `why`."""
        return ClusterError(f"{why}. {self._done} finished shards are kept: mend the cause and run again")
