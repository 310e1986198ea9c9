"""Nodes of the cluster, and the quota of this process when several processes of one job share the cluster."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True, kw_only=True, slots=True)
class ResourceQuota:
    """CPUs and GPUs that a process may use."""

    num_cpus: int
    num_gpus: int


_quota: list[ResourceQuota] = []


def set_quota(quota: ResourceQuota) -> None:
    """Limit this process to `quota`: `connect` reports no more, and Ray Data uses no more."""
    _quota[:] = [quota]


def current_quota() -> ResourceQuota | None:
    """The quota of this process; None: the whole cluster."""
    return _quota[0] if _quota else None


def alive_nodes() -> list[dict[str, Any]]:
    """Ray's description of each live node."""
    return [node for node in ray.nodes() if node["Alive"]]


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Scheduling strategy of an actor on the node of this process."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
