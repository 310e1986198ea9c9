"""What the cluster has, and how much of it this process may take, where several processes of one job share it."""

from dataclasses import dataclass
from typing import Any

import ray


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A part of the cluster."""

    num_cpus: int
    num_gpus: int


_taken: list[Share] = []


def take_share(share: Share) -> None:
    """From now on `connect` tells this process of no more than `share`, and what it runs with Ray Data takes no
    more."""
    _taken[:] = [share]


def own_share() -> Share | None:
    """The share of this process; None: it has the cluster to itself."""
    return _taken[0] if _taken else None


def alive_nodes() -> list[dict[str, Any]]:
    """What Ray says of each node that is alive."""
    return [node for node in ray.nodes() if node["Alive"]]
