"""No source recording on both sides of a split: in every layout and in every view."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from soundstorm.data.datasets import (
    ESC10_TARGETS,
    ESC50_CATEGORIES,
    URBANSOUND8K_CATEGORIES,
    Index,
    index_dataset,
    source_of,
)
from soundstorm.data.source_recordings import smaller_sides, split_sources
from soundstorm.data.views import choose_partner
from soundstorm.errors import SoundStormError

NUM_VIEWS = 12


def indexed(name: str, folder: Path, strict_folds: bool = False) -> Index:
    return index_dataset(name, LocalFileSystem(), str(folder), folder.as_uri(), strict_folds=strict_folds)


def write(folder: Path, table: str, header: str, rows: list[str], audio: list[str]) -> Path:
    """A data folder with one CSV, and empty files in place of recordings."""
    (folder / table).parent.mkdir(parents=True, exist_ok=True)
    (folder / table).write_text("\n".join([header, *rows]) + "\n")
    for name in audio:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def make_esc(
    folder: Path, targets: tuple[int, ...], fold_of_take: dict[str, int] | None = None, with_column: bool = True
) -> Path:
    """ESC's layout: of every class and fold two recordings, cut into takes A and B; `fold_of_take` puts a take
    elsewhere, under its old name."""
    rows, audio = [], []
    for number, target in enumerate(targets):
        for fold in range(1, 6):
            for source in (1000 + 10 * number + fold, 5000 + 10 * number + fold):
                for take in "AB":
                    name = f"{fold}-{source}-{take}-{target}.wav"
                    put = (fold_of_take or {}).get(name, fold)
                    row = f"{name},{put},{target},{ESC50_CATEGORIES[target]},{target in ESC10_TARGETS}"
                    rows.append(row + (f",{source},{take}" if with_column else ""))
                    audio.append(f"audio/{name}")
    header = "filename,fold,target,category,esc10" + (",src_file,take" if with_column else "")
    return write(folder, "meta/esc50.csv", header, rows, audio)


def make_urbansound8k(folder: Path, stray_fold: int | None = None) -> Path:
    """UrbanSound8K's layout: in every fold a recording of each class, cut into three; the last slice of all may be in a
    fold of its own."""
    rows, audio = [], []
    for fold in range(1, 11):
        for label, category in enumerate(URBANSOUND8K_CATEGORIES):
            source = 100_000 + 100 * fold + label
            for part in range(3):
                name = f"{source}-{label}-0-{part}.wav"
                put = stray_fold if stray_fold and (fold, label, part) == (10, 9, 2) else fold
                rows.append(f"{name},{source},0,4,1,{put},{label},{category}")
                audio.append(f"audio/fold{put}/{name}")
    return write(
        folder, "metadata/UrbanSound8K.csv", "slice_file_name,fsID,start,end,salience,fold,classID,class", rows, audio
    )


def make_folder(folder: Path, fold_column: bool = False, stray: bool = False) -> Path:
    """A CSV of one's own with recordings cut into three clips each, with folds or without."""
    rows = []
    for source in range(12):
        for part in range(3):
            fold = 2 if stray and (source, part) == (11, 2) else 1 + source % 3
            rows.append(f"{source}_{part}.wav,{'ab'[source % 2]},tape-{source}" + (f",{fold}" if fold_column else ""))
    header = "filename,category,source" + (",fold" if fold_column else "")
    return write(folder, "clips.csv", header, rows, [row.split(",")[0] for row in rows])


def splits(index: Index, sources: dict[str, str]) -> Iterator[tuple[set[str], set[str]]]:
    """Sources to train on and to test with, a pair a fold."""
    rows = index.clips.select(["clip_id", "fold"]).to_pylist()
    for fold in range(1, index.num_folds + 1):
        yield tuple(
            {sources[row["clip_id"]] for row in rows if (row["fold"] == fold) is tested} for tested in (False, True)
        )  # type: ignore[misc]


def assert_apart(index: Index, sources: dict[str, str]) -> None:
    """No source is on both sides of any split; and there are sources of several clips, so that this says something."""
    assert len(set(sources.values())) < len(sources) == index.clips.num_rows
    for training, test in splits(index, sources):
        assert not training & test


def named_sources(index: Index, dataset: str) -> dict[str, str]:
    return {clip_id: source_of(clip_id, dataset) for clip_id in index.clips["clip_id"].to_pylist()}


# ---- splits


@pytest.mark.parametrize("name", ["esc10", "esc50"])
def test_no_source_of_esc_is_on_both_sides_of_a_split(name: str, tmp_path: Path) -> None:
    index = indexed(name, make_esc(tmp_path, (0, 1, 10, 3)))
    assert index.clips.num_rows == (60 if name == "esc10" else 80)
    assert_apart(index, named_sources(index, name))


def test_no_source_of_urbansound8k_is_on_both_sides_of_a_split(tmp_path: Path) -> None:
    index = indexed("urbansound8k", make_urbansound8k(tmp_path))
    assert index.clips.num_rows == 300
    assert_apart(index, named_sources(index, "urbansound8k"))


@pytest.mark.parametrize("fold_column", [False, True])
def test_no_source_of_ones_own_recordings_is_on_both_sides_of_a_split(fold_column: bool, tmp_path: Path) -> None:
    index = indexed("folder", make_folder(tmp_path, fold_column))
    assert_apart(index, {clip_id: clip_id.split("_")[0] for clip_id in index.clips["clip_id"].to_pylist()})


def test_the_real_esc10_splits_no_source(esc50: Path) -> None:
    index = indexed("esc10", esc50)
    assert (index.split_sources, index.notes) == ({}, ())
    assert index.clips.num_rows == 400
    assert_apart(index, named_sources(index, "esc10"))


def test_the_real_urbansound8k_clips_split_no_source(urbansound8k: Path) -> None:
    index = indexed("urbansound8k", urbansound8k)
    assert_apart(index, named_sources(index, "urbansound8k"))


# ---- recordings with clips in two folds


def test_the_four_recordings_of_the_real_esc50_that_lie_in_two_folds_are_named_and_used(esc50: Path) -> None:
    index = indexed("esc50", esc50)
    assert index.clips.num_rows == 2000
    assert index.split_sources == {
        "131943": {2: ["2-131943-A-38"], 3: ["3-131943-A-37"]},
        "134049": {2: ["2-134049-A-6"], 3: ["3-134049-A-1"]},
        "209698": {4: ["4-209698-A-37"], 5: ["5-209698-A-38"]},
        "234879": {4: ["4-234879-A-6"], 5: ["5-234879-A-1", "5-234879-B-1"]},
    }
    assert index.notes == (
        "4 recordings have clips in two folds, as ESC-50 is published: 131943 (folds 2 and 3), 134049 (folds 2 and "
        "3), 209698 (folds 4 and 5), "
        "234879 (folds 4 and 5); a test on one fold would contain sound that the other has (--strict-folds leaves out "
        "one side)",
    )


def test_strict_folds_leave_out_the_smaller_side_of_the_real_ones(esc50: Path) -> None:
    loose, strict = indexed("esc50", esc50), indexed("esc50", esc50, strict_folds=True)
    left_out = set(loose.clips["clip_id"].to_pylist()) - set(strict.clips["clip_id"].to_pylist())
    assert left_out == {"3-131943-A-37", "3-134049-A-1", "5-209698-A-38", "4-234879-A-6"}
    assert strict.clips.num_rows == 1996
    assert all(clip_id in strict.notes[0] for clip_id in left_out)
    assert_apart(strict, named_sources(strict, "esc50"))


@pytest.mark.parametrize("name", ["esc10", "esc50"])
@pytest.mark.parametrize("with_column", [True, False])
def test_published_folds_of_esc_are_used_as_they_are(name: str, with_column: bool, tmp_path: Path) -> None:
    folder = make_esc(tmp_path, (0, 1), {"2-1002-B-0.wav": 4}, with_column)
    index = indexed(name, folder)
    assert index.clips.num_rows == 40
    assert index.split_sources == {"1002": {2: ["2-1002-A-0"], 4: ["2-1002-B-0"]}}
    assert indexed(name, folder, strict_folds=True).clips.num_rows == 39


def test_published_folds_of_urbansound8k_are_used_as_they_are(tmp_path: Path) -> None:
    folder = make_urbansound8k(tmp_path, stray_fold=3)
    index = indexed("urbansound8k", folder)
    assert index.clips.num_rows == 300
    assert index.split_sources == {"101009": {3: ["101009-9-0-2"], 10: ["101009-9-0-0", "101009-9-0-1"]}}
    assert "1 recording has clips in two folds, as UrbanSound8K is published: 101009 (folds 3 and 10)" in index.notes[0]
    strict = indexed("urbansound8k", folder, strict_folds=True)
    assert set(index.clips["clip_id"].to_pylist()) - set(strict.clips["clip_id"].to_pylist()) == {"101009-9-0-2"}
    assert_apart(strict, named_sources(strict, "urbansound8k"))


def test_ones_own_csv_with_a_source_in_two_folds_is_refused_and_strict_folds_are_the_way_out(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, fold_column=True, stray=True)
    refusal = (
        r"recording 'tape-11' lie in fold 3 \(11_0.wav\) and in fold 2 \(11_2.wav\).*into one fold, or leave "
        r"out .* --strict-folds"
    )
    with pytest.raises(SoundStormError, match=refusal):
        indexed("folder", folder)
    strict = indexed("folder", folder, strict_folds=True)
    assert strict.clips.num_rows == 35 and "11_2.wav" not in strict.clips["clip_id"].to_pylist()
    assert_apart(strict, {clip_id: clip_id.split("_")[0] for clip_id in strict.clips["clip_id"].to_pylist()})


def test_of_equal_sides_the_first_fold_keeps_a_recording_and_of_three_the_largest() -> None:
    equal = split_sources([("b", 4, "x"), ("a", 2, "x"), ("c", 1, "")])
    assert (equal, smaller_sides(equal)) == ({"x": {4: ["b"], 2: ["a"]}}, ["b"])
    three = split_sources([("a", 1, "x"), ("b", 2, "x"), ("c", 2, "x"), ("d", 3, "x")])
    assert smaller_sides(three) == ["a", "d"]


def test_a_clip_that_cannot_be_used_leaks_nothing(tmp_path: Path) -> None:
    folder = make_esc(tmp_path, (0, 1), {"2-1002-B-0.wav": 4})
    (folder / "audio" / "2-1002-B-0.wav").unlink()
    assert indexed("esc50", folder).rejected["reason"].to_pylist() == ["missing_file"]


def test_names_that_only_look_like_a_source_are_no_reason_to_refuse(tmp_path: Path) -> None:
    rows = ["rain-1.wav,1,10,rain", "dog-1.wav,2,0,dog"]
    folder = write(
        tmp_path, "meta/esc50.csv", "filename,fold,target,category", rows, ["audio/rain-1.wav", "audio/dog-1.wav"]
    )
    assert indexed("esc50", folder).clips.num_rows == 2


# ---- views


def test_views_are_mixed_with_clips_of_their_own_fold_only(tmp_path: Path) -> None:
    index = indexed("urbansound8k", make_urbansound8k(tmp_path))
    rows = index.clips.select(["clip_id", "fold", "label"]).to_pylist()
    fold_of = {row["clip_id"]: row["fold"] for row in rows}
    groups: dict[tuple[int, int], list[str]] = {}
    for row in sorted(rows, key=lambda row: row["clip_id"]):
        groups.setdefault((row["fold"], row["label"]), []).append(row["clip_id"])
    partners = [
        (row, choose_partner(row["clip_id"], view, groups[row["fold"], row["label"]]))
        for row in rows
        for view in range(1, NUM_VIEWS + 1)
    ]
    mixed = [(row, partner) for row, partner in partners if partner is not None]
    assert len(mixed) > 100
    assert all(fold_of[partner] == row["fold"] and partner != row["clip_id"] for row, partner in mixed)
