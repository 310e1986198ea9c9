"""The precision of a job. The driver decides it once for all actors, on whichever nodes they run, so that the same job
writes the same bytes.

A processor without instructions for bfloat16 emulates it, seventy times slower than float32. If any node of the cluster
is of that kind, the job computes in float32. A resumed run keeps the precision of its record.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.runtime.connect import ClusterInfo, connect
from cluster.runtime.resources import alive_nodes
from cluster.tables import stage_record as records
from jobs.console.command import print_warning
from jobs.console.options import Device
from soundstorm.errors import SoundStormError
from soundstorm.optimization.precision import Precision, uses_bf16

KEY = "precision"
"""Key of the precision in the settings of a run."""
ANSWER_S = 120.0
"""Longest wait for the answers of the nodes."""
GPU_TYPE = "accelerator_type:"
"""Prefix of the resource by which Ray names the type of a node's GPUs."""
EARLIER_GPUS = {"K80", "P4", "P100", "T4", "V100"}
"""Types of GPUs without instructions for bfloat16."""
SHOWN_NODES = 3
"""Maximum number of nodes in a warning."""

Decided = Literal["bfloat16", "float32"]


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
        return self._checked_by(lambda: ask_nodes(info, self.device))

    def of_this_process(self) -> Precision:
        """The precision of a run that this process does itself, on CPUs; prints a warning if it would emulate it."""
        return self._checked_by(ask_this_machine)

    def _checked_by(self, ask: Callable[[], "NodeAnswers"]) -> Precision:
        if self.name == "float32" or (self.is_checked and self.name is not None):
            return self.name
        answers = ask()
        if self.name is None:
            return answers.precision
        if answers.slow:
            print_warning(
                f"the run computes in bfloat16, which {_shown(answers.slow)} can only emulate, very slowly: run it on "
                "nodes that have it, or again with --overwrite --precision float32"
            )
        return self.name


UNKNOWN = JobPrecision(name=None)
"""For runs whose output does not depend on the precision."""


@dataclass(frozen=True, kw_only=True)
class NodeAnswers:
    """The nodes that can hold an actor and do not speak for bfloat16, by address."""

    slow: list[str]
    """Would emulate it."""
    silent: list[str]
    """Could not be asked, because they are busy or lost."""
    is_of_nodes: bool = True
    """Whether there were nodes to ask."""

    @property
    def precision(self) -> Decided:
        """The precision for which all nodes are fast, as far as is known."""
        return "float32" if self.slow or self.silent else "bfloat16"


@contextlib.contextmanager
def job_precision(
    requested: Precision,
    options: JobPlace,
    stage: str,
    *,
    recorded: Callable[[dict[str, Any]], Any] = lambda settings: settings.get(KEY),
    device: Device = "auto",
    in_process: bool = False,
) -> Iterator[JobPrecision]:
    """The precision of a run, decided before its settings are compared with those of its record. Within the context Ray
    stays connected if it was needed. A run that needs a GPU is refused before it has a record, not after.

    Args:
        requested: `auto`: that of the record if the run was begun before, else by the slowest kind of node.
        options: of the job.
        stage: name of the record.
        recorded: the precision in the settings of a record; anything but a precision if they do not say it.
        device: where actors compute.
        in_process: this process does the run itself: Ray is not needed.

    Raises:
        ClusterError: the record is malformed, or Ray cannot be reached.
        SoundStormError: `device` is cuda, and Ray was started here, on a machine without a GPU.
    """
    before = None if options.overwrite else records.begun_settings(options.output_dir, stage)
    needs_gpu = device == "cuda" and before is None
    if requested != "auto" and not needs_gpu:
        yield JobPrecision(name=requested, device=device)
    elif before is not None:
        name = recorded(before)
        yield JobPrecision(name=name if name in ("bfloat16", "float32") else None, device=device)
    elif in_process:
        yield JobPrecision(name=ask_this_machine().precision, is_checked=True)
    else:
        with connect(options.address, await_gpu=device != "cpu") as info:
            if needs_gpu:
                require_gpu(info)
            yield _of_nodes(info, device) if requested == "auto" else JobPrecision(name=requested, device=device)


def _of_nodes(info: ClusterInfo, device: Device) -> JobPrecision:
    """The precision for which all nodes are fast; prints a warning about nodes that could not be asked."""
    answers = ask_nodes(info, device)
    if answers.silent:
        print_warning(
            f"{_shown(answers.silent)} could not be asked within {ANSWER_S:g} s whether bfloat16 is fast there, so the "
            "run computes in float32: if it is, run again with --overwrite --precision bfloat16"
        )
    return JobPrecision(name=answers.precision, device=device, is_checked=answers.is_of_nodes)


def ask_nodes(info: ClusterInfo, device: Device = "auto") -> NodeAnswers:
    """Ask the nodes that can hold an actor whether they compute in bfloat16 without emulating it. A node whose type of
    GPU is known is not asked. While no node can hold an actor, this machine speaks for CPUs, and GPUs are taken for
    fast. Ray must be connected.
    """
    device = "cuda" if device == "cuda" or (device == "auto" and info.num_gpus) else "cpu"
    kind = "GPU" if device == "cuda" else "CPU"
    nodes = {str(node["NodeID"]): node for node in alive_nodes() if node["Resources"].get(kind)}
    if not nodes:
        return replace(NodeAnswers(slow=[], silent=[]) if device == "cuda" else ask_this_machine(), is_of_nodes=False)
    here = ray.get_runtime_context().get_node_id()
    answers = _known(nodes) if device == "cuda" else {here: has_bfloat16("cpu")}
    answers |= _ask([node for node in nodes if node not in answers], device)
    address = {node: str(about["NodeManagerAddress"]) for node, about in nodes.items()}
    return NodeAnswers(
        slow=sorted(address[node] for node in nodes if answers.get(node) is False),
        silent=sorted(address[node] for node in nodes if node not in answers),
    )


def ask_this_machine() -> NodeAnswers:
    """Whether the CPU of this machine computes in bfloat16 without emulating it."""
    return NodeAnswers(slow=[] if has_bfloat16("cpu") else ["this machine"], silent=[])


def require_gpu(info: ClusterInfo) -> None:
    """Raises SoundStormError for `--device cuda` if Ray was started here, on a machine without a GPU."""
    if info.started_here and not info.num_gpus:
        raise SoundStormError("--device is cuda, but Ray sees no GPU: use --device cpu or auto")


def _shown(nodes: list[str]) -> str:
    return ", ".join(nodes[:SHOWN_NODES]) + (" and others" if len(nodes) > SHOWN_NODES else "")


def _known(nodes: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Whether the GPUs of each node have instructions for bfloat16, for the nodes whose type of GPU Ray knows."""
    types = {
        node: {name.removeprefix(GPU_TYPE) for name in about["Resources"] if name.startswith(GPU_TYPE)}
        for node, about in nodes.items()
    }
    return {node: not of_node & EARLIER_GPUS for node, of_node in types.items() if of_node}


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
