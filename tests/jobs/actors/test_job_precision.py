"""The precision of a job: the driver decides it, by the slowest node; records, recipes and rows state it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster import storage, tables
from cluster.errors import ClusterError
from jobs import generate
from jobs.actors.job_precision import has_bfloat16, slowest
from tests.jobs.conftest import Command, assert_one_message, generate_options, interrupt

HERE = slowest([] if has_bfloat16("cpu") else ["this node"])
OTHER = "float32" if HERE == "bfloat16" else "bfloat16"


def as_if_emulated(patch: pytest.MonkeyPatch, is_emulated: bool) -> None:
    """Let PyTorch of this process report a processor that has, or has not, instructions for bfloat16."""
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        patch.setattr(torch.cpu, name, lambda: not is_emulated)


def stated(output: str) -> set[str]:
    """What the rows, the recipes beside the clips, and the record of a run say."""
    rows, _ = tables.read_table(storage.join(output, "samples.parquet"))
    recipes = [
        json.loads(storage.read_bytes(entry.uri))["precision"]
        for entry in storage.list_objects(storage.join(output, "audio"), ".json")
    ]
    assert recipes
    record = json.loads(storage.read_bytes(storage.join(output, "generate.json")))
    return {*rows["precision"].to_pylist(), *recipes, record["settings"]["precision"]}


def test_rows_recipes_and_record_state_the_precision_of_this_machine(generated: str) -> None:
    assert stated(generated) == {HERE}


@pytest.mark.parametrize("is_emulated", [True, False])
def test_the_driver_decides_for_its_actors(
    checkpoint: str, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, is_emulated: bool
) -> None:
    as_if_emulated(monkeypatch, is_emulated)
    output = str(tmp_path / "out")
    generate.run(generate_options(checkpoint, output, num_samples=1, class_name="rain"))
    assert stated(output) == {"float32" if is_emulated else "bfloat16"}


def test_a_resumed_run_keeps_its_precision_and_another_is_refused(
    checkpoint: str, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_emulated(monkeypatch, True)
    output = str(tmp_path / "out")
    few: dict[str, Any] = {"num_samples": 2, "class_name": "rain", "shard_size": 1}
    generate.run(generate_options(checkpoint, output, **few))
    before = {entry.uri: storage.read_bytes(entry.uri) for entry in storage.list_objects(f"{output}/audio", ".flac")}
    for uri in sorted(before)[:1]:
        storage.delete(uri)
    storage.delete(f"{output}/parts/00/part-0000000.parquet")
    interrupt(output, "generate")
    as_if_emulated(monkeypatch, False)
    generate.run(generate_options(checkpoint, output, **few))
    assert stated(output) == {"float32"}
    assert before == {uri: storage.read_bytes(uri) for uri in before}
    with pytest.raises(ClusterError, match='precision: then "float32", now "bfloat16"'):
        generate.run(generate_options(checkpoint, output, precision="bfloat16", **few))


def test_a_recipe_reproduces_the_bytes_of_its_precision_on_any_machine(
    checkpoint: str, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    output = str(tmp_path / "out")
    generate.run(
        generate_options(checkpoint, output, num_samples=1, class_name="rain", shard_size=1, precision="float32")
    )
    [recipe] = [entry.uri for entry in storage.list_objects(f"{output}/audio", ".json")]
    as_if_emulated(monkeypatch, False)
    again = str(tmp_path / "again")
    assert command(generate, "--recipe", recipe, "--output-dir", again)[0] == 0
    [first], [second] = (storage.list_objects(f"{folder}/audio", ".flac") for folder in (output, again))
    assert storage.read_bytes(first.uri) == storage.read_bytes(second.uri)
    other = ["--recipe", recipe, "--output-dir", str(tmp_path / "other"), "--precision", "bfloat16"]
    assert_one_message(command(generate, *other), "float32", "--precision", "leave it out")


NODES = """
import os
import ray
import torch
from ray.cluster_utils import Cluster
from cluster.runtime.connect import connect
from jobs.actors.job_precision import JobPrecision, nodes_without_bfloat16

def processor():
    '''The processor of the node of a worker.'''
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        setattr(torch.cpu, name, lambda: "EMULATES" not in os.environ)

processor()
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR",
         runtime_env={"worker_process_setup_hook": processor})
with connect() as info:
    assert nodes_without_bfloat16(info) == []
    nodes.add_node(num_cpus=1)
    nodes.add_node(num_cpus=0, env_vars={"EMULATES": "1"})  # holds no actor
    nodes.wait_for_nodes()
    assert nodes_without_bfloat16(info) == []
    nodes.add_node(num_cpus=1, env_vars={"EMULATES": "1"})
    nodes.wait_for_nodes()
    assert len(nodes_without_bfloat16(info)) == 1
    assert JobPrecision(name=None).of_actors(info) == "float32"
    assert JobPrecision(name="bfloat16").of_actors(info) == "bfloat16"  # with a warning
ray.shutdown()
nodes.shutdown()
"""


def test_the_slowest_kind_of_node_decides(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", NODES],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "can only emulate, very slowly" in " ".join(done.stderr.split())
