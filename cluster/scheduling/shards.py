"""Shards, the progress of a run over them, and its result."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shard:
    """A unit of work for one actor."""

    key: str
    """Name of the shard: unique, and the same in every run."""
    payload: Any
    """Argument of the actor's method."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Progress of a run."""

    done: int = 0
    """Shards finished."""
    failed: int = 0
    """Shards that failed after all retries."""
    retries: int = 0
    """Failed attempts that were, or will be, retried."""
    replaced: int = 0
    """Actors that died or hung, and were replaced."""
    ready: int = 0
    """Actors that are ready now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardsResult:
    """Result of a run."""

    done: int
    """Shards finished; each went through `on_done` exactly once."""
    failed: dict[str, str]
    """Key and error of each failed shard."""
    retries: int
    """Attempts that were retried."""
    replaced: int
    """Actors that were replaced."""
