"""Reports of all nodes of a cluster, collected on the nodes themselves, and the differences between them."""

import shutil
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import storage
from cluster.errors import ClusterError
from cluster.runtime.resources import alive_nodes
from cluster.tables import stage_record as records

ANSWER_S = 120.0
"""Time limit for the reports: a new node must fetch the code first."""
MAX_SKEW_S = 30.0
"""Maximum difference of clocks in seconds: S3 refuses requests that differ by 15 minutes; logs become hard to compare
earlier."""
MIN_FREE_GB = 5.0
PROBE = b"soundstorm doctor"


@dataclass(kw_only=True, frozen=True)
class NodeReport:
    """Report of a node."""

    name: str
    """Its address."""
    versions: dict[str, str]
    """Versions of Python and of the libraries that affect results."""
    skew_s: float
    """Minimum difference of its clock to that of this process, positive if it is ahead."""
    free_gb: float
    """Free space for temporary files."""
    gpus: tuple[str, ...]
    """Names of its GPUs."""
    token_required: bool
    """Whether its processes require a token."""
    storage_problem: str
    """Why it cannot use the storage; "" if it can."""


def ask_nodes(storage_uri: str | None, timeout_s: float = ANSWER_S) -> tuple[list[NodeReport], list[str]]:
    """Reports of all nodes that answer, by address, and the addresses of the others. Ray must be connected.

    Args:
        storage_uri: folder or s3:// prefix that every node must be able to use; None: no check.
        timeout_s: time limit for all nodes together.
    """
    nodes = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in alive_nodes()}
    probe = None if storage_uri is None else storage.join(storage_uri, f".doctor-{uuid.uuid4().hex}")
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    began = time.time()
    try:
        if probe is not None:
            storage.write_bytes(storage.join(probe, "here"), PROBE)
        refs = {
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(probe): name
            for node, name in nodes.items()
        }
        done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=timeout_s)
        reports, silent = [], [name for ref, name in refs.items() if ref not in done]
        for ref in done:
            try:
                found: dict[str, Any] = ray.get(ref)
            except ray.exceptions.RayError:
                silent.append(refs[ref])
                continue
            clock = found.pop("clock")
            reports.append(NodeReport(name=refs[ref], skew_s=clock - min(max(clock, began), time.time()), **found))
    finally:
        if probe is not None:
            storage.delete(probe)
    return sorted(reports, key=lambda report: report.name), sorted(silent)


def problems_of(reports: Sequence[NodeReport], silent: Sequence[str], versions: dict[str, str]) -> list[str]:
    """Problems of the nodes, one phrase each; `versions` are those of this process."""
    found = [f"{name} does not answer: see `ray status` and the logs there" for name in silent]
    for report in reports:
        for library in sorted(versions.keys() | report.versions.keys()):
            there, here = (known.get(library, "none") for known in (report.versions, versions))
            if there != here:
                found.append(
                    f"{report.name} has {library} {there}, but this machine has {here}: install the same version"
                )
        if abs(report.skew_s) > MAX_SKEW_S:
            found.append(
                f"the clock of {report.name} is {abs(report.skew_s):.0f} s "
                f"{'ahead' if report.skew_s > 0 else 'behind'}: set it by NTP"
            )
        if report.free_gb < MIN_FREE_GB:
            found.append(
                f"{report.name} has {report.free_gb:.1f} GB for temporary files: free at least {MIN_FREE_GB:g} GB"
            )
        if report.storage_problem:
            found.append(f"{report.name} cannot use the storage: {report.storage_problem}")
    return found


def check_storage(folder: str) -> None:
    """Write, list, read and delete below `folder`. Raises ClusterError for the first that does not work."""
    mine = storage.join(folder, uuid.uuid4().hex)
    storage.write_bytes(storage.join(mine, "probe"), PROBE)
    if [entry.size for entry in storage.list_objects(mine)] != [len(PROBE)] or storage.read_bytes(
        storage.join(mine, "probe")
    ) != PROBE:
        raise ClusterError(
            f"{folder}: a file that was written there has other content when it is read: check the storage"
        )
    storage.delete(mine)


def _look(probe: str | None) -> dict[str, Any]:
    """Runs on a node; `probe` is a folder with a file that the driver wrote."""
    problem = ""
    if probe is not None:
        try:
            if not storage.exists(storage.join(probe, "here")):
                problem = (
                    f"{probe.rpartition('/')[0]} is not the same folder there: use s3://, or a disk that all "
                    "nodes share"
                )
            else:
                check_storage(probe)
        except ClusterError as error:
            problem = str(error)
    return {
        "clock": time.time(),
        "versions": records.versions(),
        "free_gb": shutil.disk_usage(tempfile.gettempdir()).free / 1e9,
        "gpus": tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
        "token_required": is_token_auth_enabled(),
        "storage_problem": problem,
    }
