"""Progress of a job: a bar on a terminal, lines in a log, and Prometheus metrics."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster import metrics as telemetry
from cluster.scheduling.shards import Progress as ShardProgress
from jobs.console.command import console

FIRST_LOG_S, LOG_INTERVAL_S = 10.0, 60.0
"""If the output is not a terminal: seconds until the second line, and between further lines."""
RECENT_LINES = 10
"""The rate and the remaining time are computed over this many lines."""


class ProgressCounter:
    """Counts the clips of a job and prints its progress; `progress` creates it."""

    def __init__(self, stage: str, total: int, finished: int) -> None:
        self.stage, self.total, self.done = stage, total, finished
        self.rejected = 0
        self.shards = ShardProgress()
        self._finished_before = finished
        self._began = time.monotonic()
        self._samples: deque[tuple[float, int]] = deque([(self._began, finished)], maxlen=RECENT_LINES)
        self.bar: Progress | None = None
        """Progress bar on a terminal."""

    def advance(self, count: int = 1, rejected: int = 0) -> None:
        """Record that `count` more clips are finished, of which `rejected` were rejected."""
        self.done += count
        self.rejected += rejected
        telemetry.increment(self.stage, "clips_done", count)
        telemetry.increment(self.stage, "clips_rejected", rejected)
        self._update_bar()

    def update_shards(self, now: ShardProgress, num_shards: int) -> None:
        """Record the progress `now` of the actors over `num_shards` shards."""
        if now == self.shards:
            return
        before, self.shards = self.shards, now
        telemetry.increment(self.stage, "retries", now.retries - before.retries)
        telemetry.increment(self.stage, "actors_replaced", now.replaced - before.replaced)
        telemetry.increment(self.stage, "shards_set_aside", now.failed - before.failed)
        telemetry.set_gauge(self.stage, "shards_waiting", max(0, num_shards - now.done - now.failed - now.ready))
        telemetry.set_gauge(self.stage, "actors_ready", now.ready)
        self._update_bar()

    def line(self) -> str:
        """The progress in one line: `generate: 120/600 clips (20%), 2.10/s, ETA 3:48 min; 1 retry`."""
        now = time.monotonic()
        (since, done_then), share = self._samples[0], self.done / max(self.total, 1)
        self._samples.append((now, self.done))
        rate = (self.done - done_then) / max(now - since, 1e-9)
        eta = f", {rate:.2f}/s, ETA {duration((self.total - self.done) / rate)}" if rate else ""
        return f"{self.stage}: {self.done}/{self.total} clips ({share:.0%}){eta}{self._faults_text()}"

    def last_line(self) -> str:
        """Total and rate, after the end."""
        elapsed = time.monotonic() - self._began
        rate = (self.done - self._finished_before) / max(elapsed, 1e-9)
        return (
            f"{self.stage}: {self.done}/{self.total} clips in {duration(elapsed)} ({rate:.2f}/s){self._faults_text()}"
        )

    def _faults_text(self) -> str:
        """Retries, losses and failures; "" if there are none."""
        named = {
            "retries" if self.shards.retries > 1 else "retry": self.shards.retries,
            "actors replaced" if self.shards.replaced > 1 else "actor replaced": self.shards.replaced,
            "failed shards" if self.shards.failed > 1 else "failed shard": self.shards.failed,
            "rejected": self.rejected,
        }
        text = ", ".join(f"{count} {name}" for name, count in named.items() if count)
        return f"; {text}" if text else ""

    def _update_bar(self) -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done, description=f"{self.stage}{self._faults_text()}")


@contextmanager
def progress(stage: str, total: int, finished: int = 0) -> Iterator[ProgressCounter]:
    """Show progress: a bar on a terminal; elsewhere a line at once, after 10 seconds, every minute, and at the end.

    Args:
        stage: name of the job in the lines and metrics.
        total: total number of clips.
        finished: clips that earlier runs finished.
    """
    counter = ProgressCounter(stage, total, finished)
    try:
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=console) as bar:
                bar.add_task(stage, total=total, completed=finished)
                counter.bar = bar
                yield counter
        else:
            with _lines(counter):
                yield counter
    finally:
        telemetry.clear(stage)


@contextmanager
def _lines(counter: ProgressCounter) -> Iterator[None]:
    ended = threading.Event()
    console.print(counter.line())

    def say() -> None:
        wait_s = FIRST_LOG_S
        while not ended.wait(wait_s):
            console.print(counter.line())
            wait_s = LOG_INTERVAL_S

    thread = threading.Thread(target=say, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        console.print(counter.last_line())


def duration(seconds: float) -> str:
    """`seconds` as text: 45 s, 3:05 min, 1:02:03 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"
