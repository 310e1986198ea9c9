"""Several runs of jobs side by side on one cluster, each in a process of its own with its share of the CPUs and GPUs.

A trial is a call that a process of Ray makes: whatever it starts with Ray Data and Ray Train is its own and ends with
it. A trial that fails is told of, and the others go on; one whose process dies is begun again, as every job goes on
where it was.
"""

import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.markup import escape

from cluster.errors import ClusterError
from cluster.runtime.connect import ClusterInfo
from cluster.runtime.resources import ResourceQuota, set_quota
from jobs.console.command import console
from soundstorm.errors import SoundStormError

logger = logging.getLogger(__name__)

Trial = Callable[[], dict[str, Any]]

POLL_S = 1.0
ANSWER_S = 5.0
"""How long a trial may take to say where it stands; else it is asked again."""
SAY_EVERY_S = 15.0
"""From one line of progress of a trial to the next."""
IMMEDIATE_PREFIXES = ("warning:", "note:", "stage ")
"""How lines begin that are not held back."""
MAX_DEATHS = 2
"""Times that a trial is begun again after its process died."""
MEMORY_BYTES = 4 * 2**30
"""That a trial needs, by and large: its own process, that of one worker, and those that read for them."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: one of the two."""

    result: dict[str, Any] | None = None
    error: str | None = None


def concurrency_for(
    num_trials: int, max_concurrent: int | None, num_workers: int | None, use_gpus: bool, info: ClusterInfo
) -> tuple[int, ResourceQuota]:
    """How many trials run at a time, and what each may take.

    Args:
        num_trials: trials to run.
        max_concurrent: the most at a time; None = as many as there are CPUs (or GPUs) for, and memory.
        num_workers: training processes of each.
        use_gpus: whether a trial trains on GPUs where there are any.
        info: the cluster.

    Raises:
        SoundStormError: `max_concurrent` is more than the cluster has CPUs or GPUs for.
    """
    by_gpu = use_gpus and info.num_gpus >= 1
    what, have = ("GPUs", int(info.num_gpus)) if by_gpu else ("CPUs", int(info.num_cpus))
    room = max(1, have // (num_workers or 1))
    if max_concurrent is not None and max_concurrent > room:
        raise SoundStormError(
            f"--max-concurrent is {max_concurrent}: the cluster has {have} {what}, which is room for {room} at a time"
        )
    in_memory = max(1, int(ray.cluster_resources().get("memory", 0.0) // MEMORY_BYTES))
    concurrent = max(1, min(num_trials, max_concurrent or min(room, in_memory)))
    return concurrent, ResourceQuota(
        num_cpus=max(1, int(info.num_cpus) // concurrent), num_gpus=int(info.num_gpus) // concurrent if use_gpus else 0
    )


def run_trials(trials: Mapping[str, Trial], concurrent: int, quota: ResourceQuota) -> dict[str, Outcome]:
    """Run all trials, `concurrent` at a time, and show what they say; returns how each ended.

    When this is interrupted, all end at once.

    Args:
        trials: by name; each is pickled, and called in a process on this node.
        concurrent: trials at a time.
        quota: of each.
    """
    waiting, running = deque(trials), dict[str, _Running]()
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="soundstorm-trials-", ignore_cleanup_errors=True) as scratch:
        try:
            while waiting or running:
                while waiting and len(running) < concurrent:
                    name = waiting.popleft()
                    running[name] = _Running(name, trials[name], quota, scratch)
                ray.wait([trial.done for trial in running.values()], timeout=POLL_S)
                for name, trial in list(running.items()):
                    trial.listen()
                    outcome = trial.outcome()
                    if outcome is not None:
                        outcomes[name] = outcome
                        running.pop(name).end()
        finally:
            for trial in running.values():
                trial.end()
    return {name: outcomes[name] for name in trials}


@dataclass
class _Running:
    """A trial at work."""

    name: str
    trial: Trial
    quota: ResourceQuota
    scratch: str
    deaths: int = 0
    last_printed_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": 2, "scheduling_strategy": here}
        self.process = ray.remote(_Process).options(**options).remote(self.quota, self.scratch)
        self.done = self.process.run.remote(self.trial)

    def listen(self) -> None:
        """Show what the trial has said since it was last asked."""
        try:
            lines = ray.get(self.process.lines.remote(), timeout=ANSWER_S)
        except (GetTimeoutError, RayActorError):
            return
        now, last = time.monotonic(), len(lines) - 1
        for number, line in enumerate(lines):
            is_due = number == last and now - self.last_printed_at >= SAY_EVERY_S
            if is_due or line.startswith(IMMEDIATE_PREFIXES):
                self._print_line(line)
                self.last_printed_at = now

    def outcome(self) -> Outcome | None:
        """How the trial ended, None while it is at work; a trial whose process died is begun again."""
        if not ray.wait([self.done], timeout=0)[0]:
            return None
        try:
            outcome: Outcome = ray.get(self.done)
        except RayError as error:
            cause = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]
            if not isinstance(error, RayActorError) or self.deaths == MAX_DEATHS:
                return Outcome(
                    error=f"its process died {self.deaths + 1} times ({cause}); more memory may help, or fewer at a "
                    "time (--max-concurrent)"
                )
            self.deaths += 1
            self._print_line(f"its process died and is begun again ({cause})")
            self._begin()
            return None
        if outcome.error is not None:
            console.print(f"{escape(self.name)}: [bold red]failed:[/] {escape(outcome.error)}")
        return outcome

    def end(self) -> None:
        """End the trial's process, and with it all that it started."""
        ray.kill(self.process)

    def _print_line(self, line: str) -> None:
        console.print(f"{escape(self.name)}: {escape(line)}")


class _Process:
    """The actor that runs one trial; it is asked for its lines by another thread."""

    def __init__(self, quota: ResourceQuota, scratch: str) -> None:
        set_quota(quota)
        tempfile.tempdir = scratch  # a process that is killed leaves nothing behind
        torch.set_num_threads(quota.num_cpus)
        self.said = LineBuffer()
        console.file = self.said  # type: ignore[assignment]  # all that a console asks of a file

    def run(self, trial: Trial) -> Outcome:
        try:
            return Outcome(result=trial())
        except (SoundStormError, ClusterError) as error:
            return Outcome(error=str(error))
        except Exception as error:  # the other trials are to go on
            logger.exception("a trial failed")
            return Outcome(
                error=f"unexpected {type(error).__name__}: {error}. This is a fault of the program: please report it"
            )

    def lines(self) -> list[str]:
        """Whole lines since the last call."""
        return self.said.take()


class LineBuffer:
    """A file that keeps what is written to it until it is taken."""

    def __init__(self) -> None:
        self._lock, self._kept = threading.Lock(), ""

    def write(self, text: str) -> int:
        with self._lock:
            self._kept += text
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def take(self) -> list[str]:
        with self._lock:
            whole, _, self._kept = self._kept.rpartition("\n")
        return [line.strip() for line in whole.splitlines() if line.strip()]
