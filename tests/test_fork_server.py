"""Workers of the tests' Ray are forks of a process that has imported PyTorch and Ray, and else like any worker."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import ray

from tests.support import fork_client, fork_server

pytestmark = pytest.mark.skipif(
    fork_server.OFF in os.environ or sys.platform != "linux", reason="workers are not forked here"
)


@ray.remote(num_cpus=0)
class Worker:
    def about(self) -> dict[str, object]:
        import numpy as np

        return {
            "pid": os.getpid(),
            "parent": Path(f"/proc/{os.getppid()}/cmdline").read_text(),
            "arguments": sys.argv[0],
            "random": float(np.random.rand()),
            "id": ray.WorkerID.from_random().hex(),
            "variable": os.environ.get("ONLY_HERE"),
        }

    def leave(self) -> None:
        os._exit(3)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_are_forks_with_their_own_arguments_and_random_numbers(ray_session: None) -> None:
    workers = [Worker.remote() for _ in range(2)]
    first, second = ray.get([worker.about.remote() for worker in workers])
    assert "fork_server.py" in first["parent"] and first["parent"] == second["parent"]
    assert Path(first["arguments"]).name == "default_worker.py"
    assert first["pid"] != second["pid"] and first["random"] != second["random"]
    assert first["id"] != second["id"]
    for worker in workers:
        ray.kill(worker)
    for about in (first, second):
        wait_for_end(about["pid"])


def test_a_worker_that_dies_is_reported_and_leaves_no_process(ray_session: None) -> None:
    worker = Worker.remote()
    pid = ray.get(worker.about.remote())["pid"]
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(worker.leave.remote())
    wait_for_end(pid)


def test_a_worker_s_own_variables_are_set(ray_session: None) -> None:
    worker = Worker.options(runtime_env={"env_vars": {"ONLY_HERE": "yes"}}).remote()
    assert ray.get(worker.about.remote())["variable"] == "yes"
    ray.kill(worker)


def clients() -> set[int]:
    """Pids of the clients that raylets of this process have started."""
    parents = {int(path.name): path for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = set()
    for pid, path in parents.items():
        try:
            raylet = parent_of(pid)
            if "fork_client.py" in (path / "cmdline").read_text() and parent_of(raylet) == os.getpid():
                found.add(pid)
        except OSError:  # it has ended
            continue
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_client_that_ends_takes_its_worker_along_and_a_broken_one_hurts_nobody(ray_session: None) -> None:
    address = json.loads(os.environ[fork_client.SERVER])["address"]
    for sent in (b"", (1 << 20).to_bytes(8, "big") + b"{"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as broken:
            broken.connect(address)
            broken.sendall(sent)
    before = clients()
    worker = Worker.remote()
    pid = ray.get(worker.about.remote())["pid"]
    [client] = clients() - before
    os.kill(client, signal.SIGKILL)
    wait_for_end(pid)
    assert ray.get(Worker.remote().about.remote())["pid"] != pid
