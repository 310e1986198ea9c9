"""A cluster grows from no worker to three under load and goes back to none when it is idle, and a job that began while
it was empty had its GPUs.

    python tests/chaos/autoscaling.py

Ray's autoscaler with its provider of nodes on one machine, that of `ray.cluster_utils.AutoscalingCluster`, whose own
start and end would run `ray stop` and so end every Ray of the machine. GPUs are numbers here: nothing touches a device.
Every wait has a limit; ends with an error if a bar is missed.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

from cluster.runtime.connect import MAX_GPUS, connect
from cluster.scheduling.actor_pool import Actors, run_shards
from cluster.scheduling.shards import Shard
from tests.support.ray_head import free_ports, ray_head

WORKERS = 3
SHARDS = 60
SHARD_S = 2.0
IDLE_MINUTES = 0.2
LIMIT_S = 600.0
EMPTY = [
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "cluster_synced_files",
]


class Worker:
    """Does nothing for a while, and says where."""

    def work(self, duration_s: float) -> str:
        time.sleep(duration_s)
        return str(ray.get_runtime_context().get_node_id())


def configuration(gcs_address: str) -> dict[str, object]:
    node_types = {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 1, MAX_GPUS: WORKERS}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": WORKERS},
    }
    one_machine = {
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
    }
    # Ray's packages lack the defaults of its name
    module = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
    provider = one_machine | {
        "type": "external",
        "module": module,
        "gcs_address": gcs_address,
        "head_node_id": FAKE_HEAD_NODE_ID,
    }
    fixed = {
        "cluster_name": "grows",
        "max_workers": WORKERS,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "file_mounts": {},
    }
    types = {
        "available_node_types": node_types,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "provider": provider,
        "auth": {},
        "docker": {},
    }
    starts = {"head_start_ray_commands": [], "worker_start_ray_commands": [], "file_mounts_sync_continuously": False}
    return fixed | types | starts | {name: [] for name in EMPTY}


class Watch(threading.Thread):
    """Notes how many workers are alive, whenever that changes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.began = time.monotonic()
        self.counts: list[int] = []

    def run(self) -> None:
        while True:
            if ray.is_initialized():
                count = sum(node["Alive"] and "GPU" in node["Resources"] for node in ray.nodes())
                if [count] != self.counts[-1:]:
                    self.counts.append(count)
                    print(f"{time.monotonic() - self.began:6.1f} s  {count} workers", flush=True)
            time.sleep(0.5)


def run_load(watch: Watch, address: str) -> tuple[int, set[str]]:
    """Begin with no worker, finish all shards, and wait until the workers are gone; returns shards done and the nodes
    that did them."""
    done: list[str] = []
    with connect(address, await_gpu=False) as empty:
        assert (empty.nodes, empty.num_gpus) == (1, WORKERS), empty
        watch.start()
        while not watch.counts:
            time.sleep(0.1)
        with connect() as info:  # waits for the first GPU
            assert info.num_gpus == WORKERS and info.nodes > 1 and info.scale_up_s > 0, info
            shards = [Shard(f"shard-{number:03d}", SHARD_S) for number in range(SHARDS)]
            actor = ray.remote(Worker).options(num_cpus=1, num_gpus=1)
            run_shards(
                shards,
                Actors(make=actor.remote, method="work", most=int(info.num_gpus), can_schedule=lambda: False),
                on_done=lambda shard, node: done.append(node),
            )
        deadline = time.monotonic() + LIMIT_S
        while watch.counts[-1] != 0:
            if time.monotonic() > deadline:
                raise SystemExit(f"the cluster did not go back to no worker within {LIMIT_S:g} s: {watch.counts}")
            time.sleep(0.5)
    return len(done), set(done)


def main() -> None:
    [port] = free_ports(1)
    file = Path(f"/tmp/autoscaling-{os.getpid()}.json")
    file.write_text(json.dumps(configuration(f"127.0.0.1:{port}")))
    variables = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",  # as `ray up` has it
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    options = ["--num-cpus=1", f"--resources={json.dumps({MAX_GPUS: WORKERS})}", f"--autoscaling-config={file}"]
    try:
        with ray_head(*options, port=port, dashboard=False, environment=variables) as head:
            os.environ.update(head.environment())
            watch = Watch()
            count, nodes = run_load(watch, head.address)
    finally:
        file.unlink()
    assert watch.counts[0] == 0 and max(watch.counts) == WORKERS and watch.counts[-1] == 0, watch.counts
    assert count == SHARDS and len(nodes) == WORKERS, (count, nodes)
    print(f"workers over time: {watch.counts}; {count} of {SHARDS} shards done by {len(nodes)} nodes")


if __name__ == "__main__":
    main()
