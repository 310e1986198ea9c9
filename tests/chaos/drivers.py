"""What the experiments on `tokenize` and `train` share: a command as a process of its own, and the processes that Ray
gave to a cluster's work."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ray.cluster_utils import Cluster

from tests.conftest import ROOT, S3Server, free_port, server_process
from tests.support.flaky_proxy import FlakyProxy

LIMIT_S = 900.0
"""How long one command may take, on a machine that is busy."""


def drive(job: str, settings: Mapping[str, object], log: Path) -> subprocess.Popen[bytes]:
    """`python -m jobs.JOB` with these options; what it says goes to `log`."""
    command = [sys.executable, "-m", f"jobs.{job}", *(f"--{name}={value}" for name, value in settings.items())]
    with log.open("ab") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)


def finish(process: subprocess.Popen[bytes], log: Path) -> float:
    """Seconds until the command ended; the experiment ends here if that was not well."""
    began = time.monotonic()
    code = process.wait(LIMIT_S)
    if code != 0:
        sys.exit(f"the command ended with {code}: {last_line(log)}")
    return time.monotonic() - began


def last_line(log: Path) -> str:
    """The last thing that the commands which write to `log` said."""
    return ([line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["nothing"])[-1]


def wait_until(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait for `condition`, but no longer than `process` lives or LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not so after {LIMIT_S:g} s")
        if process is not None and process.poll() is not None:
            return
        time.sleep(0.1)


def workers_of(cluster: Cluster, name: str) -> list[int]:
    """Processes of the cluster's nodes that run the actor class with `name` in its name."""
    raylets = {info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes.get("raylet", [])}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").strip().decode(errors="replace")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in raylets and title.startswith("ray::") and name in title and "__init__" not in title:
                found.append(int(folder.name))
    return sorted(found)


def kill(pid: int) -> bool:
    """End a process at once; False if it had ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
        return True
    return False


@contextlib.contextmanager
def place(folder: Path, fault_rate: float | None) -> Iterator[str]:
    """Where to write to: below `folder`, or on an S3 server (moto) of whose calls this share is spoilt."""
    if fault_rate is None:
        yield str(folder / "output")
        return
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log, server_process(command, port, log):
        server = S3Server(f"http://127.0.0.1:{port}", "test", "test")
        with FlakyProxy(server.endpoint, rate=fault_rate, seed=0) as proxy:
            os.environ |= server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint}
            yield server.make_bucket()
