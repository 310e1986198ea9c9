"""One way into Ray for every job: start one on this machine, or join a cluster that runs; always within a bounded time.

    with connect(options.address, options.num_cpus) as cluster:
        ...

Threads: Ray gives each worker OMP_NUM_THREADS = the CPUs it was promised, unless the variable is set; actors that use
torch set theirs from it. What OpenMP and Ray do by themselves suits a machine of one's own: threads spin while they
wait for each other, and workers give way to all other processes, so that beside one busy process two threads wait for
each other most of the time. `cluster.runtime.local_ray` changes both.
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
from cluster.runtime.resources import alive_nodes, own_share
from cluster.storage.uris import without_login

TIMEOUT_S = 60.0
DIAL_TIMEOUT_S = 5.0
CLUSTER_PORT = 6379  # Ray's default for HOST:PORT
GROWTH_TIMEOUT_S = 1200.0  # a node of a cloud is rented, booted, given its image and its packages
ADDRESS_VARIABLE = "RAY_ADDRESS"
# resource by which the head of a cluster that grows tells how many GPUs it may have: Ray itself does not
MAX_GPUS = "max_gpus"
GROWTH_TICK_S = 5.0
PACKAGES = ("soundstorm", "cluster", "jobs", "tune")
# What workers on other machines need to find the storage. Credentials stay out: settings of a Ray job can be read by
# everyone on the cluster.
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
    """What there is to work with."""

    num_cpus: float
    """CPUs of all nodes together, or this process's share of them."""
    num_gpus: float
    """GPUs of all nodes together, with those that the cluster may add, or this process's share of them."""
    nodes: int
    """Nodes alive."""
    started_here: bool
    """Whether this Ray was started by `connect` and ends with it."""
    growth_s: float = 0.0
    """Seconds that a node may take to be added; 0 where the cluster does not say that it grows."""


@dataclass(frozen=True, slots=True)
class _Given:
    """An address of a cluster, and who gave it."""

    address: str
    by_variable: bool

    def problem(self, what: str) -> ClusterError:
        """The error that says `what` is wrong with it, and the way out."""
        if not self.by_variable:
            return ClusterError(f"--address '{self.address}'{what}")
        way_out = (
            f"The address is from the variable {ADDRESS_VARIABLE}: `unset {ADDRESS_VARIABLE}`, or give "
            "--address local, to start a Ray here"
        )
        return ClusterError(f"{ADDRESS_VARIABLE} '{self.address}'{what}. {way_out}")


@contextlib.contextmanager
def connect(
    address: str | None = None,
    num_cpus: int | None = None,
    *,
    await_gpu: bool = True,
    log_to_driver: bool | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[ClusterInfo]:
    """Be connected to Ray within the `with` block.

    Args:
        address: None = the cluster this process belongs to (inside `ray job submit`, or RAY_ADDRESS), else a new Ray on
            this machine; `local` = a new one always; `auto` = the one running on this machine; `HOST:PORT` = that one,
            of which this machine is a node.
        num_cpus: CPUs of a new local Ray; None = all.
        await_gpu: where there is no GPU but the cluster may add some, wait for the first.
        log_to_driver: show what workers print; None = only when a cluster is joined.
        timeout_s: give up joining after this long.

    A Ray that already runs in this process (a notebook, a test) is used as it is and left running. A cluster that was
    joined is left running too.

    Raises:
        ClusterError: the address is malformed or not reachable, Ray cannot start, or the GPU awaited does not come.
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
    logging.getLogger("ray._private.authentication").setLevel(
        logging.ERROR
    )  # its note about tokens is in our documentation
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


def _started_here() -> bool:
    """Whether the Ray of this process is one that `connect` started, further up."""
    return ray.get_runtime_context().get_job_id() in _OURS


def _info(started_here: bool, await_gpu: bool) -> ClusterInfo:
    resources = ray.cluster_resources()
    gpus, max_gpus = resources.get("GPU", 0.0), resources.get(MAX_GPUS, 0.0)
    if await_gpu and max_gpus and not gpus:
        _await_gpu(GROWTH_TIMEOUT_S)
    alive = len(alive_nodes())
    share = own_share()
    return ClusterInfo(
        num_cpus=ray.cluster_resources().get("CPU", 0.0) if share is None else share.num_cpus,
        num_gpus=max(gpus, max_gpus) if share is None else share.num_gpus,
        nodes=alive,
        started_here=started_here,
        growth_s=GROWTH_TIMEOUT_S if max_gpus else 0.0,
    )


def _await_gpu(timeout_s: float) -> None:
    """Have the cluster add its first GPU, by reserving one for a moment."""
    logger.warning(
        "the cluster has no GPU yet and may add some: waiting for the first, at most %.0f minutes", timeout_s / 60
    )
    group = placement_group([{"CPU": 1, "GPU": 1}])
    deadline = time.monotonic() + timeout_s
    try:
        while not group.wait(GROWTH_TICK_S):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the cluster added no GPU within {timeout_s / 60:.0f} minutes; `ray status` may know why (often "
                    "the account's quota). "
                    f"To work on CPUs, start its head without the resource {MAX_GPUS}"
                )
    finally:
        remove_placement_group(group)


def _join(address: str, given: _Given, log_to_driver: bool, timeout_s: float) -> None:
    """Connect to a cluster that runs, after making sure that it answers: Ray itself may wait for minutes."""
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
        _dial(match[1].strip("[]"), int(match[2] or CLUSTER_PORT), given)
    _require_healthy(given, max(deadline - time.monotonic(), 1.0))
    forwarded = {name: without_login(os.environ[name]) for name in FORWARDED if name in os.environ}
    packages = [str(ROOT / name) for name in PACKAGES if (ROOT / name).is_dir()]
    init_ray(
        f"the Ray cluster '{address}' does not let us in",
        address=address,
        log_to_driver=log_to_driver,
        runtime_env={"py_modules": packages, "env_vars": forwarded},
    )


def _dial(host: str, port: int, given: _Given) -> None:
    """Raise unless something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=DIAL_TIMEOUT_S).close()
    except OSError as error:
        raise given.problem(
            f": nothing answers at {host}:{port} ({error.strerror or error}); "
            "check the address, the firewall and that the cluster runs (`ray status`)"
        ) from error


def _require_healthy(given: _Given, timeout_s: float) -> None:
    """Ask Ray's own health check, in a process of its own because it cannot be interrupted."""
    where = [] if given.address == "auto" else ["--address", given.address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *where]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise given.problem(
            f": no Ray cluster answered within {timeout_s:.0f} s; check the address and `ray status`"
        ) from None
    if done.returncode != 0:
        raise given.problem(_why_not_healthy(done.stderr or done.stdout, is_named=bool(where)))


def _why_not_healthy(said: str, is_named: bool) -> str:
    """What Ray's health check means by what it said: it speaks of statuses of its RPCs."""
    if "multiple active Ray instances" in said:
        return ": several Rays run on this machine; give the HOST:PORT of one of them"
    if "AuthenticationError" in said:
        return (
            ": the cluster there lets nobody in without its token; export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
            "or RAY_AUTH_TOKEN_PATH"
        )
    if is_named:
        return ": what answers there is no Ray cluster, or one of another version; check the address and `ray status`"
    return ": no Ray cluster runs on this machine; start one with `ray start --head`, or leave the address out"
