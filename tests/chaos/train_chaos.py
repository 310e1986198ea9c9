"""`train` while a worker, a node or the driver is killed: the weights at the end are those of the undisturbed run, bit
for bit.

    python tests/chaos/train_chaos.py --seeds 1 --driver-kills 3
    python tests/chaos/train_chaos.py --seeds 0 --driver-kills 0 --hopeless
    python tests/chaos/train_chaos.py --seeds 1 --driver-kills 1 --s3

Two workers on a head without CPUs and two nodes with one each; a small network with dropout on 60 clips of random
codes. For each seed: at random moments a worker is killed, then a node is removed and another added. For each driver
kill: SIGKILL at three random moments, and the command again each time. With --hopeless: both nodes are removed; the
command must say within two minutes that it cannot go on, and go on when there are nodes again. With --s3 the run is
kept on an S3 server (moto) behind a proxy that spoils 5% of the calls. Ends with an error unless weights, averaged
weights, optimizer and log (but for the seconds) are equal.
"""

import argparse
import io
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

import numpy as np
import pyarrow as pa
import torch
from ray.cluster_utils import Cluster

from cluster import storage, tables
from cluster.tables import stage_record as records
from soundstorm.schemas import TOKENS, CodecFingerprint, codes_to_lists
from tests.chaos.drivers import drive, finish, kill, last_line, place, wait_until, workers_of
from tests.chaos.generate_setup import nodes

CLIPS, EPOCHS, KILLS = 60, 12, 3
BAR_S = 120.0
WORKER = "RayTrainWorker"


def make_tokens(uri: str) -> None:
    """What `tokenize` would leave."""
    fingerprint = CodecFingerprint(
        name="none", sha256="ab" * 32, sample_rate=24_000, frame_rate=75, num_levels=4, codebook_size=64
    )
    categories, draw = ["rain", "wind", "dog"], np.random.default_rng(0)
    rows = []
    for number in range(CLIPS):
        num_frames = 80 + number % 5
        row = {
            "clip_id": f"clip-{number:03d}",
            "dataset": "folder",
            "fold": number // 3 % 5 + 1,
            "label": number % 3,
            "category": categories[number % 3],
        }
        codes = codes_to_lists(draw.integers(0, 64, (4, num_frames)))
        rows.append(row | {"view": 0, "num_frames": num_frames, "codes": codes})
    metadata = fingerprint.to_metadata() | {"categories": json.dumps(categories), "num_folds": "5"}
    tables.write_table(tables.part_uri(f"{uri}/tokens", 0), pa.Table.from_pylist(rows, TOKENS), metadata)
    records.complete_stage(uri, "tokenize", {}, {})


def result_of(output: str) -> dict[str, Any]:
    """Everything that a finished run left and that does not depend on the time."""
    folder = storage.join(output, "checkpoint")
    state = torch.load(io.BytesIO(storage.read_bytes(f"{folder}/training_state.pt")), weights_only=True)
    for row in state["rows"]:
        del row["seconds"]
    return {"weights": storage.read_bytes(f"{folder}/model.safetensors"), "state": state}


def difference(one: Any, other: Any, where: str = "") -> str:
    """The name of the first thing that differs, "" where all is equal bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{where}: other keys"
        return next((found for key in one if (found := difference(one[key], other[key], f"{where}/{key}"))), "")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return next(
            (
                found
                for number, pair in enumerate(zip(one, other, strict=True))
                if (found := difference(*pair, f"{where}/{number}"))
            ),
            "",
        )
    same = (
        torch.equal(one, other) if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) else one == other
    )
    return "" if same else where


class Experiment:
    """One set of tokens, one place for output, and the undisturbed run."""

    def __init__(self, folder: Path, place: str) -> None:
        self.place, self.log = place, folder / "log"
        self.tokens = f"{place}/tokens"
        make_tokens(self.tokens)
        with nodes(0, 1, 1) as cluster:
            self.took_s = finish(self.command(cluster, f"{place}/undisturbed"), self.log)
        self.expected = result_of(f"{place}/undisturbed")
        self.missed = 0

    def command(self, cluster: Cluster, output: str) -> Any:
        settings = {
            "tokens": self.tokens,
            "output-dir": output,
            "preset": "tiny",
            "epochs": EPOCHS,
            "batch-size": 4,
            "num-workers": 2,
        }
        return drive("train", settings | {"max-failures": 10, "address": cluster.address}, self.log)

    def tell(self, name: str, output: str, happened: dict[str, Any], good: bool = True) -> None:
        differs = difference(self.expected, result_of(output))
        self.missed += bool(differs) or not good
        sys.stdout.write(
            json.dumps({"run": name, **happened, "epochs": EPOCHS, "equal": not differs, "differs": differs}) + "\n"
        )
        sys.stdout.flush()

    def worker_and_node(self, seed: int) -> None:
        """Kill a worker at one random moment, remove a node at a later one."""
        draw, output = random.Random(seed), f"{self.place}/seed-{seed}"
        with nodes(0, 1, 1) as cluster:
            process = self.command(cluster, output)
            wait_until(lambda: num_saved(output) >= 1, "a checkpoint", process)
            time.sleep(draw.uniform(0.0, 3.0))
            killed = sum(kill(pid) for pid in workers_of(cluster, WORKER)[:1])
            before = num_saved(output)
            wait_until(lambda: num_saved(output) > before, "a checkpoint after the kill", process)
            time.sleep(draw.uniform(0.0, 3.0))
            spare = [node for node in cluster.list_all_nodes() if node != cluster.head_node]
            removed = process.poll() is None
            cluster.remove_node(draw.choice(spare), allow_graceful=False)
            cluster.add_node(num_cpus=1)
            finish(process, self.log)
        self.tell(f"seed {seed}", output, {"workers_killed": killed, "nodes_removed": int(removed)})

    def driver(self, number: int) -> None:
        """Kill the driver at random moments, give the command again each time."""
        draw, output = random.Random(number), f"{self.place}/driver-{number}"
        saved = []
        with nodes(0, 1, 1) as cluster:
            for _ in range(KILLS):
                process = self.command(cluster, output)
                time.sleep(self.took_s * draw.uniform(0.3, 1.0))
                process.kill()
                process.wait(60)
                saved.append(num_saved(output))
            finish(self.command(cluster, output), self.log)
        self.tell(f"driver {number}", output, {"epochs_saved_at_each_kill": saved})

    def hopeless(self) -> None:
        """Remove all nodes with CPUs."""
        output = f"{self.place}/hopeless"
        with nodes(0, 1, 1) as cluster:
            process = self.command(cluster, output)
            wait_until(lambda: num_saved(output) >= 1, "a checkpoint", process)
            for node in [node for node in cluster.list_all_nodes() if node != cluster.head_node]:
                cluster.remove_node(node, allow_graceful=False)
            began = time.monotonic()
            code, told_s = process.wait(600), time.monotonic() - began
            said, before = last_line(self.log), num_saved(output)
            for _ in range(2):
                cluster.add_node(num_cpus=1)
            finish(self.command(cluster, output), self.log)
        good = code == 1 and told_s < BAR_S
        self.tell(
            "hopeless", output, {"exit": code, "told_after_s": round(told_s), "said": said, "epochs_kept": before}, good
        )


def num_saved(output: str) -> int:
    """Epochs in the log so far."""
    log = storage.join(output, "log.csv")
    return len(storage.read_bytes(log).splitlines()) - 1 if storage.exists(log) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=2, help="runs in which a worker and a node die")
    parser.add_argument("--driver-kills", type=int, default=3, help=f"runs in which the driver is killed {KILLS} times")
    parser.add_argument("--hopeless", action="store_true", help="a run in which all nodes go")
    parser.add_argument("--s3", action="store_true", help="keep the run on an S3 server that fails now and then")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="soundstorm-") as name,
        place(Path(name), 0.05 if given.s3 else None) as root,
    ):
        experiment = Experiment(Path(name), root)
        for seed in range(given.seeds):
            experiment.worker_and_node(seed)
        for number in range(given.driver_kills):
            experiment.driver(number)
        if given.hopeless:
            experiment.hopeless()
    if experiment.missed:
        sys.exit(f"{experiment.missed} runs did not end as the undisturbed one")


if __name__ == "__main__":
    main()
