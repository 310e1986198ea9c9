"""What the experiments on `generate` share: a network of almost no size, a cluster on this machine with its processes,
and what a run left."""

import contextlib
import hashlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from ray.cluster_utils import Cluster

from cluster import storage, tables
from cluster.tables.tar_shards import TarMemberReader
from soundstorm.codec.files import load_codec
from soundstorm.model.checkpoints import CheckpointInfo, save_checkpoint
from soundstorm.model.config import ModelConfig, SamplerSettings
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from tests.conftest import ROOT, write_small_codec  # which also sets the variables that Ray and torch read

os.environ |= {"PYTHONPATH": str(ROOT), "SOUNDSTORM_OFFLINE": "1"}

T = TypeVar("T")

CATEGORIES = ["rain", "wind", "dog"]
NODE_ATTEMPTS = 5
NODE_S = 240.0
"""Seconds that a node may take to start, on a machine that is busy."""


def make_model(folder: Path) -> tuple[str, str]:
    """A checkpoint with random weights and the codec that it belongs to; a clip of one second takes a few hundredths of
    one."""
    torch.manual_seed(0)
    codec_path = folder / "codec.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    write_small_codec(codec_path, "tiny", dims=16, beam=1)
    model = SoundStorm(ModelConfig(width=32, depth=1, heads=2, kernel=5, num_classes=len(CATEGORIES)))
    save_checkpoint(
        folder / "checkpoint",
        model,
        CheckpointInfo(
            training=preset("tiny").training,
            categories=CATEGORIES,
            fingerprint=load_codec(codec_path).fingerprint,
            step=1,
            sampler=SamplerSettings(iterations=1, final_temperature=1.0),  # every seed its own sound
        ),
    )
    return str(folder), str(codec_path)


@dataclass
class Result:
    """What a finished run left."""

    sha256: dict[str, str]
    """Of each sample, by its id."""
    problems: list[str]
    """Samples lost or made twice, audio that is not what the manifest says, and files that nobody asked for."""


def result_of(output: str, num_samples: int) -> Result:
    """Read a run's manifest and every sound in it, and list what there is."""
    rows = tables.read_table(storage.join(output, "samples.parquet"))[0].to_pylist()
    reader = TarMemberReader()
    wrong = [row["uri"] for row in rows if hashlib.sha256(reader.read(row["uri"])).hexdigest() != row["sha256"]]
    counts = Counter(int(row["sample_id"].rpartition("-")[2]) for row in rows)
    problems = [
        f"sample {number} is {counts[number]} times there" for number in range(num_samples) if counts[number] != 1
    ]
    problems += [f"{uri} has not the bytes of the manifest" for uri in wrong]
    named = {row["uri"].partition("#")[0] for row in rows}
    named |= {f"{uri.rpartition('.')[0]}.json" for uri in named}  # the recipes
    stray = {entry.uri for entry in storage.list_objects(storage.join(output, "audio"))} - named
    problems += [f"{uri} is not in the manifest" for uri in sorted(stray)]
    return Result({row["sample_id"]: row["sha256"] for row in rows}, problems)


def part_times(output: str) -> dict[str, int]:
    """Every part on a local disk, with its time of modification."""
    return {str(path): path.stat().st_mtime_ns for path in Path(output, "parts").glob("*/part-*.parquet")}


@contextlib.contextmanager
def nodes(*num_cpus: int) -> Iterator[Cluster]:
    """A cluster with a node for each number of CPUs, the first of which is the head."""
    cluster = patiently(
        lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": num_cpus[0], "include_dashboard": False})
    )
    try:
        for cpus in num_cpus[1:]:
            add_node(cluster, cpus)
        cluster.wait_for_nodes(timeout=NODE_S)
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Cluster, num_cpus: int) -> None:
    patiently(lambda: cluster.add_node(num_cpus=num_cpus))


def patiently(start: Callable[[], T]) -> T:
    """`start()`, tried again while Ray finds that a node took more than half a minute, as it may on a machine that is
    busy."""
    for _ in range(NODE_ATTEMPTS - 1):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def actors_of(cluster: Cluster) -> list[int]:
    """Processes of the cluster's nodes whose actor is at work or waits for work, by what Ray calls them."""
    raylets = {info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes.get("raylet", [])}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").strip()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (
                parent in raylets
                and title.startswith((b"ray::Generator", b"ray::EvaluatorActor"))
                and b"__init__" not in title
            ):
                found.append(int(folder.name))
    return sorted(found)


def disturb(
    cluster: Cluster, output: str, num_parts: int, seed: int, kill_every_s: float, ended: Callable[[], bool]
) -> dict[str, int]:
    """Until the run has ended: kill an actor now and then, take a node away after a quarter of the parts, bring another
    at half. Says how often.

    In the main thread, the only one from which Ray starts a node.
    """
    draw = random.Random(seed)
    events = {"killed": 0, "removed": 0, "added": 0}
    spare = [node for node in cluster.list_all_nodes() if node != cluster.head_node]
    next_kill = time.monotonic() + kill_every_s
    while not ended():
        time.sleep(0.25)
        if time.monotonic() >= next_kill:
            next_kill = time.monotonic() + kill_every_s
            if actors := actors_of(cluster):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(actors), signal.SIGKILL)
                    events["killed"] += 1
        done = len(storage.list_objects(storage.join(output, "parts"), ".parquet"))
        if not events["removed"] and done >= num_parts // 4:
            cluster.remove_node(spare.pop(draw.randrange(len(spare))), allow_graceful=False)
            events["removed"] += 1
        elif events["removed"] and not events["added"] and done >= num_parts // 2:
            add_node(cluster, 1)
            events["added"] += 1
    return events
