"""Several jobs at once on one cluster, each in its own Ray process with a quota of the CPUs and GPUs.

A trial is a call in such a process; what it starts with Ray Data and Ray Train ends with the process. If a trial fails,
the error is reported and the others continue. If its process dies, it is started again and resumes.
"""

import io
import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from rich.markup import escape

from cluster.errors import ClusterError
from cluster.runtime.connect import ClusterInfo
from cluster.runtime.resources import ResourceQuota, on_this_node, set_quota
from jobs.console.command import console
from soundstorm.errors import SoundStormError

logger = logging.getLogger(__name__)

Trial = Callable[[], dict[str, Any]]

POLL_S = 1.0
ANSWER_S = 5.0
"""Longest wait for the lines of a trial; then it is asked again later."""
SAY_EVERY_S = 15.0
"""Interval between printed progress lines of a trial."""
IMMEDIATE_PREFIXES = ("warning:", "note:", "step ")
"""Lines with these beginnings are printed at once."""
MAX_DEATHS = 2
"""Restarts of a trial after its process died."""
MEMORY_BYTES = 4 * 2**30
"""Approximate memory of a trial: its own process, one worker, and the processes that read for them."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended: with a result or an error."""

    result: dict[str, Any] | None = None
    error: str | None = None


def concurrency_for(
    num_trials: int, max_concurrent: int | None, num_workers: int | None, use_gpus: bool, info: ClusterInfo
) -> tuple[int, ResourceQuota]:
    """Number of trials that run at once, and the quota of each.

    Args:
        num_trials: trials to run.
        max_concurrent: requested number; None: as many as CPUs (or GPUs) and memory allow.
        num_workers: training processes of each trial.
        use_gpus: whether a trial trains on GPUs if there are any.
        info: the cluster.

    Raises:
        SoundStormError: `max_concurrent` is more than the cluster has CPUs or GPUs for.
    """
    by_gpu = use_gpus and info.num_gpus >= 1
    what, have = ("GPUs", int(info.num_gpus)) if by_gpu else ("CPUs", int(info.num_cpus))
    capacity = max(1, have // (num_workers or 1))
    if max_concurrent is not None and max_concurrent > capacity:
        raise SoundStormError(
            f"--max-concurrent is {max_concurrent}: the cluster has {have} {what}, which is enough for {capacity} at "
            "once"
        )
    in_memory = max(1, int(ray.cluster_resources().get("memory", 0.0) // MEMORY_BYTES))
    concurrent = max(1, min(num_trials, max_concurrent or min(capacity, in_memory)))
    return concurrent, ResourceQuota(
        num_cpus=max(1, int(info.num_cpus) // concurrent), num_gpus=int(info.num_gpus) // concurrent if use_gpus else 0
    )


def run_trials(trials: Mapping[str, Trial], concurrent: int, quota: ResourceQuota) -> dict[str, Outcome]:
    """Run all trials, `concurrent` at once, and print their lines; returns how each ended. An interrupt ends all.

    Args:
        trials: by name; each is pickled and called in a process on this node.
        concurrent: number of trials that run at once.
        quota: quota of each.
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
                    trial.print_lines()
                    outcome = trial.outcome()
                    if outcome is not None:
                        trial.print_lines()  # those that it wrote meanwhile
                        outcomes[name] = outcome
                        running.pop(name).end()
        finally:
            for trial in running.values():
                trial.end()
    return {name: outcomes[name] for name in trials}


@dataclass
class _Running:
    """A running trial."""

    name: str
    trial: Trial
    quota: ResourceQuota
    scratch: str
    deaths: int = 0
    last_printed_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        options = {"num_cpus": 0, "max_restarts": 0, "max_concurrency": 2, "scheduling_strategy": on_this_node()}
        process = ray.remote(_Process).options(**options).remote(self.quota, self.scratch)
        self.process = cast(Any, process)  # Ray's types know methods only with `@ray.method`
        self.done = self.process.run.remote(self.trial)

    def print_lines(self) -> None:
        """Print the lines that the trial has written since the last call."""
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
        """How the trial ended, None while it runs. A trial whose process died is started again."""
        if not ray.wait([self.done], timeout=0)[0]:
            return None
        try:
            outcome: Outcome = ray.get(self.done)
        except RayError as error:
            cause = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]
            if not isinstance(error, RayActorError) or self.deaths == MAX_DEATHS:
                return Outcome(
                    error=f"its process died {self.deaths + 1} times ({cause}); more memory may help, or fewer at "
                    "once (--max-concurrent)"
                )
            self.deaths += 1
            self._print_line(f"its process died and is started again ({cause})")
            self._begin()
            return None
        if outcome.error is not None:
            console.print(f"{escape(self.name)}: [bold red]failed:[/] {escape(outcome.error)}")
        return outcome

    def end(self) -> None:
        """Kill the trial's process, and with it all that it started."""
        ray.kill(self.process)

    def _print_line(self, line: str) -> None:
        console.print(f"{escape(self.name)}: {escape(line)}")


class _Process:
    """The actor that runs one trial; its lines are read in another thread."""

    def __init__(self, quota: ResourceQuota, scratch: str) -> None:
        set_quota(quota)
        # the process is this trial's own; the driver removes the folder if the process is killed
        tempfile.tempdir = scratch
        torch.set_num_threads(quota.num_cpus)
        self.line_buffer = LineBuffer()
        console.file = self.line_buffer

    def run(self, trial: Trial) -> Outcome:
        try:
            return Outcome(result=trial())
        except (SoundStormError, ClusterError) as error:
            return Outcome(error=str(error))
        except Exception as error:  # the other trials continue
            logger.exception("a trial failed")
            return Outcome(
                error=f"unexpected {type(error).__name__}: {error}. This is a fault of the program: please report it"
            )

    def lines(self) -> list[str]:
        """Complete lines since the last call."""
        return self.line_buffer.take()


class LineBuffer(io.StringIO):
    """A buffer of lines that one thread writes and another takes."""

    def __init__(self) -> None:
        super().__init__()
        self._lock, self._kept = threading.Lock(), ""

    def write(self, text: str) -> int:
        with self._lock:
            self._kept += text
        return len(text)

    def take(self) -> list[str]:
        with self._lock:
            whole, _, self._kept = self._kept.rpartition("\n")
        return [line.strip() for line in whole.splitlines() if line.strip()]
