"""Trials side by side: each with its share of the cluster, begun again when their process dies, ended when the user
interrupts."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from cluster.runtime.connect import ClusterInfo, connect
from cluster.runtime.resources import ResourceQuota, current_quota
from jobs.console.command import console
from jobs.cross_validation.concurrent_runs import concurrency_for, run_trials
from soundstorm.errors import SoundStormError


def test_the_cluster_is_shared_out_among_trials(ray_session: None) -> None:
    cluster = ClusterInfo(num_cpus=16, num_gpus=4, nodes=2, started_here=False)
    assert concurrency_for(10, 4, None, True, cluster) == (4, ResourceQuota(num_cpus=4, num_gpus=1))
    assert concurrency_for(10, 3, None, False, cluster) == (3, ResourceQuota(num_cpus=5, num_gpus=0))
    assert concurrency_for(2, None, None, True, cluster)[1] == ResourceQuota(num_cpus=8, num_gpus=2)
    with pytest.raises(
        SoundStormError, match="--max-concurrent is 3: the cluster has 4 GPUs, which is enough for 2 at once"
    ):
        concurrency_for(10, 3, 2, True, cluster)


def _look(folder: str, name: str) -> dict[str, Any]:
    """A trial that dies the first time, and then says what it has of the cluster."""
    mark = Path(folder) / name
    if name == "dies" and not mark.exists():
        mark.touch()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    console.print("warning: half a thing")
    with connect() as info:
        return {
            "cpus": info.num_cpus,
            "share": current_quota() == ResourceQuota(num_cpus=2, num_gpus=0),
            "threads": torch.get_num_threads(),
            "pid": os.getpid(),
        }


def _fail() -> dict[str, Any]:
    raise SoundStormError("no such thing: give another")


def test_a_trial_has_its_share_and_one_that_dies_is_begun_again(tmp_path: Path, ray_session: None) -> None:
    trials = {name: partial(_look, str(tmp_path), name) for name in ("dies", "lives")} | {"fails": _fail}
    with console.capture() as said:
        outcomes = run_trials(trials, 2, ResourceQuota(num_cpus=2, num_gpus=0))
    assert list(outcomes) == ["dies", "lives", "fails"]
    for name in ("dies", "lives"):
        result = outcomes[name].result
        assert result is not None and (result["cpus"], result["share"], result["threads"]) == (2, True, 2)
    assert outcomes["fails"].error == "no such thing: give another"
    assert "dies: its process died and is started again" in said.get() and "lives: warning: half a thing" in said.get()


def _sleep(folder: str) -> dict[str, Any]:
    (Path(folder) / f"{os.getpid()}").touch()
    time.sleep(600)
    return {}


def test_an_interruption_ends_all_trials(tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = ray.wait

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if len(list(tmp_path.iterdir())) == 2:
            raise KeyboardInterrupt
        return wait(*arguments, **options)

    monkeypatch.setattr("jobs.cross_validation.concurrent_runs.ray.wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_trials(
            {name: partial(_sleep, str(tmp_path)) for name in ("one", "two")}, 2, ResourceQuota(num_cpus=1, num_gpus=0)
        )
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{process.name}").exists() for process in tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
