"""Work in a thread that may be abandoned: nobody waits for it once it is no longer needed, not even the end of the
process."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

NAME = "abandonable"
"""Name of the threads."""
Result = TypeVar("Result")


def start_abandonable(work: Callable[[], Result]) -> Future[Result]:
    """Start `work` in a thread; the future has its result or its error."""
    future: Future[Result] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised again by whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=do, name=NAME, daemon=True).start()
    return future


def has_abandoned_thread() -> bool:
    """Whether such a thread still works or waits."""
    return any(thread.name == NAME for thread in threading.enumerate())
