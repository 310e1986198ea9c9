"""Prometheus metrics of a job, exported by Ray on every node; `grafana/soundstorm.json` is a dashboard for them.

The driver of a job sets all metrics, once per shard or epoch, so workers spend no time on them; those of the endpoint
are set where its requests arrive. Ray exports a value about ten seconds after it was set.
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
    "shards_set_aside": "Shards that failed repeatedly",
    "sounds_made": "Sounds that the endpoint generated",
    "requests_refused": "Requests that the endpoint refused because of its limit",
}
"""Counters by name, with their descriptions."""
GAUGES = {
    "shards_waiting": "Shards that no actor has started",
    "actors_ready": "Actors that are ready",
    "requests_waiting": "Requests for sound that are processed or waiting",
    "training": "Newest value of a column of log.csv",
}
"""Gauges by name, with their descriptions."""
REPEAT_S = 5.0
"""Ray drops a gauge that is not set again within two reports."""
TAGS = {"training": ("stage", "column")}
"""Tags of the metrics that have more than `stage`."""
_shown: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}


def increment(stage: str, name: str, amount: float) -> None:
    """Add `amount` to the counter `name` of `stage`; does nothing if it is 0 or Ray is not connected."""
    if amount > 0 and ray.is_initialized():
        _counter(name).inc(amount, {"stage": stage})


def set_gauge(stage: str, name: str, value: float, **tags: str) -> None:
    """Set the gauge `name` of `stage` until `clear`; does nothing if Ray is not connected."""
    if ray.is_initialized():
        _shown[name, tuple({"stage": stage, **tags}.items())] = value
        _gauge(name).set(value, {"stage": stage, **tags})
        _repeat()


def clear(stage: str) -> None:
    """Remove the values of all gauges of `stage`."""
    for name, tags in [key for key in _shown if ("stage", stage) in key[1]]:
        _shown.pop((name, tags), None)


def exported_name(name: str) -> str:
    """Name of the metric `name` in Prometheus."""
    return f"ray_{PREFIX}{name}" + ("_total" if name in COUNTERS else "")


@functools.cache
def _counter(name: str) -> Counter:
    return Counter(PREFIX + name, COUNTERS[name], TAGS.get(name, ("stage",)))


@functools.cache
def _gauge(name: str) -> Gauge:
    return Gauge(PREFIX + name, GAUGES[name], TAGS.get(name, ("stage",)))


@functools.cache
def _repeat() -> None:
    """From the first call on, set all gauges repeatedly."""

    def work() -> None:
        while True:
            time.sleep(REPEAT_S)
            for (name, tags), value in list(_shown.items()):
                if ray.is_initialized():
                    _gauge(name).set(value, dict(tags))

    threading.Thread(target=work, name="telemetry", daemon=True).start()
