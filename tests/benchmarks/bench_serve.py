"""Sounds per second and waiting times of `soundstorm serve` at 1, 8 and 32 clients, with batches and one by one.

`python tests/benchmarks/bench_serve.py`: the model in the package with one draw of each sound, sounds of 5 s, two
cores. Clients ask again as soon as they are answered, each for another seed. All replicas are there before the clock
starts, and one sound of each is not measured. --batch-size 8 and 1 are measured in turn, --rounds times.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

import httpx

from cluster.runtime.connect import connect
from jobs.serving.serve import Options, served


def measured(client: httpx.Client, clients: int, requests: int, asked: dict[str, Any]) -> dict[str, float]:
    """`requests` requests of `clients` clients at once: sounds per second, and the 50th and 95th percentile in
    seconds."""
    seconds: list[float] = []
    sizes: list[int] = []
    lock = threading.Lock()

    def ask(seed: int) -> None:
        began_s = time.monotonic()
        response = client.post("/v1/generate", json=asked | {"seed": seed})
        took_s = time.monotonic() - began_s
        response.raise_for_status()
        with lock:
            seconds.append(took_s)
            sizes.append(json.loads(response.headers["x-soundstorm-recipe"])["batch_size"])

    began_s = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, range(requests)))
    took_s = time.monotonic() - began_s
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return {
        "sounds_per_s": requests / took_s,
        "p50_s": statistics.median(seconds),
        "p95_s": cuts[-1],
        "mean_batch": statistics.mean(sizes),
    }


def main(arguments: argparse.Namespace) -> None:
    """Measure, and print a line for each number of clients and each size of batches."""
    asked = {"category": arguments.category, "duration_s": arguments.duration}
    rates: dict[tuple[int, int], list[float]] = {}
    with connect("local", num_cpus=arguments.num_cpus):
        for round_number in range(arguments.rounds):
            for batch_size in arguments.batch_sizes:
                options = Options(
                    checkpoint=arguments.checkpoint,
                    candidates=arguments.candidates,
                    batch_size=batch_size,
                    min_replicas=arguments.num_cpus,
                    max_replicas=arguments.num_cpus,
                    port=arguments.port,
                    wait=3600,
                    page=False,
                )
                with served(options) as url, httpx.Client(base_url=url, timeout=3600) as client:
                    measured(client, 2 * arguments.num_cpus, 2 * arguments.num_cpus, asked)
                    for clients in arguments.clients:
                        requests = max(arguments.requests, clients)
                        found = measured(client, clients, requests, asked)
                        rates.setdefault((clients, batch_size), []).append(found["sounds_per_s"])
                        shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
                        print(
                            f"round {round_number + 1}, batches up to {batch_size}, {clients} clients, "
                            f"{requests} requests: {shown}",
                            flush=True,
                        )
    for clients in arguments.clients:
        best, one = (max(rates[clients, size]) for size in (max(arguments.batch_sizes), min(arguments.batch_sizes)))
        print(f"{clients} clients: {best:.3f} sounds/s in batches, {one:.3f} one by one, ratio {best / one:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="default: the one in the package")
    parser.add_argument("--category", default="rain")
    parser.add_argument("--duration", type=float, default=5.0)
    parser.add_argument("--candidates", type=int, default=1)
    parser.add_argument("--num-cpus", type=int, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 1])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--port", type=int, default=18_200)
    main(parser.parse_args(sys.argv[1:]))
