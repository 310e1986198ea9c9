"""What one request may ask for, and how many may wait."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from jobs.console.options import Count, Rate
from jobs.generation.options import MAX_DURATION_S, MIN_DURATION_S

LEAST_UPLOAD = 1 << 10
MAX_REGIONS = 64
MAX_SEED = (1 << 63) - 1


@dataclass(kw_only=True, frozen=True)
class Limits:
    """Of an endpoint."""

    longest_s: Annotated[float, Ge(MIN_DURATION_S), Le(MAX_DURATION_S)] = 60.0
    """Seconds of the longest sound that is made or edited."""
    upload_bytes: Annotated[int, Ge(LEAST_UPLOAD)] = 25_000_000
    """Bytes of the largest recording that is taken."""
    waiting: Count = 64
    """Requests that are made or wait at once; the next is answered with 429."""
    wait_s: Rate = 300.0
    """Seconds after which a request that is not made yet is answered with 503."""
