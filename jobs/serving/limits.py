"""What one request may ask for, and how many may wait."""

from dataclasses import dataclass

MAX_REGIONS = 64
MAX_SEED = (1 << 63) - 1


@dataclass(kw_only=True, frozen=True)
class Limits:
    """Of an endpoint."""

    longest_s: float = 60.0
    """Seconds of the longest sound that is made or edited."""
    upload_bytes: int = 25_000_000
    """Bytes of the largest recording that is taken."""
    waiting: int = 64
    """Requests that are made or wait at once; the next is answered with 429."""
    wait_s: float = 300.0
    """Seconds after which a request that is not made yet is answered with 503."""
