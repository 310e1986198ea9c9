"""`soundstorm generate --layout webdataset`: the same sounds in tar archives, which the webdataset library and
`evaluate` read."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import webdataset

from cluster import storage, tables
from cluster.errors import ClusterError
from cluster.tables.tar_shards import TarMemberReader
from jobs import evaluate, generate
from jobs.inputs.clips import find_clips
from tests.jobs.conftest import NUM_SAMPLES, evaluate_options, generate_options


@pytest.fixture(scope="module")
def archives(checkpoint: str, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> str:
    """The output folder of a run with two actors."""
    output = str(tmp_path_factory.mktemp("webdataset") / "out")
    generate.run(generate_options(checkpoint, output, layout="webdataset"))
    return output


def contents(output: str) -> dict[str, bytes]:
    root = storage.absolute(output)
    return {
        entry.uri[len(root) + 1 :]: storage.read_bytes(entry.uri)
        for entry in storage.list_objects(storage.join(output, "audio"))
    }


def test_the_sounds_are_those_of_single_files_in_one_archive_a_part(archives: str, generated: str) -> None:
    rows, expected = (tables.read_table(f"{output}/samples.parquet")[0].to_pylist() for output in (archives, generated))
    assert [(row["sample_id"], row["sha256"]) for row in rows] == [
        (row["sample_id"], row["sha256"]) for row in expected
    ]
    assert contents(archives).keys() == {f"audio/{part:02d}/part-{part:07d}.tar" for part in range(3)}
    reader = TarMemberReader()
    assert all(hashlib.sha256(reader.read(row["uri"])).hexdigest() == row["sha256"] for row in rows)


def test_the_bytes_do_not_depend_on_the_worker_or_the_storage(
    archives: str, checkpoint: str, s3_bucket: Callable[[], str]
) -> None:
    output = f"{s3_bucket()}/out"
    generate.run(generate_options(checkpoint, output, layout="webdataset", num_actors=1))
    assert contents(output) == contents(archives)


def test_the_webdataset_library_reads_sound_and_labels(archives: str) -> None:
    urls = [str(path) for path in sorted(Path(archives, "audio").glob("*/*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    rows = {row["sample_id"]: row for row in tables.read_table(f"{archives}/samples.parquet")[0].to_pylist()}
    assert len(samples) == NUM_SAMPLES and {sample["__key__"] for sample in samples} == rows.keys()
    for sample in samples:
        about, row = json.loads(sample["json"]), rows[sample["__key__"]]
        assert about.pop("recipe")["edit"] == "new" and 1 <= about.pop("batch_size") <= 8
        assert about == {name: value for name, value in row.items() if name != "uri"} | {"sample_rate": 24_000}
        waveform, rate = soundfile.read(io.BytesIO(sample["flac"]))
        assert rate == 24_000 and len(waveform) == 24_000


def test_evaluate_measures_what_lies_in_archives(archives: str, synthetic_dataset: Path, tmp_path: Path) -> None:
    assert len(find_clips("--generated-audio", archives)) == NUM_SAMPLES
    output = str(tmp_path / "out")
    evaluate.run(evaluate_options(str(synthetic_dataset), archives, output, metrics="acoustic", clips_per_class=1))
    metrics = tables.read_table(f"{output}/metrics.parquet")[0].to_pylist()
    assert sum(row["source"] == "generated" for row in metrics) == NUM_SAMPLES


def test_another_layout_at_the_same_place_is_refused(archives: str, checkpoint: str) -> None:
    with pytest.raises(ClusterError, match='layout: then "webdataset", now "files"'):
        generate.run(generate_options(checkpoint, archives))
