"""Units of work, and what becomes of them."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shard:
    """A unit of work."""

    key: str
    """Its name: unique, and the same in every run."""
    payload: Any
    """The argument of the actor's method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands."""

    done: int = 0
    """Shards finished."""
    failed: int = 0
    """Shards set aside."""
    retries: int = 0
    """Attempts that failed and were, or will be, repeated."""
    replaced: int = 0
    """Actors that died or hung, and were replaced."""
    ready: int = 0
    """Actors at hand now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsResult:
    """What became of all shards."""

    done: int
    """Shards finished; each went through `on_done` exactly once."""
    failed: dict[str, str]
    """Key and error of each shard set aside."""
    retries: int
    """Attempts that had to be repeated."""
    replaced: int
    """Actors that had to be replaced."""
