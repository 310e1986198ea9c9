"""The index of each layout: published datasets, one's own folders and CSVs, and every row that cannot be used."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem

from cluster import storage
from soundstorm.data.datasets import DATASETS, ESC10_TARGETS, ESC50_CATEGORIES, Index, index_dataset, source_of
from soundstorm.data.layouts import fold_of_source
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CLIPS, REJECTED

ESC_HEADER = "filename,fold,target,category,esc10,src_file,take\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


def esc(root: Path, rows: str, audio: str = "") -> Path:
    """ESC-50's layout with these CSV rows, and with the files named in `audio`."""
    return write(root, {"meta/esc50.csv": ESC_HEADER + rows, **{f"audio/{name}": "x" for name in audio.split()}})


def index(name: str, root: Path) -> Index:
    return index_dataset(name, LocalFileSystem(), str(root), f"file-of/{root.name}")


def rejections(found: Index) -> list[tuple[str, str]]:
    return list(zip(found.rejected["clip_id"].to_pylist(), found.rejected["reason"].to_pylist(), strict=True))


def test_the_real_esc10_recordings_are_indexed_whole_from_the_folder_of_esc50(esc50: Path) -> None:
    found = index("esc10", esc50)
    assert (found.clips.num_rows, found.rejected.num_rows, found.num_folds) == (400, 0, 5)
    assert found.categories == [ESC50_CATEGORIES[target] for target in ESC10_TARGETS]
    assert found.clips.schema.equals(CLIPS)
    assert found.rejected.schema.equals(REJECTED)
    for row in found.clips.to_pylist():
        assert row["clip_id"].startswith(f"{row['fold']}-")
        assert found.categories[row["label"]] == row["category"]
        assert ESC10_TARGETS[row["label"]] == int(row["clip_id"].rpartition("-")[2])
    assert sorted(found.clips["fold"].to_pylist()) == [fold for fold in range(1, 6) for _ in range(80)]


def test_the_real_urbansound8k_recordings_are_indexed_whole(urbansound8k: Path) -> None:
    found = index("urbansound8k", urbansound8k)
    assert (found.clips.num_rows, found.rejected.num_rows, found.num_folds, len(found.categories)) == (15, 0, 10, 10)
    row = found.clips.to_pylist()[0]
    assert row == {
        "clip_id": "100263-2-0-117",
        "dataset": "urbansound8k",
        "uri": "file-of/urbansound8k/audio/fold5/100263-2-0-117.wav",
        "fold": 5,
        "label": 2,
        "category": "children_playing",
        "notes": None,
    }


def test_esc50_keeps_published_numbers_and_esc10_counts_from_zero(tmp_path: Path) -> None:
    rows = "a.wav,1,41,chainsaw,True,1,A\nb.wav,2,49,hand_saw,False,2,A\n"
    esc(tmp_path, rows, "a.wav b.wav")
    assert index("esc50", tmp_path).clips["label"].to_pylist() == [41, 49]
    assert index("esc10", tmp_path).clips.select(["clip_id", "label"]).to_pylist() == [{"clip_id": "a", "label": 9}]
    assert index("esc10", tmp_path).rejected.num_rows == 0


def test_each_bad_row_of_a_csv_is_rejected_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = """good.wav,1,0,dog,True,1,A
gone.wav,1,0,dog,True,1,A
../meta/esc50.csv,1,0,dog,True,1,A
/etc/passwd,1,0,dog,True,1,A
good.wav,2,0,dog,True,1,A
good.ogg,2,0,dog,True,1,A
fold0.wav,0,0,dog,True,1,A
fold6.wav,6,0,dog,True,1,A
foldx.wav,one,0,dog,True,1,A
label50.wav,1,50,dog,True,1,A
negative.wav,1,-1,dog,True,1,A
othername.wav,1,0,cat,True,1,A
,1,0,dog,True,1,A
short.wav
sub/../fine.wav,5,1,rooster,True,2,A
"""
    esc(
        tmp_path,
        rows,
        "good.wav good.ogg fold0.wav fold6.wav foldx.wav label50.wav negative.wav othername.wav short.wav fine.wav",
    )
    found = index("esc50", tmp_path)
    assert found.clips["clip_id"].to_pylist() == ["good", "fine"]
    assert rejections(found) == [
        ("gone", "missing_file"),
        ("../meta/esc50.csv", "outside_data_folder"),
        ("/etc/passwd", "outside_data_folder"),
        ("good", "duplicate_id"),
        ("good", "duplicate_id"),
        ("fold0", "bad_fold"),
        ("fold6", "bad_fold"),
        ("foldx", "bad_fold"),
        ("label50", "bad_label"),
        ("negative", "bad_label"),
        ("othername", "bad_label"),
        ("row 14 of meta/esc50.csv", "missing_file"),
        ("short", "bad_fold"),
    ]
    details = found.rejected["detail"].to_pylist()
    assert "fold '6': ESC-50 has folds 1 to 5" in details[6]
    assert "row 9 " in details[6]
    assert set(found.rejected["stage"].to_pylist()) == {"index"}


@pytest.mark.parametrize("name", ["esc50", "urbansound8k", "synthetic"])
def test_a_missing_csv_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(SoundStormError, match=r"csv is missing: --data-dir must be the folder that holds audio/"):
        index(name, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filename,fold,target\na.wav,1,0\n", "column 'category' is missing; it has filename, fold, target"),
        (ESC_HEADER, "has a header, but no rows"),
        ("", "column 'filename' is missing; it has no columns"),
        (
            ESC_HEADER + "gone.wav,1,0,dog,True,1,A\nb.wav,9,0,dog,True,1,A\n",
            "no clip that can be used: 1 missing_file, 1 bad_fold; the first: row 2",
        ),
    ],
)
def test_a_csv_that_gives_no_clip_is_one_clear_error(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, {"meta/esc50.csv": content})
    with pytest.raises(SoundStormError, match=message):
        index("esc50", tmp_path)


def test_a_csv_that_is_not_text_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(SoundStormError, match="cannot be read as CSV in UTF-8"):
        index("esc50", tmp_path)


def test_esc50_without_any_clip_of_esc10_is_an_empty_esc10(tmp_path: Path) -> None:
    esc(tmp_path, "b.wav,2,49,hand_saw,False,2,A\n", "b.wav")
    with pytest.raises(SoundStormError, match="names no clip of ESC-10"):
        index("esc10", tmp_path)


def test_a_csv_from_a_spreadsheet_with_byte_order_mark_and_crlf_is_read(tmp_path: Path) -> None:
    esc(tmp_path, "", "Käuzchen.wav")
    text = "\ufeff" + ESC_HEADER.replace("\n", "\r\n") + "Käuzchen.wav, 1 ,0,dog,True,1,A\r\n"
    (tmp_path / "meta" / "esc50.csv").write_bytes(text.encode())
    assert index("esc50", tmp_path).clips["clip_id"].to_pylist() == ["Käuzchen"]


def test_a_name_is_found_however_its_accents_are_encoded(tmp_path: Path) -> None:
    decomposed, composed = "Vo\u0308gel.wav", "V\u00f6gel.wav"
    esc(tmp_path, f"{composed},1,0,dog,True,1,A\n", decomposed)
    row = index("esc50", tmp_path).clips.to_pylist()[0]
    assert row["clip_id"] == "V\u00f6gel"
    assert row["uri"].endswith(decomposed)


def test_sub_folders_are_classes_and_hidden_or_other_files_are_left_out(tmp_path: Path) -> None:
    names = (
        "rain/a.wav",
        "rain/deep/er/b.FLAC",
        "dogs and 猫/c.mp3",
        "rain/notes.txt",
        "rain/.hidden.wav",
        ".git/d.wav",
        "__MACOSX/rain/._a.wav",
    )
    write(tmp_path, dict.fromkeys(names, "x"))
    found = index("folder", tmp_path)
    assert found.categories == ["dogs and 猫", "rain"]
    assert found.clips["clip_id"].to_pylist() == ["dogs and 猫/c.mp3", "rain/a.wav", "rain/deep/er/b.FLAC"]
    assert found.clips["label"].to_pylist() == [0, 1, 1]
    assert (found.num_folds, found.rejected.num_rows) == (5, 0)


def test_a_recording_in_no_class_folder_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, {"rain/a.wav": "x", "stray.wav": "x"})
    assert rejections(index("folder", tmp_path)) == [("stray.wav", "bad_label")]


@pytest.mark.parametrize("files", [{}, {"readme.txt": "x"}, {"rain/notes.txt": "x"}, {"stray.wav": "x"}])
def test_a_folder_without_recordings_in_class_folders_is_one_clear_error(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    with pytest.raises(SoundStormError, match="has no sub-folder with"):
        index("folder", tmp_path)


def test_folds_depend_on_the_source_only_and_fill_all_five(tmp_path: Path) -> None:
    write(tmp_path, {f"rain/{number}.wav": "x" for number in range(60)})
    before = {row["clip_id"]: row["fold"] for row in index("folder", tmp_path).clips.to_pylist()}
    assert set(before.values()) == {1, 2, 3, 4, 5}
    write(tmp_path, {f"another/{number}.wav": "x" for number in range(60)})
    after = {row["clip_id"]: row["fold"] for row in index("folder", tmp_path).clips.to_pylist()}
    assert before.items() <= after.items()
    assert fold_of_source("rain/0.wav") == before["rain/0.wav"]


def test_a_csv_of_ones_own_names_files_classes_and_folds(tmp_path: Path) -> None:
    table = "filename,category,fold\nwav/b.wav,rain,3\nwav/a.wav,dog,1\n"
    write(tmp_path, {"clips.csv": table, "wav/a.wav": "x", "wav/b.wav": "x", "wav/unlisted.wav": "x"})
    found = index("folder", tmp_path)
    assert (found.categories, found.num_folds) == (["dog", "rain"], 3)
    assert found.clips.select(["clip_id", "fold", "label"]).to_pylist() == [
        {"clip_id": "wav/b.wav", "fold": 3, "label": 1},
        {"clip_id": "wav/a.wav", "fold": 1, "label": 0},
    ]


def test_clips_of_one_source_share_a_fold(tmp_path: Path) -> None:
    rows = "".join(f"{number}.wav,rain,tape {number // 10}\n" for number in range(50))
    write(
        tmp_path, {"clips.csv": "filename,category,source\n" + rows, **{f"{number}.wav": "x" for number in range(50)}}
    )
    clips = index("folder", tmp_path).clips.to_pylist()
    assert len({(int(row["clip_id"][:-4]) // 10, row["fold"]) for row in clips}) == 5


def test_bad_rows_of_a_csv_of_ones_own_are_rejected(tmp_path: Path) -> None:
    rows = "a.wav,rain,1\na.wav,rain,1\n./a.wav,rain,1\nb.wav,,1\nc.wav,../x,1\nd.wav,rain,0\ne.wav,rain,\n"
    rows += "../f.wav,rain,1\ng.wav,rain,2\n"
    write(tmp_path, {"clips.csv": "filename,category,fold\n" + rows, **{f"{name}.wav": "x" for name in "abcde"}})
    assert rejections(index("folder", tmp_path)) == [
        ("a.wav", "duplicate_id"),
        ("a.wav", "duplicate_id"),
        ("b.wav", "bad_label"),
        ("c.wav", "bad_label"),
        ("d.wav", "bad_fold"),
        ("e.wav", "bad_fold"),
        ("../f.wav", "outside_data_folder"),
        ("g.wav", "missing_file"),
    ]


def test_a_csv_may_be_given_itself_and_several_in_one_folder_must_be(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "one.csv": "filename,category\na.wav,rain\n",
            "two.csv": "filename,category\nb.wav,dog\n",
            "a.wav": "x",
            "b.wav": "x",
        },
    )
    with pytest.raises(SoundStormError, match=r"several CSV files \(one.csv, two.csv\)"):
        index("folder", tmp_path)
    found = index_dataset("folder", LocalFileSystem(), str(tmp_path / "two.csv"), "s3://bucket/data/two.csv")
    assert found.clips["uri"].to_pylist() == ["s3://bucket/data/b.wav"]


def test_an_unknown_data_set_is_named_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        SoundStormError, match="'esc51' is unknown: choose one of esc50, esc10, urbansound8k, folder, synthetic"
    ):
        index("esc51", tmp_path)


def test_one_listing_and_one_read_are_enough(tmp_path: Path) -> None:
    class Counting:
        """A local file system that counts the questions it is asked."""

        def __init__(self) -> None:
            self.questions: list[str] = []

        def __getattr__(self, name: str) -> Any:
            self.questions.append(name)
            return getattr(LocalFileSystem(), name)

    names = [f"{number}.wav" for number in range(200)]
    esc(tmp_path, "".join(f"{name},1,0,dog,True,1,A\n" for name in names), " ".join(names))
    filesystem = Counting()
    assert index_dataset("esc50", filesystem, f"{tmp_path}/", "x").clips.num_rows == 200  # type: ignore[arg-type]
    assert sorted(filesystem.questions) == ["get_file_info", "get_file_info", "open_input_stream"]


def test_a_data_set_in_s3_is_indexed_as_on_disk(synthetic_dataset: Path, s3_bucket: Callable[[], str]) -> None:
    uri = f"{s3_bucket()}/some/data"
    storage.copy_from_local(synthetic_dataset, uri)
    found = index_dataset("synthetic", *storage.filesystem(uri), uri)
    assert (found.clips.num_rows, found.rejected.num_rows) == (50, 0)
    assert found.clips["uri"][0].as_py() == f"{uri}/audio/1-000000-A-0.wav"


def test_published_facts_are_those_of_the_papers() -> None:
    assert {name: (dataset.num_folds, dataset.num_clips) for name, dataset in DATASETS.items() if dataset.url} == {
        "esc50": (5, 2000),
        "esc10": (5, 400),
        "urbansound8k": (10, 8732),
    }
    assert len(set(ESC50_CATEGORIES)) == 50
    assert all(dataset.licence and dataset.credit for dataset in DATASETS.values() if dataset.url)


def test_the_source_recording_is_read_from_the_name_of_a_clip() -> None:
    assert source_of("1-100032-A-0", "esc50") == source_of("1-100032-B-0", "esc10") == "100032"
    assert source_of("100263-2-0-117", "urbansound8k") == "100263"
    assert source_of("rain/1-2-3.wav", "folder") == "rain/1-2-3.wav"


def test_a_sub_folder_whose_name_cannot_be_a_class_is_rejected_by_name(tmp_path: Path) -> None:
    for folder in ("rain", "two\nlines"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.wav").write_bytes(b"RIFF")
    index = index_dataset("folder", LocalFileSystem(), str(tmp_path), str(tmp_path))
    assert index.categories == ["rain"]
    assert index.clips["category"].to_pylist() == ["rain"]
    assert index.rejected["reason"].to_pylist() == ["bad_label"]


def test_a_file_name_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "rain").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/rain/\xff.wav")).write_bytes(b"RIFF")
    with pytest.raises(SoundStormError, match="not UTF-8"):
        index_dataset("folder", LocalFileSystem(), str(tmp_path), str(tmp_path))
