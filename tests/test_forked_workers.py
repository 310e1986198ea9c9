"""Workers of the tests' Ray are forks of a process that has imported PyTorch, and else like any worker."""

import os
import sys
import time
from pathlib import Path

import pytest
import ray

from tests.support import forked_workers

pytestmark = pytest.mark.skipif(
    forked_workers.OFF in os.environ or sys.platform != "linux", reason="workers are not forked here"
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
    assert "forked_workers.py" in first["parent"] and first["parent"] == second["parent"]
    assert Path(first["arguments"]).name == "default_worker.py"
    assert first["pid"] != second["pid"] and first["random"] != second["random"]
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
