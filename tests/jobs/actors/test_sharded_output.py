"""Parts: their names, which are missing, that those of other settings are noticed, and that planning needs no memory to
speak of."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster import storage, tables
from cluster.errors import NotFoundError
from cluster.runtime.connect import ClusterInfo
from cluster.tables import stage_record as records
from jobs.actors.sharded_output import (
    SETTINGS,
    ShardedOutput,
    actor_resources,
    actor_threads,
    default_actors,
    settings_digest,
)
from soundstorm.errors import SoundStormError
from soundstorm.schemas import SAMPLES
from tests.conftest import ROOT

SETTINGS_NOW = settings_digest({"seed": 1, "iterations": (12, 4)})


def plan(output: str, num_items: int = 1_000, shard_size: int = 3) -> ShardedOutput:
    return ShardedOutput(
        description="test",
        output_dir=output,
        folder="parts",
        num_items=num_items,
        shard_size=shard_size,
        payload=list,
        settings=SETTINGS_NOW,
    )


def samples(numbers: range) -> pa.Table:
    rows = [
        {
            "sample_id": f"rain-{n:07d}",
            "label": 0,
            "category": "rain",
            "seed": n,
            "num_frames": 4,
            "duration_s": 0.05,
            "uri": f"/audio/{n}.flac",
        }
        for n in numbers
    ]
    return pa.Table.from_pylist([row | {"sha256": f"{row['seed']:064x}"} for row in rows], SAMPLES)


def write(plan: ShardedOutput, part: int, settings: str = SETTINGS_NOW) -> None:
    tables.write_table(plan.part_uri(part), samples(plan.items(part)), {SETTINGS: settings})


def test_neighbouring_parts_lie_in_different_folders_and_every_item_is_in_one_part() -> None:
    work = plan("/out")
    assert (
        work.part_uri(7) == "/out/parts/07/part-0000007.parquet"
        and work.part_uri(1234567) == "/out/parts/67/part-1234567.parquet"
    )
    assert work.num_shards == 334 and [n for part in range(334) for n in work.items(part)] == list(range(1_000))


def test_what_is_missing_is_found_among_other_files(storage_root: str) -> None:
    work = plan(storage_root, num_items=60)
    assert work.missing_shards() == list(range(20))
    for part in (0, 3, 19):
        write(work, part)
    for name in (
        "part-0000005.parquet",
        "06/part-6.parquet",
        "07/part-0000007.tmp",
        "20/part-0000020.parquet",
        "08/part-.parquet",
        "٩/part-٩.parquet",
    ):
        storage.write_bytes(storage.join(storage_root, "parts", name), b"x")
    assert work.missing_shards() == [part for part in range(20) if part not in (0, 3, 19)]


def test_parts_are_put_together_in_order_and_others_are_refused(tmp_path: Path) -> None:
    work = plan(str(tmp_path), num_items=60)
    for part in range(20):
        write(work, part)
    assert pa.concat_tables(work.tables(SAMPLES)).equals(samples(range(60)))
    write(work, 4, settings_digest({"seed": 2}))
    with pytest.raises(
        SoundStormError,
        match=r"part-0000004\.parquet was written with other settings.*delete it and run the same command again",
    ):
        list(work.tables(SAMPLES))
    storage.delete(work.part_uri(4))
    with pytest.raises(NotFoundError, match=r"part-0000004\.parquet"):
        list(work.tables(SAMPLES))


def test_a_digest_of_settings_does_not_depend_on_their_order() -> None:
    assert (
        settings_digest({"iterations": [12, 4], "seed": 1})
        == SETTINGS_NOW
        != settings_digest({"iterations": [12, 4], "seed": 2})
    )


DRIVER = """
import json, resource, sys
from cluster.errors import ClusterError
from jobs import generate
for options in json.loads(sys.argv[1]):
    try:
        generate.run(generate.Options(**options))
    except ClusterError as error:
        assert "is not a Ray address" in str(error), error
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def drive(*options: dict[str, Any]) -> float:
    """Runs the job in a process of its own, without a Ray; returns the most memory that it had, in MB."""
    arguments = json.dumps(
        [{**one, "address": "not an address", "shard_size": 20, "duration": 0.05} for one in options]
    )
    command = [sys.executable, "-c", DRIVER, arguments]
    ended = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=250, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return float(ended.stdout.splitlines()[-1])


def test_the_driver_of_a_large_run_needs_hardly_more_memory_than_that_of_a_small_one(
    checkpoint: str, tmp_path: Path
) -> None:
    runs: dict[int, dict[str, Any]] = {
        clips: {
            "checkpoint": checkpoint,
            "output_dir": str(tmp_path / str(clips)),
            "num_samples": clips,
            "precision": "float32",
        }
        for clips in (1_000, 20_000)
    }
    drive(*runs.values())  # begins them
    for clips, options in runs.items():
        settings = json.loads(storage.read_bytes(f"{options['output_dir']}/generate.started.json"))["settings"]
        work = replace(plan(options["output_dir"], clips, shard_size=20), settings=settings_digest(settings))
        for part in range(work.num_shards):
            write(work, part, work.settings)
    peaks_mb = {clips: drive(options) for clips, options in runs.items()}  # plans them, and puts the manifest together
    for clips, options in runs.items():
        record = records.read(options["output_dir"], "generate")
        assert record is not None and record.counts["samples"] == clips
        manifest, _ = tables.read_table(f"{options['output_dir']}/samples.parquet")
        assert manifest.drop_columns("uri").equals(samples(range(clips)).drop_columns("uri"))
    assert peaks_mb[20_000] - peaks_mb[1_000] < 50, peaks_mb


def test_no_more_actors_are_started_than_a_ray_of_our_own_can_hold_and_a_joined_cluster_may_grow() -> None:
    cpus = ClusterInfo(num_cpus=16.0, num_gpus=0.0, nodes=1, started_here=True)
    gpus = replace(cpus, num_gpus=4.0)
    assert [default_actors(cpus, requested) for requested in (None, 3, 100)] == [16, 3, 16]
    assert [default_actors(gpus, requested) for requested in (None, 3, 100)] == [4, 3, 4]
    assert default_actors(replace(cpus, num_cpus=0.5), None) == 1
    joined = replace(cpus, started_here=False)
    assert [default_actors(joined, requested) for requested in (None, 3, 100)] == [16, 3, 100]


def test_an_actor_has_the_cores_that_no_other_shard_needs_where_the_machine_is_its_own() -> None:
    own = ClusterInfo(num_cpus=16.0, num_gpus=0.0, nodes=1, started_here=True)
    assert [actor_threads(own, None, num_shards, 8) for num_shards in (1, 2, 3, 8, 9, 1000)] == [8, 8, 5, 2, 1, 1]
    assert actor_threads(own, None, 1, 1) == 1
    assert actor_threads(own, 1, 1, 8) == 1, "so many actors were asked for, of one core each"
    for shared in (replace(own, started_here=False), replace(own, num_gpus=1.0)):
        assert actor_threads(shared, None, 1, 8) == 1
    assert actor_resources(own, 8)["num_cpus"] == 8 and actor_resources(own)["num_cpus"] == 1
