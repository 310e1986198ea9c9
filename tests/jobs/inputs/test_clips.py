"""Which audio files an evaluation compares, and with which."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cluster import storage, tables
from cluster.errors import ClusterError
from jobs.inputs.audio_files import load_clip
from jobs.inputs.clips import Clip, draw_per_category, find_clips, fingerprint_of_clips, pair_up, with_sizes
from jobs.inputs.datasets import index_digest, open_dataset
from soundstorm.audio.files import RejectedAudio
from soundstorm.audio.synthesis import CLASSES
from soundstorm.data.categories import normalized
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CLIPS, REJECTED, SAMPLES


def clip(name: str, category: str = "rain", fold: int = 1) -> Clip:
    return Clip(name, f"/audio/{name}.wav", category, fold)


def clips_table(names: list[str]) -> pa.Table:
    rows = [
        {"clip_id": name, "dataset": "folder", "uri": f"/a/{name}.wav", "fold": 2, "label": 0, "category": "rain"}
        for name in names
    ]
    return pa.Table.from_pylist(rows, CLIPS)


# ---- where clips are found


def test_a_folder_of_audio_has_its_sub_folders_as_categories(tmp_path: Path) -> None:
    for name in ("b/2.WAV", "b/1.flac", "a/deep/3.ogg", "4.mp3", "notes.txt", "b/1.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    found = find_clips("--real-audio", str(tmp_path))
    assert [(one.clip_id, one.category) for one in found] == [
        ("4.mp3", "all"),
        ("a/deep/3.ogg", "deep"),
        ("b/1.flac", "b"),
        ("b/1.wav", "b"),
        ("b/2.WAV", "b"),
    ]
    assert [one.uri for one in found] == [str(tmp_path / one.clip_id) for one in found]


def test_a_link_that_leads_nowhere_is_a_clip_which_is_rejected_by_name_where_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "b.wav").symlink_to("nowhere.wav")
    found = find_clips("--real-audio", str(tmp_path))
    assert [one.clip_id for one in found] == ["a.wav", "b.wav"]
    with pytest.raises(RejectedAudio, match=r"missing_file: .*b.wav does not exist"):
        load_clip(found[1].uri)


def test_a_folder_in_object_storage_is_found_alike(s3_bucket: Any) -> None:
    root = f"{s3_bucket()}/prefix"
    storage.write_bytes(f"{root}/rain/1.wav", b"12345")
    [found] = find_clips("--real-audio", root)
    assert (found.clip_id, found.uri, found.category) == ("rain/1.wav", f"{root}/rain/1.wav", "rain")


def test_the_output_of_generate_is_read_from_its_manifest(tmp_path: Path) -> None:
    row = {
        "sample_id": "rain-0",
        "label": 0,
        "category": "rain",
        "seed": 1,
        "num_frames": 2,
        "duration_s": 0.02,
        "uri": "/x.flac",
        "sha256": "ab",
    }
    tables.write_table(str(tmp_path / "samples.parquet"), pa.Table.from_pylist([row], SAMPLES), {})
    expected = [Clip("rain-0", "/x.flac", "rain", 0, "ab")]
    assert find_clips("--generated-audio", str(tmp_path)) == expected
    assert find_clips("--generated-audio", str(tmp_path / "samples.parquet")) == expected


def test_what_tokenize_could_not_use_is_left_out_and_what_a_duplicate_duplicates_is_not(tmp_path: Path) -> None:
    tables.write_table(str(tmp_path / "clips.parquet"), clips_table(["good", "broken", "twice"]), {})
    for part, (clip_id, stage) in enumerate([("broken", "decode"), ("twice", "index")]):
        row = {"clip_id": clip_id, "uri": "/a", "stage": stage, "reason": "not_audio", "detail": "x"}
        tables.write_table(tables.part_uri(str(tmp_path / "rejected"), part), pa.Table.from_pylist([row], REJECTED), {})
    assert [(one.clip_id, one.fold) for one in find_clips("--real-audio", str(tmp_path))] == [("good", 2), ("twice", 2)]


def test_the_folder_of_a_dataset_is_read_through_its_table(synthetic_dataset: Path) -> None:
    found = find_clips("--real-audio", str(synthetic_dataset))
    assert Counter(one.category for one in found) == dict.fromkeys(CLASSES, 5)
    assert {one.fold for one in found} == {1, 2, 3, 4, 5}


def test_a_recording_that_was_changed_changes_the_digest_of_its_dataset(
    synthetic_dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(synthetic_dataset, tmp_path / "data")
    before = find_clips("--real-audio", str(tmp_path / "data"))
    assert all(int(one.version) > 0 for one in before)
    with Path(before[3].uri).open("ab") as file:
        file.write(b"more")
    after = find_clips("--real-audio", str(tmp_path / "data"))
    assert fingerprint_of_clips(after) != fingerprint_of_clips(before) and fingerprint_of_clips(
        after[:3]
    ) == fingerprint_of_clips(before[:3])


@pytest.mark.parametrize("table", ["meta/labels.csv", "labels.tsv"])
def test_a_recording_that_was_changed_changes_the_digest_wherever_its_table_lies(table: str, tmp_path: Path) -> None:
    for name in ("audio/a.wav", "audio/b.wav", table):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("filename\tcategory\na.wav\tdog\nb.wav\train\n")

    def found() -> str:
        return index_digest(open_dataset("folder", str(tmp_path / table)).clips)

    before = found()
    assert found() == before
    (tmp_path / "audio" / "b.wav").write_bytes(b"longer than before" * 10)
    assert found() != before


def test_rows_of_a_dataset_that_give_no_clip_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("audio/1-7-A-0.wav", "meta/esc50.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("filename,fold,target,category\n1-7-A-0.wav,1,0,dog\n1-8-A-0.wav,1,0,dog\n")
    assert [one.clip_id for one in find_clips("--real-audio", str(tmp_path))] == ["1-7-A-0"]
    assert (
        f"{tmp_path}: 1 of its rows give no clip, for example row 3 of meta/esc50.csv: audio/1-8-A-0.wav does not exist"
        in capsys.readouterr().err
    )


def test_the_folders_of_the_real_datasets_are_recognised(esc50: Path, urbansound8k: Path) -> None:
    assert len(find_clips("--real-audio", str(esc50))) == 2000
    assert {one.category for one in find_clips("--real-audio", str(urbansound8k))} >= {"children_playing"}


def test_a_broken_dataset_is_told_of_as_what_it_most_likely_is(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text("filename,fold,target\nx.wav,1,0\n")
    with pytest.raises(SoundStormError, match="column 'category' is missing"):
        find_clips("--real-audio", str(tmp_path))


def test_a_place_without_audio_and_a_table_without_rows_or_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match=r"--real-audio .*: no audio"):
        find_clips("--real-audio", str(tmp_path))
    empty, other = str(tmp_path / "empty.parquet"), str(tmp_path / "other.parquet")
    tables.write_table(empty, clips_table([]), {})
    with pytest.raises(SoundStormError, match="no rows"):
        find_clips("--real-audio", empty)
    tables.write_table(other, pa.table({"name": ["a"]}), {})
    with pytest.raises(SoundStormError, match="columns 'uri' and 'sample_id' or 'clip_id' are needed; it has name"):
        find_clips("--real-audio", other)
    with pytest.raises(ClusterError, match=r"nothing\.parquet does not exist"):
        find_clips("--real-audio", str(tmp_path / "nothing.parquet"))


# ---- which are taken


def test_a_draw_takes_so_many_of_each_class_by_its_seed_and_keeps_their_order() -> None:
    clips = [clip(f"{number:02d}", "rain" if number % 3 else "wind") for number in range(30)]
    drawn = draw_per_category(clips, 4, seed=1)
    assert Counter(one.category for one in drawn) == {"rain": 4, "wind": 4}
    assert drawn == sorted(drawn, key=lambda one: one.clip_id)
    assert drawn == draw_per_category(clips, 4, seed=1) != draw_per_category(clips, 4, seed=2)
    assert draw_per_category(clips, 100, seed=1) == draw_per_category(clips, None, seed=1) == clips


def test_pairs_are_of_one_class_however_it_is_spelled_and_real_clips_take_turns() -> None:
    real = [clip("r1", "crying_baby"), clip("w", "wind"), clip("r2", "crying_baby")]
    generated = [clip(f"g{number}", "Crying Baby") for number in range(3)] + [clip("x", "dragon")]
    assert [one.clip_id for one in pair_up(generated, real)] == [
        "r1",
        "r2",
        "r1",
        "r1",
    ]  # no dragon is real: any clip will do


@pytest.mark.parametrize("name", ["Crying Baby", "crying-baby", "crying_baby", "crying__baby"])
def test_spellings_of_a_class_are_one(name: str) -> None:
    assert normalized(name) == "crying_baby"


def test_the_digest_changes_with_names_places_and_contents() -> None:
    one = Clip("a", "/a.wav", "rain", 1, "10")
    others = [
        Clip("b", "/a.wav", "rain", 1, "10"),
        Clip("a", "/b.wav", "rain", 1, "10"),
        Clip("a", "/a.wav", "wind", 1, "10"),
        Clip("a", "/a.wav", "rain", 1, "11"),
    ]
    assert (
        len(
            {fingerprint_of_clips([clip]) for clip in [one, *others]}
            | {fingerprint_of_clips([one, one]), fingerprint_of_clips([])}
        )
        == 7
    )
    assert fingerprint_of_clips([one]) == fingerprint_of_clips([Clip("a", "/a.wav", "rain", 1, "10")])


def test_a_generation_that_was_cut_short_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "audio" / "rain").mkdir(parents=True)
    (tmp_path / "audio" / "rain" / "rain-0000000.flac").write_bytes(b"fLaC")
    (tmp_path / "generate.started.json").write_text("{}")
    with pytest.raises(SoundStormError, match="has not finished there"):
        find_clips("--generated-audio", str(tmp_path))


def test_a_recording_that_grew_is_noticed_in_any_number_of_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"class-{number:03d}/1.wav" for number in range(101)]
    for name in names:
        path = tmp_path / "audio" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345")
    rows = [
        {"clip_id": name, "dataset": "folder", "uri": str(tmp_path / "audio" / name), "fold": 1, "label": 0}
        | {"category": "rain"}
        for name in names
    ]
    tables.write_table(str(tmp_path / "clips.parquet"), pa.Table.from_pylist(rows, CLIPS), {})

    def found() -> list[Clip]:
        return find_clips("--real-audio", str(tmp_path / "clips.parquet"))

    before = found()
    assert {clip.version for clip in before} == {"5"}
    (tmp_path / "audio" / names[7]).write_bytes(b"123456")
    after = found()
    assert [clip.version for clip in after].index("6") == 7
    assert fingerprint_of_clips(before) != fingerprint_of_clips(after)
    monkeypatch.setattr("jobs.inputs.clips.MAX_LISTED_FILES", 100)
    assert {clip.version for clip in found()} == {""}


def test_of_recordings_that_have_no_folder_in_common_no_sizes_are_known() -> None:
    for place in ("s3://bucket-{}/1.wav", "/no-such-folder-{}/1.wav"):
        clips = [replace(clip("1"), uri=place.format(number)) for number in range(101)]
        assert with_sizes(clips) == clips
