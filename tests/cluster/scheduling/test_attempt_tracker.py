"""The ledger of attempts: what kills its workers is found, what merely dies beside it is not blamed."""

import time
from typing import Any

import pytest
import ray

import cluster.scheduling.attempt_tracker
from cluster.scheduling.attempt_tracker import Attempt, AttemptTracker, start_tracker, tracking

ITEMS = ["a", "b", "c"]


def die_at(tracker: Any, item: str | None) -> list[list[int]]:
    """An attempt at the shard that ends without a word when it comes to `item`; the portions that it took."""
    attempt = Attempt(tracker, "shard", 600.0)
    attempt.__enter__()
    taken = []
    for portion in attempt.batches(ITEMS):
        taken.append(portion)
        if item is not None and ITEMS.index(item) in portion:
            break
    else:
        attempt.__exit__(None, None, None)
    attempt._ended.set()
    return taken


def test_a_shard_is_taken_as_a_whole_until_a_worker_died_at_it(ray_session: None) -> None:
    tracker = start_tracker()
    assert die_at(tracker, "b") == [[0, 1, 2]]
    assert die_at(tracker, "b") == [[0], [1]]
    assert die_at(tracker, None) == [[0], [1], [2]]
    assert die_at(tracker, None) == [[0, 1, 2]]  # it ended well: whatever was, is forgotten


def test_an_item_at_which_so_many_workers_died_is_left_out(ray_session: None) -> None:
    tracker = start_tracker(max_deaths=2)
    assert [die_at(tracker, "b")[-1] for _ in range(3)] == [[0, 1, 2], [1], [1]]
    with Attempt(tracker, "shard", 600.0) as attempt:
        assert attempt.poison == {"b"}
        assert list(attempt.batches(ITEMS)) == [[0], [2]]


def test_a_worker_that_died_with_its_node_is_held_against_nothing(ray_session: None) -> None:
    tracker = start_tracker(max_deaths=1)
    ray.get(tracker.begin.remote("shard", "a node that is gone"))
    ray.get(tracker.note.remote("shard", "b"))
    with Attempt(tracker, "shard", 600.0) as attempt:
        assert (attempt.isolate, attempt.poison) == (False, frozenset())


def test_a_death_with_a_node_that_ray_took_for_alive_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = ["first", "second"]
    monkeypatch.setattr(cluster.scheduling.attempt_tracker, "alive_nodes", lambda: [{"NodeID": name} for name in alive])
    tracker = AttemptTracker(max_deaths=2)
    assert tracker.begin("shard", "first") == (False, [])
    tracker.note("shard", "b")
    assert tracker.begin("shard", "second") == (True, [])  # the first node is lost; Ray does not know it yet
    tracker.note("shard", "b")
    alive.remove("first")
    assert tracker.begin("shard", "second") == (True, [])
    assert tracker.deadliest_shard() == ("shard", ["b"])
    tracker.note("shard", "b")
    assert tracker.begin("shard", "second") == (True, ["b"])


def test_the_ledger_names_the_worst_shard_and_its_items(ray_session: None) -> None:
    tracker = start_tracker()
    assert ray.get(tracker.deadliest_shard.remote()) == ("", [])
    with Attempt(tracker, "other", 600.0):
        for item in ("b", "b", "c"):
            die_at(tracker, item)
        assert ray.get(tracker.deadliest_shard.remote()) == ("shard", ["b", "c"])


def test_a_worker_is_heard_while_it_works_and_not_after(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.scheduling.attempt_tracker.BEAT_S", 0.05)
    tracker = start_tracker()
    with Attempt(tracker, "shard", 600.0):
        time.sleep(1.0)
        heard_s = ray.get(tracker.seconds_since_heartbeat.remote())
    time.sleep(1.5)
    assert heard_s < ray.get(tracker.seconds_since_heartbeat.remote())


def test_a_tracker_ends_with_its_block_and_a_task_that_is_repeated_later_is_done_without_it(ray_session: None) -> None:
    with tracking() as tracker:
        assert die_at(tracker, "b") == [[0, 1, 2]]
    with pytest.raises(ray.exceptions.RayActorError):
        for _ in range(300):
            ray.get(tracker.seconds_since_heartbeat.remote(), timeout=30)
            time.sleep(0.1)
    with Attempt(tracker, "shard", 600.0) as attempt:
        assert list(attempt.batches(ITEMS)) == [[0, 1, 2]]
