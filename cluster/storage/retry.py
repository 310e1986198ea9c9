"""Retries of a request that fails with a transient error: exponential back-off with jitter, within a budget of time.

A server that has answered before has RETRY_BUDGET_S seconds to recover. A server that has never answered, or for which
the budget has just run out, has SHORT_RETRY_BUDGET_S: a wrong address is reported soon, and a series of requests does
not wait the whole budget each time for a server that is down.
"""

import random
import time

RETRY_BUDGET_S = 45.0
SHORT_RETRY_BUDGET_S = 10.0
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0


def backoff_s(attempt: int, first_s: float, longest_s: float, least_share: float = 0.5) -> float:
    """Seconds to wait after failed attempt number `attempt`, from 0.

    The wait is `first_s`, doubled with each attempt up to `longest_s`, times a random factor from `least_share` to 1
    (jitter): clients that failed together do not all retry together.
    """
    return random.uniform(least_share, 1.0) * min(first_s * 2.0**attempt, longest_s)


class ServerHealth:
    """What is known about a server, shared by all threads that use it."""

    def __init__(self) -> None:
        self._has_answered = False
        self._is_exhausted = False

    def record_response(self) -> None:
        """The server answered, though perhaps with an error."""
        self._has_answered = True

    def record_success(self) -> None:
        """The server did what the request asked, or refused it for a reason that lies in the request."""
        self._has_answered, self._is_exhausted = True, False

    def record_exhausted(self) -> None:
        """The retry budget ran out."""
        self._is_exhausted = True

    def retry_budget_s(self) -> float:
        """Seconds that the server has to recover."""
        return RETRY_BUDGET_S if self._has_answered and not self._is_exhausted else SHORT_RETRY_BUDGET_S


class RetryState:
    """The attempts at one request."""

    def __init__(self, health: ServerHealth) -> None:
        self._health = health
        self._began = self._since = time.monotonic()
        self._received = 0
        self._attempts = 0  # all of them
        self._in_a_row = 0  # since bytes were last received

    def wait_before_retry(self, received: int = 0) -> bool:
        """Call it when an attempt failed. Waits and returns True if there is another attempt; returns False at once if
        the retry budget has run out.

        Args:
            received: bytes that all attempts together have received; each time the number has grown, the budget starts
                anew.
        """
        now = time.monotonic()
        self._attempts += 1
        self._in_a_row += 1
        if received > self._received:
            self._received, self._since, self._in_a_row = received, now, 1
        wait_s = backoff_s(self._in_a_row, FIRST_BACKOFF_S, MAX_BACKOFF_S, least_share=0.0)
        if now + wait_s - self._since > self._health.retry_budget_s():
            self._health.record_exhausted()
            return False
        time.sleep(wait_s)
        return True

    def summary(self) -> str:
        """How often and for how long the request was tried, in words."""
        times = "once" if self._attempts == 1 else f"{self._attempts} times"
        return f"tried {times} in {time.monotonic() - self._began:.0f} s"
