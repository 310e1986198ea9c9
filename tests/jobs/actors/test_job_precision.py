"""The precision of a job: the driver decides it, by the slowest node; records, recipes and rows state it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import jobs.actors.job_precision
from cluster import storage, tables
from cluster.errors import ClusterError
from jobs import generate
from jobs.actors.job_precision import NodeAnswers, has_bfloat16, job_precision
from soundstorm.errors import SoundStormError
from soundstorm.optimization.precision import Precision
from tests.jobs.conftest import Command, assert_one_message, generate_options, interrupt

HERE = "bfloat16" if has_bfloat16("cpu") else "float32"
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


@pytest.fixture(scope="module")
def one_clip(checkpoint: str, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> str:
    """The output of a run of one clip, in the precision of this machine."""
    output = str(tmp_path_factory.mktemp("one-clip") / "out")
    generate.run(generate_options(checkpoint, output, num_samples=1, class_name="rain", shard_size=1))
    return output


def test_rows_recipes_and_record_state_the_precision_of_this_machine(one_clip: str) -> None:
    assert stated(one_clip) == {HERE}


def test_the_driver_decides_for_its_actors(
    checkpoint: str, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_emulated(monkeypatch, False)
    output = str(tmp_path / "out")
    generate.run(generate_options(checkpoint, output, num_samples=1, class_name="rain"))
    assert stated(output) == {"bfloat16"}


def test_a_run_of_a_driver_that_emulates_keeps_its_precision_when_resumed_and_its_recipes_make_its_bytes_anywhere(
    checkpoint: str, tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    as_if_emulated(monkeypatch, True)
    output = str(tmp_path / "out")
    few: dict[str, Any] = {"num_samples": 2, "class_name": "rain", "shard_size": 1}
    generate.run(generate_options(checkpoint, output, **few))
    assert stated(output) == {"float32"}
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

    first = sorted(before)[0]
    recipe = first.removesuffix(".flac") + ".json"
    again = str(tmp_path / "again")
    assert command(generate, "--recipe", recipe, "--output-dir", again)[0] == 0
    [second] = storage.list_objects(f"{again}/audio", ".flac")
    assert before[first] == storage.read_bytes(second.uri)
    other = ["--recipe", recipe, "--output-dir", str(tmp_path / "other"), "--precision", "bfloat16"]
    assert_one_message(command(generate, *other), "float32", "--precision", "leave it out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("requested", ["auto", "float32"])
def test_a_device_that_is_not_there_is_told_before_the_run_begins(
    requested: Precision, tmp_path: Path, ray_session: None
) -> None:
    place = SimpleNamespace(output_dir=str(tmp_path), overwrite=False, address=None)
    with (
        pytest.raises(SoundStormError, match="Ray sees no GPU: use --device cpu"),
        job_precision(requested, place, "train", device="cuda"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_recipe_of_an_unknown_precision_is_refused(one_clip: str, tmp_path: Path, command: Command) -> None:
    [made] = Path(one_clip, "audio").rglob("*.json")
    clip = json.loads(made.read_text())
    clip["recipe"]["precision"] = "float8"
    path = tmp_path / made.name
    path.write_text(json.dumps(clip))
    again = ["--recipe", str(path), "--output-dir", str(tmp_path / "again")]
    assert_one_message(command(generate, *again), "precision 'float8' is unknown", "the version that wrote the recipe")


NODES = """
import os
import time
import ray
import torch
from ray.cluster_utils import Cluster
from cluster.runtime.connect import connect
from jobs.actors import job_precision
from jobs.actors.job_precision import JobPrecision, ask_nodes
from tests.support.fork_server import forked_workers

def processor():
    '''The processor of the node of a worker.'''
    if "SILENT" in os.environ:
        time.sleep(600)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        setattr(torch.cpu, name, lambda: "EMULATES" not in os.environ)

processor()
with forked_workers():
    alone = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False}
    nodes = Cluster(initialize_head=True, head_node_args=alone)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR",
             runtime_env={"worker_process_setup_hook": processor})
    with connect() as info:
        assert ask_nodes(info).precision == "bfloat16" and ask_nodes(info).is_of_nodes
        assert not ask_nodes(info, "cuda").is_of_nodes  # the cluster might start some
        nodes.add_node(num_cpus=1)
        nodes.add_node(num_cpus=0, env_vars={"EMULATES": "1"})  # holds no actor
        nodes.wait_for_nodes()
        assert ask_nodes(info).precision == "bfloat16"
        silent = nodes.add_node(num_cpus=1, env_vars={"SILENT": "1"})
        nodes.wait_for_nodes()
        job_precision.ANSWER_S, patience = 5, job_precision.ANSWER_S
        answers = ask_nodes(info)
        assert (len(answers.slow), len(answers.silent), answers.precision) == (0, 1, "float32")
        assert JobPrecision(name="bfloat16").of_actors(info) == "bfloat16"  # nobody is known to emulate it
        job_precision.ANSWER_S = patience
        nodes.remove_node(silent)
        nodes.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:H100": 1}, env_vars={"EMULATES": "1"})
        nodes.wait_for_nodes()
        assert ask_nodes(info, "cuda").precision == "bfloat16"
        nodes.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:T4": 1})
        nodes.wait_for_nodes()
        for device in ("cpu", "cuda"):
            answers = ask_nodes(info, device)
            assert (len(answers.slow), len(answers.silent)) == (1, 0)
            assert JobPrecision(name=None, device=device).of_actors(info) == "float32"
            assert JobPrecision(name="bfloat16", device=device).of_actors(info) == "bfloat16"  # with a warning
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


def test_nodes_that_could_not_be_asked_are_named_with_the_way_out(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = NodeAnswers(slow=[], silent=["10.0.0.7"])
    monkeypatch.setattr(jobs.actors.job_precision, "ask_nodes", lambda *_: silent)
    place = SimpleNamespace(output_dir=str(tmp_path), overwrite=False, address=None)
    with job_precision("auto", place, "train") as precision:
        assert precision.name == "float32" and precision.is_checked
    told = " ".join(capsys.readouterr().err.split())
    assert "10.0.0.7 could not be asked within 120 s" in told and "--overwrite --precision bfloat16" in told
