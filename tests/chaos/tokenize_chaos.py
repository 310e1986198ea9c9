"""`tokenize` while codec actors are killed, a node goes and another comes, and while its driver is killed again and
again: the same rows, each once.

    python tests/chaos/tokenize_chaos.py --seeds 3 --driver-kills 5
    python tests/chaos/tokenize_chaos.py --seeds 0 --driver-kills 0 --hopeless
    python tests/chaos/tokenize_chaos.py --seeds 1 --driver-kills 1 --s3

Recordings of one second in augmented views, some of them broken, in shards of 5, on a head without CPUs and two nodes.
For each seed: a codec actor is killed every few seconds, a node is removed when a quarter is done and another added
when half is. For each driver kill: SIGKILL after a share of the time that an undisturbed run takes, and the command
again. With --hopeless: both nodes are removed; the command must say within two minutes that it cannot go on, keep what
is done, and go on when there is a node again. With --s3 the tokens are written to an S3 server (moto) behind a proxy
that spoils 10% of the calls. Ends with an error unless every part is byte for byte that of the undisturbed run.
"""

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["RAY_AUTH_MODE"] = "token"  # read when Ray is imported

from ray.cluster_utils import Cluster

from cluster import storage, tables
from cluster.tables import stage_record as records
from soundstorm.data.synthetic import write_dataset
from tests.chaos.drivers import drive, finish, kill, last_line, place, wait_until, workers_of
from tests.chaos.generate_setup import make_model, nodes

SHARD_SIZE, BROKEN = 5, 4
BAR_S = 120.0
ACTOR = "TokenizerActor"


def make_recordings(folder: Path, clips_per_class: int) -> int:
    """A dataset of ten classes with some broken files; returns how many clips it has."""
    write_dataset(folder, clips_per_class=clips_per_class, seed=0, duration_s=1.0)
    files = sorted((folder / "audio").iterdir())
    for file in files[:: len(files) // BROKEN][:BROKEN]:
        file.write_bytes(b"this is no sound")
    return len(files)


def parts_of(output: str) -> dict[str, str]:
    """SHA-256 of every part of the tables, by name."""
    found = {}
    for folder in ("tokens", "rejected"):
        for entry in storage.list_objects(storage.join(output, folder), ".parquet"):
            found[f"{folder}/{entry.uri.rpartition('/')[2]}"] = hashlib.sha256(
                storage.read_bytes(entry.uri)
            ).hexdigest()
    return found


def num_done(output: str) -> int:
    return len(storage.list_objects(storage.join(output, "tokens"), ".parquet"))


def problems_of(output: str, expected: dict[str, str]) -> list[str]:
    """What is not as in the undisturbed run."""
    found, rows = parts_of(output), tables.read_table(storage.join(output, "tokens"))[0]
    problems = [
        f"{name} differs" for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)
    ]
    keys = list(zip(rows["clip_id"].to_pylist(), rows["view"].to_pylist(), strict=True))
    if len(set(keys)) != len(keys):
        problems.append(f"{len(keys) - len(set(keys))} rows are doubled")
    if records.read(output, "tokenize") is None:
        problems.append("there is no record")
    return problems


class Experiment:
    """One dataset, one place for output, and what an undisturbed run makes of it."""

    def __init__(self, folder: Path, place: str, given: argparse.Namespace) -> None:
        self.folder, self.place, self.given = folder, place, given
        self.num_shards = -(-make_recordings(folder / "data", given.clips_per_class) // SHARD_SIZE)
        _, self.codec = make_model(folder / "model")
        with nodes(0, 1, 1) as cluster:
            self.took_s = finish(self.command(cluster, f"{place}/undisturbed"), self.log)
        self.expected = parts_of(f"{place}/undisturbed")
        self.missed = 0

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def command(self, cluster: Cluster, output: str) -> Any:
        settings = {
            "dataset": "synthetic",
            "data-dir": self.folder / "data",
            "output-dir": output,
            "codec": self.codec,
            "views": self.given.views,
        }
        settings |= {"shard-size": SHARD_SIZE, "max-rejected": 0.5, "num-actors": 2, "address": cluster.address}
        return drive("tokenize", settings, self.log)

    def tell(self, name: str, output: str, happened: dict[str, Any], good: bool = True) -> None:
        problems = problems_of(output, self.expected)
        self.missed += bool(problems) or not good
        sys.stdout.write(
            json.dumps(
                {"run": name, **happened, "parts": len(self.expected), "equal": not problems, "problems": problems[:5]}
            )
            + "\n"
        )
        sys.stdout.flush()

    def actors_and_nodes(self, seed: int) -> None:
        """Kill actors, remove a node, add another."""
        draw, output = random.Random(seed), f"{self.place}/seed-{seed}"
        happened = {"killed": 0, "removed": 0, "added": 0}
        with nodes(0, 1, 1) as cluster:
            began, process = time.monotonic(), self.command(cluster, output)
            spare = [node for node in cluster.list_all_nodes() if node != cluster.head_node]
            next_kill = began + self.given.interval
            while process.poll() is None and time.monotonic() - began < 900.0:
                time.sleep(0.25)
                done = num_done(output)
                if time.monotonic() >= next_kill and (actors := workers_of(cluster, ACTOR)):
                    happened["killed"] += kill(draw.choice(actors))
                    next_kill = time.monotonic() + self.given.interval
                if not happened["removed"] and done >= self.num_shards // 4:
                    cluster.remove_node(draw.choice(spare), allow_graceful=False)
                    happened["removed"] += 1
                elif happened["removed"] and not happened["added"] and done >= self.num_shards // 2:
                    cluster.add_node(num_cpus=1)
                    happened["added"] += 1
            finish(process, self.log)
        self.tell(f"seed {seed}", output, happened | {"seconds": round(time.monotonic() - began)})

    def driver(self, number: int) -> None:
        """Kill the driver, and give the command again."""
        draw, output = random.Random(number), f"{self.place}/driver-{number}"
        with nodes(0, 1, 1) as cluster:
            killed = self.command(cluster, output)
            time.sleep(self.took_s * draw.random())
            killed.kill()
            killed.wait(60)
            before = {
                entry.uri: entry.size for entry in storage.list_objects(storage.join(output, "tokens"), ".parquet")
            }
            finish(self.command(cluster, output), self.log)
        self.tell(
            f"driver {number}", output, {"parts_before": len(before), "parts_made_after": self.num_shards - len(before)}
        )

    def hopeless(self) -> None:
        """Remove all nodes with CPUs."""
        output = f"{self.place}/hopeless"
        with nodes(0, 1, 1) as cluster:
            process = self.command(cluster, output)
            wait_until(lambda: num_done(output) >= 2, "two parts", process)
            for node in [node for node in cluster.list_all_nodes() if node != cluster.head_node]:
                cluster.remove_node(node, allow_graceful=False)
            began = time.monotonic()
            code, told_s = process.wait(600), time.monotonic() - began
            said, before = last_line(self.log), num_done(output)
            cluster.add_node(num_cpus=1)
            finish(self.command(cluster, output), self.log)
        good = code == 1 and told_s < BAR_S
        self.tell(
            "hopeless", output, {"exit": code, "told_after_s": round(told_s), "said": said, "parts_kept": before}, good
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs in which actors and a node die")
    parser.add_argument("--driver-kills", type=int, default=5, help="runs in which the driver is killed")
    parser.add_argument("--hopeless", action="store_true", help="a run in which all nodes go")
    parser.add_argument("--s3", action="store_true", help="write to an S3 server that fails now and then")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two killed actors")
    parser.add_argument("--clips-per-class", type=int, default=40)
    parser.add_argument("--views", type=int, default=7)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="soundstorm-") as name,
        place(Path(name), 0.1 if given.s3 else None) as root,
    ):
        experiment = Experiment(Path(name), root, given)
        for seed in range(given.seeds):
            experiment.actors_and_nodes(seed)
        for number in range(given.driver_kills):
            experiment.driver(number)
        if given.hopeless:
            experiment.hopeless()
    if experiment.missed:
        sys.exit(f"{experiment.missed} runs did not end as the undisturbed one")


if __name__ == "__main__":
    main()
