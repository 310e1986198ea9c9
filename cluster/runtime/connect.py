"""Connection of a job to Ray: start Ray on this machine, or join a running cluster within a bounded time.

    with connect(options.address, options.num_cpus) as cluster:
        ...

Threads: Ray sets OMP_NUM_THREADS of each worker to the CPUs it reserved, unless the variable is set; actors that use
torch set their threads accordingly. By default, OpenMP threads spin while they wait for each other, and Ray's workers
run at low priority. Beside another busy process, two threads then wait for each other most of the time.
`cluster.runtime.local_ray` changes both defaults.
"""

import contextlib
import gc
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from cluster.errors import ClusterError
from cluster.runtime.local_ray import ROOT, start_local
from cluster.runtime.ray_init import init_ray
from cluster.runtime.resources import alive_nodes, current_quota
from cluster.storage.uris import without_login

TIMEOUT_S = 60.0
DIAL_TIMEOUT_S = 5.0
ANSWER_S = 8  # for an attempt of Ray's health check, which makes two; with Ray's 30 s, a web server is told after 42
CLUSTER_PORT = 6379  # Ray's default for HOST:PORT
SCALE_UP_TIMEOUT_S = 1200.0  # a cloud node is launched, booted, and gets its image and its packages
ADDRESS_VARIABLE = "RAY_ADDRESS"
# resource by which the head of a cluster that can scale up states its maximum number of GPUs: Ray itself does not
MAX_GPUS = "max_gpus"
SCALE_UP_POLL_S = 5.0
PACKAGES = ("soundstorm", "cluster", "jobs", "tune")
# Variables that workers on other machines need to find the storage. Credentials are left out: everyone on the cluster
# can read the settings of a Ray job.
FORWARDED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
)
logger = logging.getLogger(__name__)
_OURS: list[str] = []  # job ids of the Rays that `connect` started in this process
_INSIDE_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by `ray job submit` for the job's own process
_ADDRESS = re.compile(r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(?::(\d{1,5}))?$")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterInfo:
    """Resources of the connected cluster."""

    num_cpus: float
    """CPUs of all nodes, or the quota of this process."""
    num_gpus: float
    """GPUs of all nodes, with those that the cluster may add, or the quota of this process."""
    nodes: int
    """Number of live nodes."""
    started_here: bool
    """Whether `connect` started this Ray, which ends with it."""
    scale_up_s: float = 0.0
    """Seconds that the cluster may need to add a node; 0 if it cannot scale up."""


@dataclass(frozen=True, slots=True)
class _Given:
    """The address of a cluster, from --address or from the variable."""

    address: str
    by_variable: bool

    def problem(self, what: str) -> ClusterError:
        """The error that says `what` is wrong with the address, and the remedy."""
        if not self.by_variable:
            return ClusterError(f"--address '{self.address}'{what}")
        remedy = (
            f"The address is from the variable {ADDRESS_VARIABLE}: `unset {ADDRESS_VARIABLE}`, or give "
            "--address local, to start a Ray here"
        )
        return ClusterError(f"{ADDRESS_VARIABLE} '{self.address}'{what}. {remedy}")


@contextlib.contextmanager
def connect(
    address: str | None = None,
    num_cpus: int | None = None,
    *,
    await_gpu: bool = True,
    log_to_driver: bool | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[ClusterInfo]:
    """Context manager: a connection to Ray.

    Args:
        address: `local`: start a new Ray on this machine; `auto`: join the Ray that runs on this machine; `HOST:PORT`:
            join that cluster, of which this machine is a node; None: join the cluster of this process (inside
            `ray job submit`, or RAY_ADDRESS), else start a new Ray.
        num_cpus: CPUs of a new local Ray; None: all.
        await_gpu: if the cluster has no GPU but may add some, wait for the first.
        log_to_driver: show what workers print; None: only if a cluster is joined.
        timeout_s: time limit for joining.

    If Ray is already connected in this process (in a notebook, a test), that connection is used and left open. A
    cluster that was joined is left running.

    Raises:
        ClusterError: the address is malformed or cannot be reached, Ray cannot start, or no GPU is added in time.
    """
    if num_cpus is not None and num_cpus < 1:
        raise ClusterError(f"--num-cpus {num_cpus}: a local Ray needs at least 1; leave it out for all CPUs")
    if ray.is_initialized():
        # the actors of an earlier job that failed hold their CPUs while its error, a cycle of references, is not
        # collected
        gc.collect()
        yield _info(_started_here(), await_gpu)
        return
    target = address or os.environ.get(ADDRESS_VARIABLE) or "local"
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # our documentation explains tokens
    if target == "local":
        start_local(num_cpus, bool(log_to_driver))
        _OURS.append(ray.get_runtime_context().get_job_id())
    else:
        if num_cpus is not None:
            raise ClusterError(
                f"--num-cpus {num_cpus} is for a new local Ray, but '{target}' is to be joined; leave out one of the "
                "two"
            )
        _join(target, _Given(target, by_variable=not address), log_to_driver is not False, timeout_s)
    try:
        yield _info(target == "local", await_gpu)
    finally:
        _OURS.clear()
        ray.shutdown()


def names_cluster(address: str | None) -> bool:
    """Whether a Ray is asked for, here or by the variable, or is connected in this process."""
    return ray.is_initialized() or bool(address or os.environ.get(ADDRESS_VARIABLE))


def _started_here() -> bool:
    """Whether an enclosing `connect` started the Ray of this process."""
    return ray.get_runtime_context().get_job_id() in _OURS


def _info(started_here: bool, await_gpu: bool) -> ClusterInfo:
    resources = ray.cluster_resources()
    gpus, max_gpus = resources.get("GPU", 0.0), resources.get(MAX_GPUS, 0.0)
    if await_gpu and max_gpus and not gpus:
        _await_gpu(SCALE_UP_TIMEOUT_S)
    alive = len(alive_nodes())
    quota = current_quota()
    return ClusterInfo(
        num_cpus=ray.cluster_resources().get("CPU", 0.0) if quota is None else quota.num_cpus,
        num_gpus=max(gpus, max_gpus) if quota is None else quota.num_gpus,
        nodes=alive,
        started_here=started_here,
        scale_up_s=SCALE_UP_TIMEOUT_S if max_gpus else 0.0,
    )


def _await_gpu(timeout_s: float) -> None:
    """Make the cluster add its first GPU, by reserving one for a moment."""
    logger.warning(
        "the cluster has no GPU yet and may add some: waiting for the first, at most %.0f minutes", timeout_s / 60
    )
    group = placement_group([{"CPU": 1, "GPU": 1}])
    deadline = time.monotonic() + timeout_s
    try:
        while not group.wait(SCALE_UP_POLL_S):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the cluster added no GPU within {timeout_s / 60:.0f} minutes; `ray status` may say why (often "
                    "the account's quota). "
                    f"To work on CPUs, start its head without the resource {MAX_GPUS}"
                )
    finally:
        remove_placement_group(group)


def _join(address: str, given: _Given, log_to_driver: bool, timeout_s: float) -> None:
    """Join a running cluster, after a check that it answers: Ray itself may wait for minutes."""
    if address.startswith("ray://"):
        raise given.problem(
            ": Ray Data and Ray Train do not run through a Ray client; give the job to the cluster with "
            "`ray job submit`, or run it on one of its nodes with --address auto"
        )
    if _INSIDE_JOB in os.environ:
        init_ray(
            f"the Ray cluster '{address}' of this job does not accept its driver",
            address=address,
            log_to_driver=log_to_driver,
        )
        return
    deadline = time.monotonic() + timeout_s
    if address != "auto":
        match = _ADDRESS.match(address)
        if match is None or int(match[2] or 1) not in range(1, 65536):
            raise given.problem(" is not a Ray address; give auto, local or HOST:PORT")
        _check_reachable(match[1].strip("[]"), int(match[2] or CLUSTER_PORT), given)
    _require_healthy(given, max(deadline - time.monotonic(), 1.0))
    forwarded = {name: without_login(os.environ[name]) for name in FORWARDED if name in os.environ}
    packages = [str(ROOT / name) for name in PACKAGES if (ROOT / name).is_dir()]
    init_ray(
        f"the Ray cluster '{address}' refused the connection",
        address=address,
        log_to_driver=log_to_driver,
        runtime_env={"py_modules": packages, "env_vars": forwarded},
    )


def _check_reachable(host: str, port: int, given: _Given) -> None:
    """Raise ClusterError unless the port accepts connections."""
    try:
        socket.create_connection((host, port), timeout=DIAL_TIMEOUT_S).close()
    except OSError as error:
        raise given.problem(
            f": nothing answers at {host}:{port} ({error.strerror or error}); "
            "check the address, the firewall and that the cluster runs (`ray status`)"
        ) from error


def _require_healthy(given: _Given, timeout_s: float) -> None:
    """Run Ray's health check, in a process of its own because it cannot be interrupted."""
    where = [] if given.address == "auto" else ["--address", given.address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *where]
    environment = {"RAY_py_gcs_connect_timeout_s": str(ANSWER_S), **os.environ}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise given.problem(
            f": no Ray cluster answered within {timeout_s:.0f} s; check the address and `ray status`"
        ) from None
    if done.returncode != 0:
        raise given.problem(_why_not_healthy(done.stderr or done.stdout, is_named=bool(where)))


def _why_not_healthy(output: str, is_named: bool) -> str:
    """The output of Ray's health check, which names RPC statuses, as a sentence."""
    if "multiple active Ray instances" in output:
        return ": several Rays run on this machine; give the HOST:PORT of one of them"
    if "AuthenticationError" in output:
        return ": the cluster requires its token; export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    if is_named:
        return (
            ": what answers there is not a Ray cluster, or one of another version; check the address and `ray status`"
        )
    return ": no Ray cluster runs on this machine; start one with `ray start --head`, or leave the address out"
