"""Progress that reads well on a terminal and in a job's log alike."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.entry import console

LOG_INTERVAL_S = 20.0
"""Seconds between lines where output is not a terminal."""


class Counter:
    """Counts finished units of a known total and shows it; made by `progress`."""

    def __init__(self, description: str, total: int, bar: Progress | None) -> None:
        self.description, self.total, self.done = description, total, 0
        self._bar = bar
        self._task = bar.add_task(description, total=total) if bar else None
        self._started = self._shown = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Add `count` finished units; `note` (losses, retries) stands behind the count."""
        self.done += count
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, description=f"{self.description} {note}".strip())
            return
        now = time.monotonic()
        if now - self._shown >= LOG_INTERVAL_S or self.done >= self.total:
            self._shown = now
            rate = self.done / max(now - self._started, 1e-9)
            console.print(f"{self.description}: {self.done}/{self.total} ({rate:.2f}/s) {note}".rstrip(), highlight=False)


@contextmanager
def progress(description: str, total: int) -> Iterator[Counter]:
    """A progress bar on a terminal; elsewhere a line every 20 seconds and one at the end."""
    if not console.is_terminal:
        yield Counter(description, total, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield Counter(description, total, bar)
