"""A vigil over work that Ray does by itself: slow work is left alone, work that cannot go on is given up, with a
sentence."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.errors import ClusterError
from cluster.scheduling.attempt_tracker import Heartbeat, start_tracker
from cluster.scheduling.limits import Limits
from cluster.scheduling.watchdog import Watchdog, can_schedule, run_with_watchdog
from tests.conftest import S3Server, free_port, use_server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.scheduling.watchdog.LOOK_S", 0.1)
    monkeypatch.setattr("cluster.scheduling.attempt_tracker.BEAT_S", 0.1)


def watchdog(storage_uri: str | Path, tracker: Any, worker: dict[str, float], **limits: float) -> Watchdog:
    patience = {"stall_timeout_s": 600.0, "start_timeout_s": 600.0, "quiet_s": 0.1}
    return Watchdog(tracker=tracker, worker=worker, storage_uri=str(storage_uri), limits=Limits(**(patience | limits)))


def stuck() -> None:
    threading.Event().wait(300.0)


def test_the_result_and_the_error_of_the_work_come_through(tmp_path: Path, ray_session: None) -> None:
    def fail() -> None:
        raise KeyError("the very one")

    ticks: list[float] = []
    guard = watchdog(tmp_path, start_tracker(), {"CPU": 1.0})
    assert run_with_watchdog(lambda: 7, guard, lambda: ticks.append(time.monotonic())) == 7
    assert ticks  # once more after the end at least
    with pytest.raises(KeyError, match="the very one"):
        run_with_watchdog(fail, guard)


def test_work_without_nodes_that_could_hold_its_workers_is_given_up(tmp_path: Path, ray_session: None) -> None:
    began = time.monotonic()
    guard = watchdog(tmp_path, start_tracker(), {"CPU": 1.0, "GPU": 1.0}, stall_timeout_s=0.5)
    with pytest.raises(
        ClusterError, match=r"the remaining nodes cannot hold 1 with 1 CPU and 1 GPU each.*kept: run again"
    ):
        run_with_watchdog(stuck, guard)
    assert time.monotonic() - began < 60


def test_work_that_never_begins_though_there_is_room_is_given_up_later(tmp_path: Path, ray_session: None) -> None:
    guard = watchdog(tmp_path, start_tracker(), {"CPU": 1.0}, stall_timeout_s=0.1, start_timeout_s=1.0)
    with pytest.raises(ClusterError, match=r"though the nodes could hold 1 with 1 CPU each.*other jobs"):
        run_with_watchdog(stuck, guard)


def test_a_ledger_that_never_answers_again_ends_the_work(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf:
        def seconds_since_heartbeat(self) -> None:
            stuck()

    monkeypatch.setattr("cluster.scheduling.watchdog.ANSWER_S", 0.2)
    guard = watchdog(tmp_path, ray.remote(Deaf).options(num_cpus=0).remote(), {"CPU": 1.0}, start_timeout_s=2.0)
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"Ray has not answered for \d+ s.*kept: run again"):
        run_with_watchdog(stuck, guard)
    assert time.monotonic() - began < 60


def test_slow_work_is_left_alone_while_a_worker_is_heard(tmp_path: Path, ray_session: None) -> None:
    tracker = start_tracker()

    def slow() -> str:
        with Heartbeat(tracker):
            time.sleep(6.0)
        return "done"

    assert run_with_watchdog(slow, watchdog(tmp_path, tracker, {"CPU": 1e6}, stall_timeout_s=4.0)) == "done"


def test_storage_that_is_gone_ends_the_work(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    use_server(monkeypatch, S3Server(f"http://127.0.0.1:{free_port()}", "key", "secret"))
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1.*fix the cause and run the same command again"):
        run_with_watchdog(stuck, watchdog("s3://bucket/prefix", start_tracker(), {"CPU": 1.0}))


def test_room_is_counted_by_node(ray_session: None) -> None:
    assert can_schedule({"CPU": 2.0}, 2)  # one node of 4
    assert not can_schedule({"CPU": 3.0}, 2)
    assert can_schedule({"CPU": 1.0, "GPU": 0.0}, 4)
    assert not can_schedule({"CPU": 1.0, "GPU": 1.0})
