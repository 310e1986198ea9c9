"""What a job tells Prometheus while it runs, through Ray: every node offers the numbers of its processes, and
`grafana/soundstorm.json` draws them.

The job's driver tells them all, once a part or an epoch, so that no worker spends time on it. Ray offers a number about
ten seconds after it was told. A driver that works through Ray's client (`ray://`) tells none.
"""

import functools
import threading
import time

import ray
from ray.util.metrics import Counter, Gauge

PREFIX = "soundstorm_"
COUNTERS = {
    "clips_done": "Clips finished by this run",
    "clips_rejected": "Clips that could not be used",
    "retries": "Attempts at a shard that failed and are repeated",
    "actors_replaced": "Actors that died or hung, and were replaced",
    "shards_set_aside": "Shards given up after repeated failure",
}
"""Numbers that only grow; Prometheus derives rates from them."""
GAUGES = {
    "shards_waiting": "Shards that no actor has begun",
    "actors_ready": "Actors at hand",
    "training": "Newest value of a column of log.csv",
}
"""Numbers as they are now."""
REPEAT_S = 5.0
"""Ray forgets a gauge that is not set again within two of its reports."""
TAGS = {"training": ("stage", "column")}
"""Tags of the numbers that have another one beside `stage`."""
_shown: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}


def add(stage: str, name: str, amount: float) -> None:
    """Let the counter `name` of `stage` grow by `amount`; nothing happens where that is 0, or where Ray does not
    run."""
    if amount > 0 and ray.is_initialized():
        _counter(name).inc(amount, {"stage": stage})


def show(stage: str, name: str, value: float, **tags: str) -> None:
    """Set the gauge `name` of `stage` until `end`; nothing happens where Ray does not run."""
    if ray.is_initialized():
        _shown[name, tuple({"stage": stage, **tags}.items())] = value
        _gauge(name).set(value, {"stage": stage, **tags})
        _repeat()


def end(stage: str) -> None:
    """The gauges of `stage` have no value any more."""
    for name, tags in [key for key in _shown if ("stage", stage) in key[1]]:
        _shown.pop((name, tags), None)


def exported_name(name: str) -> str:
    """What Prometheus calls the number `name`."""
    return f"ray_{PREFIX}{name}" + ("_total" if name in COUNTERS else "")


@functools.cache
def _counter(name: str) -> Counter:
    return Counter(PREFIX + name, COUNTERS[name], TAGS.get(name, ("stage",)))


@functools.cache
def _gauge(name: str) -> Gauge:
    return Gauge(PREFIX + name, GAUGES[name], TAGS.get(name, ("stage",)))


@functools.cache
def _repeat() -> None:
    """From the first call on, set all gauges again and again."""

    def work() -> None:
        while True:
            time.sleep(REPEAT_S)
            for (name, tags), value in list(_shown.items()):
                if ray.is_initialized():
                    _gauge(name).set(value, dict(tags))

    threading.Thread(target=work, name="telemetry", daemon=True).start()
