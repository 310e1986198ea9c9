"""Files found = tokenized + rejected + ignored, each of the last two with a reason."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow.fs import LocalFileSystem

from soundstorm.data.accounting import Account, Accounting
from soundstorm.data.datasets import ESC50_CATEGORIES, Index, index_dataset
from soundstorm.errors import SoundStormError
from soundstorm.schemas import IGNORED, REJECTED

ESC_HEADER = "filename,fold,target,category,esc10,src_file,take\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


def index(name: str, root: Path, strict_folds: bool = False) -> Index:
    return index_dataset(name, LocalFileSystem(), str(root), "data", strict_folds=strict_folds)


def ignored(found: Index) -> dict[str, str]:
    return {row["uri"].removeprefix("data/"): row["reason"] for row in found.ignored.to_pylist()}


def accounted(found: Index, rejected_later: list[dict[str, str]] | None = None) -> Account:
    """The account if exactly the clips `rejected_later` turned out to be unusable."""
    rejected = pa.concat_tables([found.rejected, pa.Table.from_pylist(rejected_later or [], REJECTED)])
    return account(found.num_files, found.clips, rejected, found.ignored, found.rejected_files)


def account(found: int, clips: pa.Table, rejected: pa.Table, ignored: pa.Table, files: frozenset[str]) -> Account:
    """The account of clips that are added at once, and the same of those that are added one by one."""
    whole = Accounting(found, ignored, files)
    whole.add(clips, rejected)
    single = Accounting(found, ignored, files)
    is_index = pc.equal(rejected["stage"], "index")
    single.add(clips.slice(0, 0), rejected.filter(is_index))
    for row in range(clips.num_rows):
        clip = clips.slice(row, 1)
        single.add(clip, rejected.filter(pc.and_(pc.invert(is_index), pc.is_in(rejected["clip_id"], clip["clip_id"]))))
    result = whole.result()
    assert single.result() == result
    return result


def test_what_is_no_recording_is_ignored_by_name_and_everything_adds_up(tmp_path: Path) -> None:
    recordings = [
        f"rain/{number}{ending}" for number, ending in enumerate((".wav", ".AIFF", ".m4a", ".caf", ".mp4", ".opus"))
    ]
    others = {
        "rain/notes.txt": "no_recording",
        "rain/cover.JPG": "no_recording",
        "rain/README": "no_recording",
        "rain/.DS_Store": "hidden",
        "rain/._1.wav": "hidden",
        ".git/config": "hidden",
        "__MACOSX/rain/._2.wav": "hidden",
    }
    write(tmp_path, dict.fromkeys([*recordings, *others, "stray.wav"], "x"))
    found = index("folder", tmp_path)
    assert sorted(found.clips["clip_id"].to_pylist()) == sorted(recordings)
    assert ignored(found) == others
    assert found.ignored.schema.equals(IGNORED) and all(row["detail"] for row in found.ignored.to_pylist())
    assert accounted(found) == Account(found=14, tokenized=6, rejected=1, ignored=7, rows_without_file=0)
    late = {"clip_id": "rain/3.caf", "uri": "data/rain/3.caf", "stage": "decode", "reason": "not_audio", "detail": "no"}
    assert accounted(found, [late]) == Account(found=14, tokenized=5, rejected=2, ignored=7, rows_without_file=0)


def test_the_reasons_name_the_ending_of_a_file(tmp_path: Path) -> None:
    write(tmp_path, {"rain/a.wav": "x", "rain/notes.txt": "x", "rain/README": "x"})
    assert index("folder", tmp_path).ignored["detail"].to_pylist() == [
        "its name has no suffix",
        "its suffix '.txt' is not that of a recording",
    ]


def test_files_that_a_table_does_not_name_and_rows_that_name_no_file_are_both_told(tmp_path: Path) -> None:
    table = "filename,category\na.wav,rain\na.wav,dog\ngone.wav,dog\nb.wav,../x\n,rain\n"
    write(tmp_path, {"clips.csv": table, "a.wav": "x", "b.wav": "x", "c.wav": "x", "d.txt": "x"})
    found = index("folder", tmp_path)
    assert ignored(found) == {"clips.csv": "labels", "c.wav": "unlisted", "d.txt": "no_recording"}
    account = accounted(found)
    assert account == Account(found=5, tokenized=1, rejected=1, ignored=3, rows_without_file=3)
    assert str(account) == "5 files found: 1 tokenized, 1 rejected, 3 ignored; 3 rows without a file of their own"


def test_two_rows_that_spell_one_file_differently_are_one_clip(tmp_path: Path) -> None:
    table = "filename,category,fold\na.wav,dog,1\naudio/a.wav,cat,2\nA.WAV,dog,2\nb.wav,cat,2\n"
    found = index("folder", write(tmp_path, {"clips.csv": table, "audio/a.wav": "x", "audio/b.wav": "x"}))
    assert found.clips.select(["clip_id", "fold", "category"]).to_pylist() == [
        {"clip_id": "a.wav", "fold": 1, "category": "dog"},
        {"clip_id": "b.wav", "fold": 2, "category": "cat"},
    ]
    assert [(row["clip_id"], row["reason"]) for row in found.rejected.to_pylist()] == [
        ("audio/a.wav", "duplicate_id"),
        ("A.WAV", "duplicate_id"),
    ]
    assert (
        found.rejected["detail"][0].as_py()
        == "audio/a.wav: it is also the file of the earlier clip 'a.wav', which is kept"
    )
    assert accounted(found) == Account(found=3, tokenized=2, rejected=0, ignored=1, rows_without_file=2)


def test_a_second_row_of_a_file_that_strict_folds_leave_out_adds_up_too(tmp_path: Path) -> None:
    table = "filename,category,fold,source\na.wav,dog,1,s\nb.wav,dog,2,s\nc.wav,dog,2,s\na.wav,dog,1,s\n"
    found = index(
        "folder",
        write(tmp_path, {"clips.csv": table, **dict.fromkeys(("a.wav", "b.wav", "c.wav"), "x")}),
        strict_folds=True,
    )
    assert ignored(found) == {"clips.csv": "labels", "a.wav": "source_in_two_folds"}
    assert accounted(found) == Account(found=4, tokenized=2, rejected=0, ignored=2, rows_without_file=1)


def test_the_files_of_esc10_leave_those_of_the_other_forty_classes_ignored(esc50: Path) -> None:
    found = index("esc10", esc50)
    assert accounted(found) == Account(found=2000, tokenized=400, rejected=0, ignored=1600, rows_without_file=0)
    assert set(found.ignored["reason"].to_pylist()) == {"other_dataset"}
    assert accounted(index("esc50", esc50)) == Account(
        found=2000, tokenized=2000, rejected=0, ignored=0, rows_without_file=0
    )


def test_what_strict_folds_leave_out_is_ignored(esc50: Path) -> None:
    found = index("esc50", esc50, strict_folds=True)
    assert set(ignored(found)) == {
        f"audio/{name}.ogg" for name in ("3-131943-A-37", "3-134049-A-1", "5-209698-A-38", "4-234879-A-6")
    }
    assert accounted(found) == Account(found=2000, tokenized=1996, rejected=0, ignored=4, rows_without_file=0)


def test_windows_of_a_recording_are_one_file(tmp_path: Path) -> None:
    found = index("folder", write(tmp_path, {"rain/a.wav": "x", "rain/b.wav": "x"}))
    rows = [
        row | {name: f"{row[name]}#t={start},{start + 2}" for name in ("clip_id", "uri")}
        for row in found.clips.to_pylist()
        for start in (0, 2)
    ]
    windows = pa.Table.from_pylist(rows, found.clips.schema)
    bad = [
        {"clip_id": row["clip_id"], "uri": row["uri"], "stage": "decode", "reason": "not_audio", "detail": "no"}
        for row in rows[1:]
    ]
    rejected = pa.Table.from_pylist(bad, REJECTED)
    assert account(2, windows, rejected, found.ignored, frozenset()) == Account(
        found=2, tokenized=1, rejected=1, ignored=0, rows_without_file=0
    )


def test_a_file_in_no_table_is_an_error(tmp_path: Path) -> None:
    found = index("folder", write(tmp_path, {"rain/a.wav": "x", "rain/b.wav": "x"}))
    with pytest.raises(
        SoundStormError, match=r"3 files found: 2 tokenized, 0 rejected, 0 ignored: these do not add up"
    ):
        account(3, found.clips, found.rejected, found.ignored, frozenset())


# ---- names that lead nowhere


def test_links_that_lead_nowhere_are_rejected_by_name_and_good_ones_are_used(tmp_path: Path) -> None:
    write(tmp_path, {"rain/a.wav": "x", "elsewhere.txt": "x"})
    (tmp_path / "rain" / "gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "rain" / "self.wav").symlink_to("self.wav")
    (tmp_path / "rain" / "link.wav").symlink_to("a.wav")
    (tmp_path / "rain" / "up").symlink_to("..")
    (tmp_path / "rain" / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "wind").symlink_to("rain")
    os.mkfifo(tmp_path / "rain" / "pipe.wav")
    found = index("folder", tmp_path)
    assert found.clips["clip_id"].to_pylist() == ["rain/a.wav", "rain/link.wav", "wind/a.wav", "wind/link.wav"]
    reasons = {row["clip_id"]: (row["reason"], row["detail"]) for row in found.rejected.to_pylist()}
    assert reasons["rain/gone.wav"] == (
        "missing_file",
        "rain/gone.wav: it is a link to nowhere.wav, which does not exist",
    )
    assert reasons["rain/self.wav"][0] == "missing_file"
    assert reasons["rain/pipe.wav"] == (
        "unreadable_file",
        "rain/pipe.wav: it is a pipe, a socket or a device, not a file",
    )
    details = {row["uri"]: row["detail"] for row in found.ignored.to_pylist()}
    assert "link to a folder that contains it" in details["data/rain/up"]
    assert "which does not exist" in details["data/rain/gone.txt"]
    total = accounted(found)
    assert total.found == total.tokenized + total.rejected + total.ignored == found.num_files


def test_a_name_that_is_not_utf_8_is_rejected_by_name_and_the_rest_goes_on(tmp_path: Path) -> None:
    write(tmp_path, {"rain/a.wav": "x"})
    for name in (b"/rain/\xff.wav", b"/rain/\xfe.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path) + name)).write_bytes(b"RIFF")
    found = index("folder", tmp_path)
    assert found.clips["clip_id"].to_pylist() == ["rain/a.wav"]
    assert found.rejected.to_pylist() == [
        {
            "clip_id": "rain/\\xff.wav",
            "uri": "data/rain/\\xff.wav",
            "stage": "index",
            "reason": "unreadable_file",
            "detail": "rain/\\xff.wav: its name is not UTF-8: rename it",
        }
    ]
    assert ignored(found) == {"rain/\\xfe.txt": "no_recording"}
    assert accounted(found) == Account(found=3, tokenized=1, rejected=1, ignored=1, rows_without_file=0)


def test_a_published_data_set_counts_the_files_of_its_audio_folder(tmp_path: Path) -> None:
    rows = f"a.wav,1,0,{ESC50_CATEGORIES[0]},True,1,A\ngone.wav,2,0,dog,True,2,A\nb.wav,9,0,dog,True,3,A\n"
    write(
        tmp_path,
        {
            "meta/esc50.csv": ESC_HEADER + rows,
            "audio/a.wav": "x",
            "audio/b.wav": "x",
            "audio/new.wav": "x",
            "README.md": "x",
        },
    )
    found = index("esc50", tmp_path)
    assert ignored(found) == {"audio/new.wav": "unlisted"}
    assert accounted(found) == Account(found=3, tokenized=1, rejected=1, ignored=1, rows_without_file=1)
