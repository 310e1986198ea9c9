"""`generate` on three nodes while actors are killed, a node goes, another comes and the storage fails now and then:
nothing is lost, nothing doubled.

    python tests/chaos/generate_chaos.py --seeds 5
    python tests/chaos/generate_chaos.py --seeds 1 --clips 120 --layout webdataset
    python tests/chaos/generate_chaos.py --seeds 1 --clips 120 --disk

For each seed: 600 clips of one second in parts of 10; an actor's process is killed every 5 s, a node is removed when a
quarter is done and another added when half is; of the calls to the S3 server (moto, a process of its own, behind a
proxy) 10% fail. Compared with a run without any of this. Ends with an error unless the samples are the same ones, each
there once, with no file beside them. A seed has 15 minutes.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported

import ray

from jobs import generate
from tests.chaos.generate_setup import disturb, make_model, nodes, result_of
from tests.conftest import S3Server, free_port, server_process
from tests.support.flaky_proxy import FlakyProxy

LIMIT_S = 900.0
SHARD_SIZE = 10


def options(model: tuple[str, str], output: str, given: argparse.Namespace) -> generate.Options:
    checkpoint, codec = model
    settings = {
        "num_samples": given.clips,
        "duration": 1.0,
        "shard_size": SHARD_SIZE,
        "layout": given.layout,
        "num_actors": 3,
    }
    return generate.Options(checkpoint=checkpoint, codec=codec, output_dir=output, **settings)


@contextlib.contextmanager
def places(folder: Path, given: argparse.Namespace) -> Iterator[tuple[str, FlakyProxy | None]]:
    """Where to write to, and what spoils the calls to it."""
    if given.disk:
        yield str(folder / "output"), None
        return
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log, server_process(command, port, log):
        server = S3Server(f"http://127.0.0.1:{port}", "test", "test")
        with FlakyProxy(server.endpoint, rate=0.0, seed=0) as proxy:
            os.environ |= server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint}
            yield server.make_bucket(), proxy


def disturbed(
    model: tuple[str, str], output: str, seed: int, proxy: FlakyProxy | None, given: argparse.Namespace
) -> dict[str, object]:
    """One run with everything that can happen; returns what did."""
    alarm = threading.Timer(LIMIT_S, lambda: os._exit(3))
    alarm.daemon = True
    alarm.start()
    with nodes(1, 1, 1) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            if proxy is not None:
                proxy.rate = given.fault_rate
            faults = sum(proxy.injected.values()) if proxy else 0
            began = time.monotonic()
            with ThreadPoolExecutor(1) as pool:
                run = pool.submit(generate.run, options(model, output, given))
                events = disturb(cluster, output, -(-given.clips // SHARD_SIZE), seed, given.kill_every, run.done)
                run.result()
            took_s = time.monotonic() - began
        finally:
            if proxy is not None:
                proxy.rate = 0.0
            ray.shutdown()
    alarm.cancel()
    return {"seconds": round(took_s), **events, "calls_spoiled": sum(proxy.injected.values()) - faults if proxy else 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="how many disturbed runs")
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--layout", choices=("files", "webdataset"), default="files")
    parser.add_argument(
        "--kill-every",
        type=float,
        default=5.0,
        help="seconds; on a machine that is busy more than an actor needs to start and work",
    )
    parser.add_argument("--fault-rate", type=float, default=0.1, help="share of calls to the storage that fail")
    parser.add_argument("--disk", action="store_true", help="write to a local disk, without such failures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soundstorm-") as name, places(Path(name), given) as (place, proxy):
        model = make_model(Path(name, "model"))
        ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        generate.run(options(model, f"{place}/undisturbed", given))
        ray.shutdown()
        expected = result_of(f"{place}/undisturbed", given.clips)
        assert not expected.problems, expected.problems
        missed = 0
        for seed in range(given.seeds):
            happened = disturbed(model, f"{place}/seed-{seed}", seed, proxy, given)
            found = result_of(f"{place}/seed-{seed}", given.clips)
            same = found.sha256 == expected.sha256
            missed += bool(found.problems) or not same
            sys.stdout.write(
                json.dumps(
                    {"seed": seed, **happened, "samples": len(found.sha256), "same": same, "problems": found.problems}
                )
                + "\n"
            )
            sys.stdout.flush()
    if missed:
        sys.exit(f"{missed} of {given.seeds} runs did not end as the undisturbed one")


if __name__ == "__main__":
    main()
