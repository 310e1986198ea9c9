"""Limits of an endpoint."""

from dataclasses import dataclass

MAX_REGIONS = 64
MAX_SEED = (1 << 63) - 1


@dataclass(kw_only=True, frozen=True)
class Limits:
    """Limits of requests."""

    longest_s: float = 60.0
    """Maximum duration of a generated or edited sound in seconds."""
    upload_bytes: int = 25_000_000
    """Maximum size of a recording in bytes."""
    waiting: int = 64
    """Maximum number of concurrent requests; further ones are answered with 429."""
    wait_s: float = 300.0
    """Time limit of a request in seconds, after which it is answered with 503."""
