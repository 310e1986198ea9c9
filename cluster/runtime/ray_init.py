"""`ray.init` with readable errors, which keeps the signal handlers of this process."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import ray

from cluster.errors import ClusterError


def init_ray(failure: str, **options: Any) -> None:
    try:
        with _own_sigterm(), _kept_interrupt():
            ray.init(logging_level=logging.WARNING, **options)
    except Exception as error:  # Ray also raises plain exceptions, for example if a node is slow to start
        ray.shutdown()
        raise ClusterError(f"{failure}: {_last_line(str(error))}") from error


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the SIGTERM handler of this process: Ray replaces it by one that ends the process with a stack dump."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(ours) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


@contextlib.contextmanager
def _kept_interrupt() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block: raised at once, KeyboardInterrupt may occur in a callback of Ray, where it
    is lost."""
    ours = signal.getsignal(signal.SIGINT)
    if not callable(ours) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        ours(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ours)
        if came:
            ray.shutdown()
            raise KeyboardInterrupt


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"])[-1][:300]
