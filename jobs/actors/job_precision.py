"""The precision of a job. The driver decides it once for all actors, on whichever nodes they run, so that the same job
writes the same bytes.

A processor without instructions for bfloat16 emulates it, seventy times slower than float32. If any node of the cluster
is of that kind, the job computes in float32. A resumed run keeps the precision of its record.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.runtime.connect import ClusterInfo, connect
from cluster.runtime.resources import alive_nodes
from cluster.tables import stage_record as records
from jobs.console.command import print_warning
from soundstorm.data.categories import listed
from soundstorm.errors import SoundStormError
from soundstorm.optimization.precision import Precision, uses_bf16

KEY = "precision"
"""Key of the precision in the settings of a run."""
ANSWER_S = 120.0
"""Longest wait for the answers of the nodes."""
SHOWN_NODES = 3
"""Maximum number of nodes in a warning."""

Decided = Literal["bfloat16", "float32"]
Device = Literal["auto", "cpu", "cuda"]


class JobPlace(Protocol):
    """Where a job runs and writes."""

    output_dir: str
    overwrite: bool
    address: str | None


@dataclass(frozen=True, kw_only=True)
class JobPrecision:
    """The precision of a run."""

    name: Precision | None
    """None: unknown, because an earlier version began the run."""
    device: Device = "auto"
    """Where actors compute; auto: on GPUs if the cluster has any."""
    is_checked: bool = False
    """Whether the nodes were asked when the precision was decided."""

    @property
    def settings(self) -> dict[str, Any]:
        """For the settings of the run."""
        return {} if self.name is None else {KEY: self.name}

    def of_actors(self, info: ClusterInfo) -> Precision:
        """The precision of all actors; prints a warning if a node would emulate it. Ray must be connected."""
        is_settled = self.name == "float32" or self.is_checked
        slow = [] if is_settled else nodes_without_bfloat16(info, self.device)
        if self.name is None:
            return slowest(slow)
        if slow and self.name == "bfloat16":
            print_warning(
                f"the run computes in bfloat16, which {listed(slow, SHOWN_NODES)} can only emulate, very slowly: run "
                "it on nodes that have it, or again with --overwrite --precision float32"
            )
        return self.name


UNKNOWN = JobPrecision(name=None)
"""For runs whose output does not depend on the precision."""


def slowest(slow_nodes: list[str]) -> Decided:
    """The precision of a job in a cluster of which these nodes emulate bfloat16."""
    return "float32" if slow_nodes else "bfloat16"


@contextlib.contextmanager
def job_precision(
    requested: Precision,
    options: JobPlace,
    stage: str,
    *,
    recorded: Callable[[dict[str, Any]], Any] = lambda settings: settings.get(KEY),
    device: Device = "auto",
) -> Iterator[JobPrecision]:
    """The precision of a run, decided before its settings are compared with those of its record. Within the context Ray
    stays connected if a node was asked.

    Args:
        requested: `auto`: that of the record if the run was begun before, else by the slowest kind of node.
        options: of the job.
        stage: name of the record.
        recorded: the precision in the settings of a record; anything but a precision if they do not say it.
        device: where actors compute.

    Raises:
        ClusterError: the record is malformed, or Ray cannot be reached.
        SoundStormError: `device` is cuda, and Ray was started here, on a machine without a GPU.
    """
    before = None if options.overwrite else records.begun_settings(options.output_dir, stage)
    if requested != "auto":
        yield JobPrecision(name=requested, device=device)
    elif before is not None:
        name = recorded(before)
        yield JobPrecision(name=name if name in ("bfloat16", "float32") else None, device=device)
    else:
        with connect(options.address, await_gpu=device != "cpu") as info:
            name = slowest(nodes_without_bfloat16(info, device))
            yield JobPrecision(name=name, device=device, is_checked=True)


def nodes_without_bfloat16(info: ClusterInfo, device: Device = "auto") -> list[str]:
    """Addresses of the nodes that would emulate bfloat16, of those that can hold an actor. A node that does not answer
    counts as one of them, with a warning. While no node can hold an actor, this machine stands for those that the
    cluster will start. Ray must be connected.

    Raises:
        SoundStormError: `device` is cuda, and Ray was started here, on a machine without a GPU.
    """
    if device == "cuda":
        require_gpu(info)
    device = "cuda" if device == "cuda" or (device == "auto" and info.num_gpus) else "cpu"
    kind = "GPU" if device == "cuda" else "CPU"
    nodes = {
        str(node["NodeID"]): str(node["NodeManagerAddress"]) for node in alive_nodes() if node["Resources"].get(kind)
    }
    here = ray.get_runtime_context().get_node_id()
    if not nodes:
        return [] if device == "cuda" or has_bfloat16("cpu") else ["this machine"]
    is_asked_here = device == "cpu" and here in nodes
    answers = _ask([node for node in nodes if not (is_asked_here and node == here)], device)
    if is_asked_here:
        answers[here] = has_bfloat16(device)
    silent = sorted(nodes[node] for node in nodes if node not in answers)
    if silent:
        print_warning(
            f"{listed(silent, SHOWN_NODES)} did not answer within {ANSWER_S:g} s whether bfloat16 is fast there, and "
            "counts as a node that can only emulate it"
        )
    return sorted(address for node, address in nodes.items() if not answers.get(node, False))


def require_gpu(info: ClusterInfo) -> None:
    """Raises SoundStormError for `--device cuda` if Ray was started here, on a machine without a GPU."""
    if info.started_here and not info.num_gpus:
        raise SoundStormError("--device is cuda, but Ray sees no GPU: use --device cpu or auto")


def has_bfloat16(device: str) -> bool:
    """Whether this process computes in bfloat16 without emulating it."""
    return uses_bf16(torch.device(device), "auto")


def _ask(nodes: list[str], device: str) -> dict[str, bool]:
    """The answer of `has_bfloat16` on each node, by node ID; without those that do not answer in time."""
    gpus = 0.01 if device == "cuda" else 0
    ask = ray.remote(num_cpus=0, num_gpus=gpus, max_retries=0)(has_bfloat16)
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(device): node
        for node in nodes
    }
    if not asked:
        return {}
    done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    for task in silent:
        ray.cancel(task, force=True)
    answers = {}
    for task in done:
        with contextlib.suppress(ray.exceptions.RayError):
            answers[asked[task]] = bool(ray.get(task))
    return answers
