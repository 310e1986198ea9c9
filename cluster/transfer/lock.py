"""A lock for several processes of one machine that want to create the same file: one creates it, and the others wait as
long as it makes progress."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import ClusterError

STILL_S = 600.0
"""Longest time without progress of the process that holds the lock: twice the longest time of a download's retries."""
POLL_S = 0.2


@contextlib.contextmanager
def one_at_a_time(destination: Path, progress: Path) -> Iterator[None]:
    """Holds `NAME.lock` beside `destination`, which the system releases if this process dies, and removes it at the
    end.

    Args:
        destination: the file to be made.
        progress: a file that grows while it is made.

    Raises:
        ClusterError: the process that holds the lock hangs.
    """
    path = destination.with_name(f"{destination.name}.lock")
    while True:
        with path.open("wb") as file:
            _wait(file.fileno(), destination, progress)
            # The process that held the lock before removed the file that this one waited for: take a new one.
            if not _is_open_file(path, file.fileno()):
                continue
            try:
                yield
                return
            finally:
                path.unlink(missing_ok=True)


def _wait(descriptor: int, destination: Path, progress: Path) -> None:
    seen, since = -1, time.monotonic()
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        size = 0
        with contextlib.suppress(FileNotFoundError):
            size = progress.stat().st_size
        if size != seen:
            seen, since = size, time.monotonic()
        elif time.monotonic() - since > STILL_S:
            raise ClusterError(
                f"{destination}: another process holds the lock and made no progress for {STILL_S:g} s; end that "
                "process (it "
                "holds "
                f"{destination.name}.lock), then run again"
            )
        time.sleep(POLL_S)


def _is_open_file(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
