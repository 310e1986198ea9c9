"""How long a request to a server is repeated that fails for a reason which may pass: with growing pauses of random
length, and never for ever.

A server that answers as a rule has PATIENCE_S seconds to recover. One that was given up a moment ago, or has never been
heard of, has SHORT_PATIENCE_S: so a wrong address is told soon, and many requests after each other do not each wait
anew for a server that is gone.
"""

import random
import time

PATIENCE_S = 45.0
SHORT_PATIENCE_S = 10.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


def pause_s(attempt: int, first_s: float, longest_s: float, least_share: float = 0.5) -> float:
    """Seconds to wait after failed attempt number `attempt`, from 0: `first_s`, doubled each time up to `longest_s`, of
    which a random part is taken, at least `least_share`, so that many who failed together do not come back together."""
    return random.uniform(least_share, 1.0) * min(first_s * 2.0**attempt, longest_s)


class Trust:
    """What is known of a server, for all threads that use it."""

    def __init__(self) -> None:
        self._heard = False
        self._given_up = False

    def heard(self) -> None:
        """The server is there, though it may be busy."""
        self._heard = True

    def served(self) -> None:
        """The server did as it was asked, or had a reason not to that lies with the request."""
        self._heard, self._given_up = True, False

    def give_up(self) -> None:
        """The server had its time."""
        self._given_up = True

    def patience_s(self) -> float:
        """Seconds that the server has for recovering."""
        return PATIENCE_S if self._heard and not self._given_up else SHORT_PATIENCE_S


class Effort:
    """The attempts at one request."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._began = self._since = time.monotonic()
        self._moved = 0
        self._attempts = 0  # all of them
        self._in_a_row = 0  # since something was last moved

    def again(self, moved: int = 0) -> bool:
        """To be called when an attempt failed: wait, then True for another one, or False at once when the patience is
        at an end.

        Args:
            moved: bytes that all attempts together have brought; while they grow, the patience begins anew.
        """
        now = time.monotonic()
        self._attempts += 1
        self._in_a_row += 1
        if moved > self._moved:
            self._moved, self._since, self._in_a_row = moved, now, 1
        wait_s = pause_s(self._in_a_row, FIRST_PAUSE_S, LONGEST_PAUSE_S, least_share=0.0)
        if now + wait_s - self._since > self._trust.patience_s():
            self._trust.give_up()
            return False
        time.sleep(wait_s)
        return True

    def said(self) -> str:
        """How often and how long, in words."""
        times = "once" if self._attempts == 1 else f"{self._attempts} times"
        return f"tried {times} in {time.monotonic() - self._began:.0f} s"
