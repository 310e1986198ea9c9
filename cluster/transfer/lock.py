"""A lock for several processes of one machine that want to create the same file: one creates it, and the others wait as
long as it makes progress."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

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
    lock = FileLock(path, poll_interval=POLL_S, fallback_to_soft=False)
    try:
        lock.acquire(cancel_check=_stands_still(progress))
    except Timeout:
        raise ClusterError(
            f"{destination}: another process holds the lock and made no progress for {STILL_S:g} s; end that process "
            f"(it holds {path.name}), then run again"
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it finds out, and takes a new one
        lock.release()


def _stands_still(progress: Path) -> Callable[[], bool]:
    """Whether the file has not grown for STILL_S, to be asked again and again."""
    seen, since = -1, time.monotonic()

    def is_still() -> bool:
        nonlocal seen, since
        size = 0
        with contextlib.suppress(FileNotFoundError):
            size = progress.stat().st_size
        if size != seen:
            seen, since = size, time.monotonic()
        return time.monotonic() - since > STILL_S

    return is_still
