"""A record marks a finished stage, and keeps output of different settings apart."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import storage
from cluster.errors import ClusterError
from cluster.tables import stage_record as records

SETTINGS = {
    "dataset": "esc10",
    "iterations": (12, 4),
    "sampler": {"temperature": 0.9, "top_p": None},
    "data_dir": Path("/data"),
}


def test_a_finished_stage_is_found_again_with_what_it_made(storage_root: str) -> None:
    assert records.start_stage(storage_root, "tokenize", SETTINGS) is None
    assert records.finished(storage_root, "tokenize", SETTINGS) is None  # begun is not finished
    written = records.complete_stage(storage_root, "tokenize", SETTINGS, {"clips": 400, "rejected": 0})
    assert (
        records.start_stage(storage_root, "tokenize", dict(reversed(SETTINGS.items()))) == written
    )  # the order of keys does not matter
    assert records.finished(storage_root, "tokenize", SETTINGS) == written
    assert written.counts == {"clips": 400, "rejected": 0}
    assert written.settings["iterations"] == [12, 4] and written.settings["data_dir"] == "/data"
    assert written.versions["ray"].startswith("2.") and written.started <= written.finished
    assert [entry.uri for entry in storage.list_objects(storage_root)] == [storage.join(storage_root, "tokenize.json")]


def test_a_stage_that_was_cut_short_goes_on_with_the_same_settings(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert records.start_stage(root, "generate", SETTINGS) is None
    storage.write_bytes(storage.join(root, "audio", "a.flac"), b"done before")
    assert records.start_stage(root, "generate", SETTINGS) is None
    assert storage.exists(storage.join(root, "audio", "a.flac"))


def test_a_stage_whose_driver_was_killed_just_after_its_record_was_written_is_finished_and_not_begun_as_well(
    storage_root: str,
) -> None:
    records.start_stage(storage_root, "generate", SETTINGS)
    begun = storage.join(storage_root, "generate.started.json")
    content = storage.read_bytes(begun)
    written = records.complete_stage(storage_root, "generate", SETTINGS, {"samples": 1})
    storage.write_bytes(begun, content)
    assert records.start_stage(storage_root, "generate", SETTINGS, outputs=["audio"]) == written
    assert not storage.exists(begun)  # by which `evaluate` tells an unfinished run


@pytest.mark.parametrize("finish", [True, False])
def test_other_settings_are_refused_with_both_values(tmp_path: Path, finish: bool) -> None:
    root = str(tmp_path)
    records.start_stage(root, "generate", SETTINGS)
    if finish:
        records.complete_stage(root, "generate", SETTINGS, {})
    other = {
        "dataset": "esc50",
        "iterations": [12, 4],
        "sampler": {"temperature": 1.0, "top_p": None},
        "seed": 1,
        "data_dir": "/data",
    }
    with pytest.raises(ClusterError) as error:
        records.start_stage(root, "generate", other)
    text = str(error.value)
    assert (
        'dataset: then "esc10", now "esc50"; sampler.temperature: then 0.9, now 1.0; seed: then not set, now 1.' in text
    )
    assert "--overwrite" in text and "--output-dir" in text and root in text
    assert "iterations" not in text and "data_dir" not in text


def test_overwrite_starts_afresh_and_deletes_only_the_stage_s_own_output(storage_root: str) -> None:
    for name in ("clips.parquet", "tokens/part-00000.parquet", "mine.txt"):
        storage.write_bytes(storage.join(storage_root, name), b"old")
    records.complete_stage(storage_root, "tokenize", SETTINGS, {})
    outputs = ["clips.parquet", "tokens"]
    assert records.start_stage(storage_root, "tokenize", {"dataset": "esc50"}, overwrite=True, outputs=outputs) is None
    assert not storage.exists(records.record_uri(storage_root, "tokenize"))
    left = [entry.uri.rpartition("/")[2] for entry in storage.list_objects(storage_root)]
    assert left == ["mine.txt", "tokenize.started.json"]
    with pytest.raises(ClusterError, match="cannot be a name below"):
        records.start_stage(storage_root, "tokenize", {}, overwrite=True, outputs=["../elsewhere"])


@pytest.mark.parametrize("remote", [False, True])
def test_of_many_runs_with_other_settings_begun_at_once_all_but_one_are_refused(
    remote: bool, tmp_path: Path, s3_bucket: Callable[[], str]
) -> None:
    root = f"{s3_bucket()}/out" if remote else str(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(records.start_stage, root, "generate", {"seed": seed}) for seed in range(8)]
    errors = [run.exception() for run in runs]
    assert errors.count(None) == 1
    assert all(
        "'generate' was started there with other settings: seed" in str(error) for error in errors if error is not None
    )
    records.complete_stage(
        root, "generate", {"seed": errors.index(None)}, {}
    )  # nor is its place taken by another of them


def test_many_runs_with_the_same_settings_may_begin_and_finish_at_once(storage_root: str) -> None:
    def run(number: int) -> bool:
        begun = records.start_stage(storage_root, "generate", SETTINGS, outputs=["audio"]) is None
        storage.write_bytes(storage.join(storage_root, "audio", "a.flac"), b"the same bytes")
        records.complete_stage(storage_root, "generate", SETTINGS, {"samples": 1})
        return begun

    with ThreadPoolExecutor(8) as pool:
        assert any(pool.map(run, range(16)))
    record = records.start_stage(storage_root, "generate", SETTINGS)
    assert record is not None and record.counts == {"samples": 1}


def test_an_overwrite_that_was_cut_short_can_be_done_again(tmp_path: Path) -> None:
    root = str(tmp_path)
    storage.write_bytes(storage.join(root, "parts", "00", "part.parquet"), b"left by the first")
    records.start_stage(root, "generate", records.INTERRUPTED_OVERWRITE)
    with pytest.raises(ClusterError, match=r'overwrite: then "cut short".*--overwrite'):
        records.start_stage(root, "generate", SETTINGS, outputs=["audio", "parts"])
    assert records.start_stage(root, "generate", SETTINGS, overwrite=True, outputs=["audio", "parts"]) is None
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"settings": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_malformed_record_is_named_and_not_taken_for_finished(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.json").write_bytes(content)
    with pytest.raises(ClusterError, match=r"train\.json: not a record") as error:
        records.finished(str(tmp_path), "train", {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_no_run_of_the_stage_made_is_neither_deleted_nor_mixed_with(storage_root: str, overwrite: bool) -> None:
    storage.write_bytes(storage.join(storage_root, "audio", "mine.wav"), b"a recording")
    with pytest.raises(ClusterError, match="holds 'audio', which no run of 'generate' made"):
        records.start_stage(storage_root, "generate", SETTINGS, overwrite=overwrite, outputs=["audio", "parts"])
    assert storage.read_bytes(storage.join(storage_root, "audio", "mine.wav")) == b"a recording"


def test_settings_that_are_free_may_change_on_the_way_and_after(tmp_path: Path) -> None:
    uri = str(tmp_path)
    assert records.start_stage(uri, "train", {"lr": 1, "workers": 2}, free=("workers",)) is None
    assert records.is_begun(uri, "train")
    assert records.start_stage(uri, "train", {"lr": 1, "workers": 1}, free=("workers",)) is None
    with pytest.raises(ClusterError, match=r"settings: lr: then 1, now 2\. Use"):
        records.start_stage(uri, "train", {"lr": 2, "workers": 1}, free=("workers",))
    records.complete_stage(uri, "train", {"lr": 1, "workers": 1}, {})
    assert not records.is_begun(uri, "train")
    assert records.start_stage(uri, "train", {"lr": 1}, free=("workers",)) is not None
