"""A record marks a finished stage, and keeps output of different settings apart."""

from pathlib import Path

import pytest

from cluster import records, storage
from cluster.errors import ClusterError

SETTINGS = {"dataset": "esc10", "iterations": (12, 4), "sampler": {"temperature": 0.9, "top_p": None}, "data_dir": Path("/data")}


def test_a_finished_stage_is_found_again_with_what_it_made(storage_root: str) -> None:
    assert records.begin(storage_root, "tokenize", SETTINGS) is None
    assert records.finished(storage_root, "tokenize", SETTINGS) is None  # begun is not finished
    written = records.finish(storage_root, "tokenize", SETTINGS, {"clips": 400, "rejected": 0})
    assert records.begin(storage_root, "tokenize", dict(reversed(SETTINGS.items()))) == written  # the order of keys does not matter
    assert records.finished(storage_root, "tokenize", SETTINGS) == written
    assert written.counts == {"clips": 400, "rejected": 0}
    assert written.settings["iterations"] == [12, 4] and written.settings["data_dir"] == "/data"
    assert written.versions["ray"].startswith("2.") and written.started <= written.finished
    assert [entry.uri for entry in storage.list_objects(storage_root)] == [storage.join(storage_root, "tokenize.json")]


def test_a_stage_that_was_cut_short_goes_on_with_the_same_settings(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert records.begin(root, "generate", SETTINGS) is None
    storage.write_bytes(storage.join(root, "audio", "a.flac"), b"done before")
    assert records.begin(root, "generate", SETTINGS) is None
    assert storage.exists(storage.join(root, "audio", "a.flac"))


@pytest.mark.parametrize("finish", [True, False])
def test_other_settings_are_refused_with_both_values(tmp_path: Path, finish: bool) -> None:
    root = str(tmp_path)
    records.begin(root, "generate", SETTINGS)
    if finish:
        records.finish(root, "generate", SETTINGS, {})
    other = {"dataset": "esc50", "iterations": [12, 4], "sampler": {"temperature": 1.0, "top_p": None}, "seed": 1, "data_dir": "/data"}
    with pytest.raises(ClusterError) as error:
        records.begin(root, "generate", other)
    text = str(error.value)
    assert 'dataset: then "esc10", now "esc50"; sampler.temperature: then 0.9, now 1.0; seed: then not set, now 1.' in text
    assert "--overwrite" in text and "--output-dir" in text and root in text
    assert "iterations" not in text and "data_dir" not in text


def test_overwrite_starts_afresh_and_deletes_only_the_stage_s_own_output(storage_root: str) -> None:
    for name in ("clips.parquet", "tokens/part-00000.parquet", "mine.txt"):
        storage.write_bytes(storage.join(storage_root, name), b"old")
    records.finish(storage_root, "tokenize", SETTINGS, {})
    outputs = ["clips.parquet", "tokens"]
    assert records.begin(storage_root, "tokenize", {"dataset": "esc50"}, overwrite=True, outputs=outputs) is None
    assert not storage.exists(records.record_uri(storage_root, "tokenize"))
    left = [entry.uri.rpartition("/")[2] for entry in storage.list_objects(storage_root)]
    assert left == ["mine.txt", "tokenize.started.json"]
    with pytest.raises(ClusterError, match="cannot be a name below"):
        records.begin(storage_root, "tokenize", {}, overwrite=True, outputs=["../elsewhere"])


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
        records.begin(storage_root, "generate", SETTINGS, overwrite=overwrite, outputs=["audio", "parts"])
    assert storage.read_bytes(storage.join(storage_root, "audio", "mine.wav")) == b"a recording"
