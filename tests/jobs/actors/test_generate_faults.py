"""`soundstorm generate` when things go wrong or happen twice: nothing is lost or mixed up, and what is missing is said
and made by the next run."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster import storage, tables
from cluster.errors import ClusterError
from jobs import generate
from jobs.actors.generator import Generator
from jobs.actors.sharded_output import settings_digest
from jobs.inputs.checkpoints import checkpoint_files
from soundstorm.codec.files import packaged_codec_bytes
from soundstorm.errors import SoundStormError
from soundstorm.model.config import SamplerSettings
from soundstorm.schemas import FAILED
from tests.jobs.conftest import (
    NUM_SAMPLES,
    SAMPLES_SHARD,
    Command,
    assert_one_message,
    file_times,
    generate_options,
    interrupt,
)

pytestmark = pytest.mark.usefixtures("ray_session")


def sha256_of(output: str) -> dict[str, str]:
    """Every sample of the manifest; its audio must be there with these bytes, and nothing beside it but its recipe."""
    rows = tables.read_table(storage.join(output, "samples.parquet"))[0].to_pylist()
    found = {row["sample_id"]: row["sha256"] for row in rows}
    entries = storage.list_objects(storage.join(output, "audio"))
    files = {
        Path(entry.uri).stem: storage.read_bytes(entry.uri) for entry in entries if not entry.uri.endswith(".json")
    }
    assert {Path(entry.uri).stem for entry in entries if entry.uri.endswith(".json")} == found.keys()
    assert {name: hashlib.sha256(content).hexdigest() for name, content in files.items()} == found and len(rows) == len(
        found
    )
    return found


@pytest.fixture
def unfinished(generated: str, tmp_path: Path) -> Path:
    """A copy of a finished run, without its record, its manifest, and part 1 with its audio."""
    output = Path(shutil.copytree(generated, tmp_path / "out"))
    interrupt(str(output), "generate")
    (output / "samples.parquet").unlink()
    (output / "parts" / "01" / "part-0000001.parquet").unlink()
    for number in range(SAMPLES_SHARD, 2 * SAMPLES_SHARD):
        shutil.rmtree(output / "audio" / f"{number:02d}")
    return output


def test_a_part_that_cannot_be_made_is_set_aside_with_its_error_and_tried_again_by_the_next_run(
    generated: str, checkpoint: str, unfinished: Path, command: Command
) -> None:
    block = unfinished / "audio" / "11"
    block.write_text("a file where a folder is needed")
    arguments = [
        "--checkpoint",
        checkpoint,
        "--output-dir",
        str(unfinished),
        "--num-samples",
        str(NUM_SAMPLES),
        "--duration",
        "1",
        "--seed",
        "5",
    ]
    arguments += ["--shard-size", str(SAMPLES_SHARD), "--num-actors", "1"]
    before = file_times(str(unfinished))
    assert_one_message(
        command(generate, *arguments),
        "1 of 3 shards failed",
        f"8 of {NUM_SAMPLES} clips are missing",
        "audio/11",
        "failed.parquet",
        "run the same command again",
    )
    [row] = tables.read_table(str(unfinished / "failed.parquet"))[0].cast(FAILED).to_pylist()
    assert (row["part"], row["first_item"], row["num_items"]) == (
        1,
        SAMPLES_SHARD,
        SAMPLES_SHARD,
    ) and "audio/11" in row["error"]
    assert not (unfinished / "samples.parquet").exists() and not (unfinished / "generate.json").exists()
    after = file_times(str(unfinished))
    assert {name: after[name] for name in before} == before
    block.unlink()
    code, _, err = command(generate, *arguments)
    assert code == 0, err
    assert sha256_of(str(unfinished)) == sha256_of(generated)
    assert not (unfinished / "failed.parquet").exists()


def test_two_runs_at_once_in_one_folder_end_with_the_result_of_one(
    generated: str, checkpoint: str, tmp_path: Path
) -> None:
    options = generate_options(checkpoint, str(tmp_path / "out"), num_actors=1)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(generate.run, options) for _ in range(2)]
        assert [run.result()["samples"] for run in both] == [NUM_SAMPLES, NUM_SAMPLES]
    assert sha256_of(options.output_dir) == sha256_of(generated)
    assert not storage.exists(f"{options.output_dir}/generate.started.json")


def test_an_actor_that_was_given_up_changes_nothing_once_another_has_made_its_part(
    generated: str, checkpoint: str, unfinished: Path
) -> None:
    settings = settings_digest(json.loads((unfinished / "generate.started.json").read_text())["settings"])
    job = {
        "output_dir": str(unfinished),
        "layout": "files",
        "format": "flac",
        "duration_s": 1.0,
        "seed": 6,
        "settings": settings,
    }
    model = [ray.put((checkpoint_files(checkpoint), packaged_codec_bytes(), None))]
    late = Generator(model, SamplerSettings(iterations=1), None, job, "cpu")
    work = ("01/part-0000001.parquet", [(number, number % 10) for number in range(SAMPLES_SHARD, 2 * SAMPLES_SHARD)])
    draw = late.waveforms

    def slowly(*arguments: Any) -> Any:
        waveforms = draw(*arguments)
        generate.run(generate_options(checkpoint, str(unfinished), num_actors=1))  # meanwhile
        return waveforms

    late.waveforms = slowly  # type: ignore[method-assign]
    assert late.generate_shard(work) == SAMPLES_SHARD
    assert sha256_of(str(unfinished)) == sha256_of(generated)
    late.waveforms = draw  # type: ignore[method-assign]
    before = file_times(str(unfinished))
    assert late.generate_shard(work) == SAMPLES_SHARD
    assert file_times(str(unfinished)) == before


def test_a_manifest_that_cannot_be_written_costs_no_part(generated: str, checkpoint: str, unfinished: Path) -> None:
    shutil.copytree(generated, unfinished, dirs_exist_ok=True)
    interrupt(str(unfinished), "generate")
    manifest = unfinished / "samples.parquet"
    manifest.unlink()
    manifest.mkdir()
    before = file_times(str(unfinished / "parts"))
    with pytest.raises(ClusterError, match=r"samples\.parquet is a folder"):
        generate.run(generate_options(checkpoint, str(unfinished)))
    assert not (unfinished / "generate.json").exists()
    manifest.rmdir()
    assert generate.run(generate_options(checkpoint, str(unfinished)))["samples"] == NUM_SAMPLES
    assert file_times(str(unfinished / "parts")) == before and (unfinished / "generate.json").exists()


def test_a_manifest_that_was_lost_or_damaged_after_the_run_is_made_again_also_without_parts(
    generated: str, checkpoint: str, tmp_path: Path
) -> None:
    output = Path(shutil.copytree(generated, tmp_path / "out"))
    manifest = output / "samples.parquet"
    manifest.unlink()
    generate.run(generate_options(checkpoint, str(output)))
    content = manifest.read_bytes()  # with the URIs of this folder
    for damage in (lambda: manifest.unlink(), lambda: manifest.write_bytes(content[:100])):
        damage()
        assert not generate.run(generate_options(checkpoint, str(output)))["message"].startswith("already done")
        assert manifest.read_bytes() == content
    shutil.rmtree(output / "parts")
    assert generate.run(generate_options(checkpoint, str(output)))["message"].startswith("already done")
    manifest.unlink()
    generate.run(generate_options(checkpoint, str(output)))
    assert sha256_of(str(output)) == sha256_of(generated)


def test_a_part_of_other_settings_is_not_taken_for_one_of_this_run(
    generated: str, checkpoint: str, unfinished: Path
) -> None:
    part = unfinished / "parts" / "01" / "part-0000001.parquet"
    table, metadata = tables.read_table(f"{generated}/parts/01/part-0000001.parquet")
    tables.write_table(str(part), table, metadata | {"settings_sha256": "0" * 64})
    with pytest.raises(SoundStormError, match=r"part-0000001\.parquet was written with other settings"):
        generate.run(generate_options(checkpoint, str(unfinished)))
    assert not (unfinished / "samples.parquet").exists() and not (unfinished / "generate.json").exists()
