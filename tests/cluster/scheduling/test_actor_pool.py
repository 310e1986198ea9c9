"""Every shard is done exactly once or set aside, whatever happens to the actors, and the driver never waits for
ever."""

import errno
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.errors import ClusterError
from cluster.scheduling.actor_pool import Actors, Limits, run_shards
from cluster.scheduling.shards import Progress, Shard, ShardsResult
from cluster.storage.os_errors import file_error

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(120)]

Work = Callable[[Any], Any]


def no_room() -> bool:
    return False


def make_workers(work: Work, setup: Callable[[], None] = lambda: None) -> Callable[[], Any]:
    """Something that creates actors whose `work` is the function given."""

    class Worker:
        def __init__(self) -> None:
            setup()

        def work(self, payload: Any) -> Any:
            return work(payload)

    return lambda: ray.remote(Worker).options(num_cpus=1, max_restarts=0).remote()


def pool(make: Callable[[], Any], most: int = 2, can_schedule: Callable[[], bool] = no_room) -> Actors:
    return Actors(make=make, method="work", most=most, can_schedule=can_schedule)


def run(
    shards: Iterator[Shard] | list[Shard],
    make_actor: Callable[[], Any],
    num_actors: int = 2,
    limits: Limits | None = None,
) -> tuple[ShardsResult, list[tuple[str, Any]], list[Progress]]:
    results: list[tuple[str, Any]] = []
    progress: list[Progress] = []
    result = run_shards(
        shards,
        pool(make_actor, num_actors),
        on_done=lambda shard, value: results.append((shard.key, value)),
        on_progress=progress.append,
        limits=limits,
    )
    return result, results, progress


def numbered(count: int) -> list[Shard]:
    return [Shard(f"{n:04d}", n) for n in range(count)]


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)


@pytest.fixture
def free_before() -> float:
    """CPUs that were free before the test: what ran earlier may still be giving back its own."""
    return free_cpus()


def wait_until_idle(free_before: float) -> None:
    """All actors of a run give their CPUs back soon after it."""
    deadline = time.monotonic() + 20
    while free_cpus() < free_before:
        assert time.monotonic() < deadline, "actors were left behind"
        time.sleep(0.1)


def test_every_shard_is_done_once_and_the_actors_are_gone_afterwards(free_before: float) -> None:
    result, results, progress = run(numbered(100), make_workers(lambda n: n * n))
    assert sorted(results) == [(f"{n:04d}", n * n) for n in range(100)]
    assert result == ShardsResult(done=100, failed={}, retries=0, replaced=0)
    assert progress[-1].done == 100 and [step.done for step in progress] == sorted(step.done for step in progress)
    wait_until_idle(free_before)


def test_nothing_to_do_starts_nothing() -> None:
    def no_actor() -> Any:
        raise AssertionError("an actor was started")

    assert run([], no_actor)[0] == ShardsResult(done=0, failed={}, retries=0, replaced=0)


@pytest.mark.parametrize("again", [1, 5], ids=["while both wait", "while the first is worked on"])
def test_a_second_shard_of_the_same_key_is_refused(again: int, free_before: float) -> None:
    shards = numbered(10)
    shards.insert(again, shards[0])

    def work(n: int) -> int:
        time.sleep(30.0 if n == 0 else 0.0)
        return n

    with pytest.raises(ValueError, match="two shards of one run have the key '0000'"):
        run(shards, make_workers(work))
    wait_until_idle(free_before)


def test_shards_are_taken_only_as_actors_become_free() -> None:
    taken: list[str] = []
    done: list[str] = []
    ahead: list[int] = []

    def source() -> Iterator[Shard]:
        for shard in numbered(60):
            taken.append(shard.key)
            ahead.append(len(taken) - len(done))
            yield shard

    run_shards(source(), pool(make_workers(lambda n: n)), on_done=lambda shard, _: done.append(shard.key))
    assert len(done) == 60 and max(ahead) <= 4


def test_a_shard_whose_actor_dies_is_done_by_another(tmp_path: Path) -> None:
    def work(n: int) -> int:
        marker = tmp_path / str(n)
        if n in (3, 7) and not marker.exists():
            marker.touch()
            os._exit(1)
        return n

    result, results, _ = run(numbered(12), make_workers(work))
    assert sorted(value for _, value in results) == list(range(12))
    assert (result.done, result.failed, result.retries, result.replaced) == (12, {}, 2, 2)


def test_an_actor_killed_from_outside_is_replaced() -> None:
    actors: list[Any] = []
    make = make_workers(lambda _: time.sleep(0.05))

    def make_and_keep() -> Any:
        actors.append(make())
        return actors[-1]

    done: list[str] = []

    def on_done(shard: Shard, _: Any) -> None:
        done.append(shard.key)
        if len(done) in (5, 10):
            ray.kill(actors[-1])

    result = run_shards(numbered(30), pool(make_and_keep), on_done=on_done)
    assert Counter(done) == Counter(shard.key for shard in numbered(30))
    assert result.replaced == 2 and result.failed == {}


def test_a_shard_that_always_kills_its_actor_is_set_aside_and_all_others_are_done() -> None:
    result, results, _ = run(
        numbered(12), make_workers(lambda n: os._exit(1) if n == 4 else n), limits=Limits(max_retries=2)
    )
    assert sorted(value for _, value in results) == [n for n in range(12) if n != 4]
    assert list(result.failed) == ["0004"] and "Died" in result.failed["0004"]
    assert (result.retries, result.replaced) == (2, 3)


def test_a_shard_that_always_raises_is_set_aside_with_its_error(tmp_path: Path) -> None:
    def work(n: int) -> int:
        if n == 2:
            with (tmp_path / "attempts").open("a") as file:
                file.write("x")
            raise ValueError("clip 'rain': label 99 is out of range")
        return n

    aside: list[tuple[str, str]] = []
    done: list[int] = []
    result = run_shards(
        numbered(6),
        pool(make_workers(work)),
        on_done=lambda _, value: done.append(value),
        on_failed=lambda shard, error: aside.append((shard.key, error)),
        limits=Limits(max_retries=2),
    )
    assert sorted(done) == [0, 1, 3, 4, 5]
    assert aside == [("0002", "ValueError: clip 'rain': label 99 is out of range")] and result.failed == dict(aside)
    assert (tmp_path / "attempts").read_text() == "xxx" and result.replaced == 0


def test_a_full_disk_ends_the_run_at_the_first_attempt(tmp_path: Path, free_before: float) -> None:
    def work(n: int) -> int:
        with (tmp_path / "attempts").open("a") as file:
            file.write(f"{n} ")
        raise file_error("/data/part-0", OSError(errno.ENOSPC, "No space left on device"))

    with pytest.raises(
        ClusterError,
        match=r"/data/part-0: the disk is full .*0 finished shards are kept: fix the cause and run the same command "
        r"again",
    ):
        run(numbered(12), make_workers(work), num_actors=1)
    assert (tmp_path / "attempts").read_text() == "0 "
    wait_until_idle(free_before)


def test_a_shard_that_hangs_is_set_aside_after_its_time(free_before: float) -> None:
    limits = Limits(max_retries=1, shard_timeout_s=1.5)
    result, results, _ = run(numbered(6), make_workers(lambda n: time.sleep(600) if n == 1 else n), limits=limits)
    assert sorted(value for _, value in results) == [0, 2, 3, 4, 5]
    assert result.failed == {"0001": "not finished after 1.5 s"}
    wait_until_idle(free_before)


def test_actors_that_start_slowly_are_waited_for() -> None:
    result, results, progress = run(numbered(8), make_workers(lambda n: n, setup=lambda: time.sleep(4)))
    assert len(results) == 8 and result.replaced == 0
    assert progress[0].ready == 0 and progress[0].done == 0  # and one hears of it meanwhile


def test_where_there_is_room_slow_actors_are_waited_for_beyond_the_time_that_a_run_without_room_has() -> None:
    make_actor, limits = make_workers(lambda n: n, setup=lambda: time.sleep(4)), Limits(stall_timeout_s=0.1)
    done: list[Shard] = []
    run_shards(
        numbered(2),
        pool(make_actor, 1, can_schedule=lambda: True),
        on_done=lambda shard, _: done.append(shard),
        limits=limits,
    )
    assert len(done) == 2
    with pytest.raises(ClusterError, match="no actor was ready for"):
        run_shards(numbered(2), pool(make_actor, 1), on_done=lambda shard, _: None, limits=limits)


def test_actors_that_cannot_start_end_the_run_with_their_error() -> None:
    def fail() -> None:
        raise RuntimeError("model.safetensors is not a checkpoint")

    with pytest.raises(
        ClusterError, match=r"no actor could be started: .*RuntimeError: model\.safetensors is not a checkpoint"
    ) as error:
        run(numbered(8), make_workers(lambda n: n, setup=fail))
    assert "\n" not in str(error.value)


def test_a_cluster_without_room_ends_the_run_soon() -> None:
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"no actor was ready for 3 s .*ray status"):
        make = ray.remote(type("Worker", (), {"work": lambda self, n: n})).options(num_cpus=1000)
        run(numbered(4), lambda: make.remote(), limits=Limits(stall_timeout_s=3))
    assert time.monotonic() - began < 15


def test_when_all_shards_fail_the_run_does_not_try_them_all() -> None:
    taken: list[str] = []

    def source() -> Iterator[Shard]:
        for shard in numbered(1000):
            taken.append(shard.key)
            yield shard

    def fail(_: int) -> None:
        raise OSError("storage is gone")

    with pytest.raises(ClusterError, match=r"5 shards in a row failed, the last one .* with: OSError: storage is gone"):
        run(source(), make_workers(fail), limits=Limits(max_retries=0, max_failed_in_a_row=5))
    assert len(taken) < 20


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_no_actors(interruption: type[BaseException], free_before: float) -> None:
    def interrupt(_shard: Shard, _value: Any) -> None:
        raise interruption

    with pytest.raises(interruption):
        run_shards(numbered(10), pool(make_workers(lambda n: n)), on_done=interrupt)
    wait_until_idle(free_before)


NODES = """
import time
import ray
from ray.cluster_utils import Cluster
from cluster.errors import ClusterError
from cluster.scheduling.actor_pool import Actors, Limits, Shard, run_shards

@ray.remote(num_cpus=1)
class Worker:
    def work(self, n):
        time.sleep(0.2)
        return n

alone = {"num_cpus": 0, "include_dashboard": False, "include_log_monitor": False}
nodes = Cluster(initialize_head=True, head_node_args=alone)
workers = [nodes.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
shards = [Shard(str(n), n) for n in range(40)]

done = []
def lose_a_node(shard, value):
    done.append(value)
    if len(done) == 6:
        nodes.remove_node(workers.pop(), allow_graceful=False)
    if len(done) == 10:
        workers.append(nodes.add_node(num_cpus=1))

pool = Actors(make=Worker.remote, method="work", most=2, can_schedule=lambda: False)
result = run_shards(shards, pool, on_done=lose_a_node, limits=Limits(max_retries=0))
assert sorted(done) == list(range(40)), done
assert result.failed == {} and result.replaced >= 1, result

done.clear()
shards = [Shard(str(n), n) for n in range(400)]
def lose_all_nodes(shard, value):
    done.append(value)
    if len(done) == 4:
        while workers:
            nodes.remove_node(workers.pop(), allow_graceful=False)

began = time.monotonic()
try:
    run_shards(shards, pool, on_done=lose_all_nodes, limits=Limits(stall_timeout_s=12))
    raise AssertionError("finished without nodes")
except ClusterError as error:
    assert "no actor was ready for 12 s" in str(error) and f"{len(done)} finished shards are kept" in str(error), error
assert 4 <= len(done) < len(shards) and len(set(done)) == len(done) and time.monotonic() - began < 60, done
ray.shutdown()
nodes.shutdown()
"""


def test_a_lost_node_costs_no_shard_and_without_any_node_the_run_ends(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    command = [sys.executable, "-c", NODES]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
