"""Nodes of the cluster, and the quota of this process when several processes of one job share the cluster."""

import os
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.utils import get_num_cpus
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


def usable_cpus() -> int:
    """CPUs of this machine that this process may use, by its affinity and by the quota of its container."""
    return max(1, min(len(os.sched_getaffinity(0)), int(get_num_cpus())))


def alive_nodes() -> list[dict[str, Any]]:
    """Ray's description of each live node."""
    return [node for node in ray.nodes() if node["Alive"]]


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Scheduling strategy of an actor on the node of this process."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
