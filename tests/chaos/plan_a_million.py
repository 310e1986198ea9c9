"""Planning and going on with a run of 1,000,000 clips from an S3 server (moto, a process of its own), and how the
driver's memory grows with a run.

    python tests/chaos/plan_a_million.py
    python tests/chaos/plan_a_million.py --memory

Puts all but three of the 10,000 parts of such a run there, each a table of 100 samples as an actor would write it, and
gives the command: it has to find out what is missing, make it, and put the manifest together. Ends with an error unless
planning took under 60 s, the driver's peak memory was under 1 GB and the manifest has a million different samples. With
--memory: runs of 1,000 and of 20,000 clips on a disk, all of them really made (0.05 s each); ends with an error if the
driver's peak is 50 MB higher in the larger one.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported

import pyarrow as pa
import pyarrow.compute as pc

from cluster import storage, tables
from cluster.runtime.connect import connect
from cluster.tables.stage_record import record_uri
from jobs import generate
from jobs.actors.sharded_output import SETTINGS, ShardedOutput, settings_digest
from soundstorm.schemas import SAMPLES
from tests.chaos.generate_setup import CATEGORIES, make_model, patiently
from tests.conftest import S3Server, free_port, server_process

CLIPS, SHARD_SIZE, MISSING = 1_000_000, 100, (17, 5_000, 9_999)
LIMIT_S = 3600.0
SHARE = {"duration": 0.05, "num_actors": 1}


def part(output: str, numbers: range) -> pa.Table:
    """The table of a part, with sums that no sound has."""
    rows = []
    for number in numbers:
        label = number % len(CATEGORIES)
        name = f"{CATEGORIES[label]}-{number:07d}"
        uri = f"{output}/audio/{number % 100:02d}/{CATEGORIES[label]}/{name}.flac"
        row = {
            "sample_id": name,
            "label": label,
            "category": CATEGORIES[label],
            "seed": number,
            "num_frames": 4,
            "duration_s": 0.05,
            "uri": uri,
        }
        rows.append(row | {"sha256": f"{number:064x}"})
    return pa.Table.from_pylist(rows, SAMPLES)


def fill(model: tuple[str, str], output: str) -> None:
    """Begin the run, and put there what its actors would have made but for a few parts."""
    begun = subprocess.Popen(drive(model, output, CLIPS, SHARD_SIZE), stdout=subprocess.DEVNULL)
    started = storage.join(output, "generate.started.json")
    while not storage.exists(started) and begun.poll() is None:
        time.sleep(0.1)
    begun.terminate()
    begun.wait(LIMIT_S)
    settings = json.loads(storage.read_bytes(started))["settings"]
    plan = ShardedOutput(
        description="fill",
        output_dir=output,
        folder="parts",
        num_items=CLIPS,
        shard_size=SHARD_SIZE,
        payload=lambda items: None,
        settings=settings_digest(settings),
    )
    for number in MISSING:
        storage.delete(plan.part_uri(number))

    def put(number: int) -> None:
        tables.write_table(plan.part_uri(number), part(output, plan.items(number)), {SETTINGS: plan.settings})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, [number for number in range(plan.num_shards) if number not in MISSING]))


def drive(model: tuple[str, str], output: str, clips: int, shard_size: int) -> list[str]:
    """The command line of a driver that tells its times and its memory."""
    return [sys.executable, __file__, "--driver", json.dumps([*model, output, clips, shard_size])]


def driver(arguments: list[Any]) -> None:
    """Run the job in this process, and say how long planning and the manifest took, and the most memory that was
    used."""
    checkpoint, codec, output, clips, shard_size = arguments
    times: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*values: Any, **named: Any) -> Any:
            began, cpu = time.monotonic(), time.process_time()
            result = function(*values, **named)
            times[f"{name}_s"] = round(time.monotonic() - began, 1)
            times[f"{name}_cpu_s"] = round(time.process_time() - cpu, 1)
            times[f"{name}_peak_mb"] = peak_mb()
            return result

        return run

    times["imports_peak_mb"] = peak_mb()
    ShardedOutput.missing_shards = timed("planning", ShardedOutput.missing_shards)  # type: ignore[method-assign]
    generate.write_table_stream = timed("manifest", generate.write_table_stream)  # type: ignore[assignment]
    settings = {"num_samples": clips, "shard_size": shard_size, **SHARE}
    with contextlib.ExitStack() as ends:
        patiently(lambda: ends.enter_context(connect("local", num_cpus=1)))
        generate.run(generate.Options(checkpoint=checkpoint, codec=codec, output_dir=output, **settings))
    sys.stdout.write(json.dumps(times | {"peak_mb": peak_mb()}) + "\n")


def peak_mb() -> float:
    """The most memory that this process had so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def run_driver(model: tuple[str, str], output: str, clips: int, shard_size: int) -> dict[str, float]:
    ended = subprocess.run(drive(model, output, clips, shard_size), stdout=subprocess.PIPE, check=True, timeout=LIMIT_S)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def plan_a_million(folder: Path) -> bool:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log, server_process(command, port, log):
        server = S3Server(f"http://127.0.0.1:{port}", "test", "test")
        os.environ |= server.environment()
        model, output = make_model(folder / "model"), f"{server.make_bucket()}/million"
        fill(model, output)
        found = run_driver(model, output, CLIPS, SHARD_SIZE)
        manifest, _ = tables.read_table(storage.join(output, "samples.parquet"), ["sample_id", "sha256"])
        distinct = {name: pc.count_distinct(manifest[name]).as_py() for name in manifest.column_names}
        finished = storage.exists(record_uri(output, "generate"))
    sys.stdout.write(
        json.dumps({"clips": CLIPS, "parts": CLIPS // SHARD_SIZE, **found, "rows": len(manifest), "distinct": distinct})
        + "\n"
    )
    right = len(manifest) == CLIPS and distinct == {"sample_id": CLIPS, "sha256": CLIPS} and finished
    return right and found["planning_s"] < 60 and found["peak_mb"] < 1000


def memory(folder: Path) -> bool:
    model = make_model(folder / "model")
    peaks = {clips: run_driver(model, str(folder / str(clips)), clips, 20)["peak_mb"] for clips in (1_000, 20_000)}
    growth = peaks[20_000] - peaks[1_000]
    sys.stdout.write(json.dumps({"driver_peak_mb": peaks, "growth_mb": round(growth, 1)}) + "\n")
    return growth < 50


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--memory", action="store_true", help="how the driver's memory grows with the number of clips")
    parser.add_argument("--driver", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.driver:
        driver(given.driver)
        return
    with tempfile.TemporaryDirectory(prefix="soundstorm-") as name:
        if not (memory if given.memory else plan_a_million)(Path(name)):
            sys.exit("a bar is missed")


if __name__ == "__main__":
    main()
