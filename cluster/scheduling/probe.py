"""A check that runs again and again in a thread beside the work, so that a slow check delays nothing."""

import threading
from collections.abc import Callable

from cluster.errors import ClusterError


class Probe:
    """Runs `check` every `pause_s` until it raises a ClusterError, which is kept, or until the probe is closed."""

    def __init__(self, check: Callable[[], None], pause_s: float) -> None:
        self.problem: ClusterError | None = None
        """The error that ended the probe."""
        self._check, self._pause_s = check, pause_s
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="check", daemon=True).start()

    def close(self) -> None:
        """End the probe: the work has ended."""
        self._closed.set()

    def _run(self) -> None:
        while self.problem is None and not self._closed.wait(self._pause_s):
            try:
                self._check()
            except ClusterError as error:
                self.problem = error
