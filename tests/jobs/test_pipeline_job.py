"""`soundstorm pipeline`: every stage from a dataset in a folder to a report in object storage, and the same command
again."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cluster import storage, tables
from cluster.errors import ClusterError
from jobs import pipeline
from jobs.inputs.checkpoints import checkpoint_files, open_checkpoint
from soundstorm.audio.synthesis import CLASSES
from soundstorm.data.synthetic import write_dataset
from soundstorm.errors import SoundStormError
from soundstorm.serialization.provenance import Role, TrainedOn
from soundstorm.serialization.recordings import content_of
from tests.jobs.conftest import interrupt

STAGES = ("tokenize", "train", "generate", "evaluate")
NUM_SAMPLES = 10


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of each synthetic class, half a second long; one of them is broken."""
    folder = tmp_path_factory.mktemp("small")
    write_dataset(folder, clips_per_class=2, seed=1, duration_s=0.5)
    sorted((folder / "audio").iterdir())[0].write_bytes(b"no sound at all")
    return folder


def options(dataset: Path, codec: Path, output: str, **changes: Any) -> pipeline.Options:
    settings: dict[str, Any] = {
        "epochs": 1,
        "num_samples": NUM_SAMPLES,
        "duration": 0.5,
        "max_rejected": 0.05,
        "fold": 1,
        "clips_per_class": 2,
    }
    return pipeline.Options(
        dataset="synthetic", data_dir=str(dataset), codec=str(codec), output_dir=output, **(settings | changes)
    )


@pytest.fixture(scope="module")
def piped(small_dataset: Path, tiny_codec: Path, s3: Any, ray_session: None) -> dict[str, Any]:
    """The summary of a whole run."""
    return pipeline.run(options(small_dataset, tiny_codec, f"{s3.make_bucket()}/some/prefix"))


def objects(output: str) -> dict[str, bytes]:
    return {entry.uri: storage.read_bytes(entry.uri) for entry in storage.list_objects(output)}


def test_every_stage_leaves_its_tables_and_its_record(piped: dict[str, Any]) -> None:
    output = piped["output_dir"]
    records = {stage: json.loads(storage.read_bytes(f"{output}/{stage}/{stage}.json")) for stage in STAGES}
    assert records["tokenize"]["counts"]["reasons"] == {"not_audio": 1}
    rows = {
        table: tables.table_info(f"{output}/{table}").num_rows
        for table in ("tokenize/tokens", "tokenize/rejected", "tokenize/clips.parquet")
    }
    assert rows == {"tokenize/tokens": 19, "tokenize/rejected": 1, "tokenize/clips.parquet": 20}
    assert tables.table_info(f"{output}/generate/samples.parquet").num_rows == NUM_SAMPLES
    assert tables.table_info(f"{output}/evaluate/metrics.parquet").num_rows == 19 + 19 + NUM_SAMPLES
    assert tables.table_info(f"{output}/evaluate/pairs.parquet").num_rows == NUM_SAMPLES
    assert storage.exists(f"{output}/train/checkpoint/model.safetensors")
    report = storage.read_bytes(f"{output}/evaluate/report.html").decode()
    assert all(category in report for category in CLASSES) and "<audio" in report
    assert "report.html" in piped["message"]


def test_the_checkpoint_says_which_clips_it_and_its_codec_were_trained_on(
    piped: dict[str, Any], small_dataset: Path
) -> None:
    uri = f"{piped['output_dir']}/train"
    found = open_checkpoint(checkpoint_files(uri), uri=uri).provenance
    assert isinstance(found, TrainedOn)
    [recordings], [codec] = found.recordings, found.parents
    files = {
        content_of(path.read_bytes())
        for path in sorted((small_dataset / "audio").iterdir())[1:]
        if not path.name.startswith("1-")
    }
    assert (recordings.dataset, recordings.folds, recordings.contents) == ("synthetic", (2, 3, 4, 5), files)
    assert (codec.role, codec.name, codec.trained_on) == (Role.CODEC, "tiny", TrainedOn())


def test_the_same_command_again_repeats_no_stage(
    piped: dict[str, Any], small_dataset: Path, tiny_codec: Path, capsys: Any
) -> None:
    before = objects(piped["output_dir"])
    capsys.readouterr()
    again = pipeline.run(options(small_dataset, tiny_codec, piped["output_dir"]))
    assert again["message"].startswith("already done")
    assert capsys.readouterr().err.count("already ") == len(STAGES)
    assert objects(piped["output_dir"]) == before


def test_after_an_interruption_only_the_unfinished_stage_is_done(
    piped: dict[str, Any], small_dataset: Path, tiny_codec: Path
) -> None:
    output = piped["output_dir"]
    before = objects(output)
    interrupt(f"{output}/evaluate", "evaluate")
    storage.delete(f"{output}/evaluate/report.html")
    pipeline.run(options(small_dataset, tiny_codec, output))
    after = objects(output)
    assert after.keys() == before.keys()
    changed = {uri.removeprefix(output) for uri, content in after.items() if before[uri] != content}
    assert changed <= {"/evaluate/evaluate.json", "/evaluate/report.html"}


def test_a_stage_with_other_settings_is_not_replaced_unasked(
    piped: dict[str, Any], small_dataset: Path, tiny_codec: Path
) -> None:
    before = objects(piped["output_dir"])
    with pytest.raises(
        ClusterError, match=r"'generate' was made there with other settings: num_samples: then 10, now 11"
    ):
        pipeline.run(options(small_dataset, tiny_codec, piped["output_dir"], num_samples=11))
    assert objects(piped["output_dir"]) == before


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_the_synthetic_dataset_is_made_once_where_none_is_given(
    place: str, tmp_path: Path, s3_bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "CLIPS_PER_CLASS", 1)
    root = str(tmp_path) if place == "disk" else s3_bucket()
    folder = storage.join(root, "dataset")
    asked = pipeline.Options(output_dir=root)
    assert pipeline._dataset(asked, folder) == folder
    made = objects(folder)
    assert len([uri for uri in made if uri.endswith(".wav")]) == len(CLASSES)
    pipeline._dataset(asked, folder)
    assert objects(folder) == made
    assert pipeline._dataset(pipeline.Options(dataset="esc10", output_dir=root), folder) == "data/esc10"


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"duration": 0.01}, "--duration"), ({"clips_per_class": 0}, "--clips-per-class"), ({"epochs": 0}, "--epochs")],
)
def test_a_wrong_value_of_a_late_stage_is_told_before_the_first_begins(
    changes: dict[str, Any], name: str, small_dataset: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    with pytest.raises(SoundStormError, match=f"^{name} is "):
        pipeline.run(options(small_dataset, tiny_codec, str(tmp_path / "out"), **changes))
    assert not objects(str(tmp_path / "out"))


def test_a_disk_that_fills_up_under_the_synthetic_dataset_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(folder: Path, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("jobs.inputs.synthetic_dataset.write_dataset", fill_up)
    with pytest.raises(ClusterError, match=f"^{tmp_path}/dataset: the disk is full"):
        pipeline._dataset(pipeline.Options(output_dir=str(tmp_path)), str(tmp_path / "dataset"))
    assert not (tmp_path / "dataset" / "dataset.json").exists()
