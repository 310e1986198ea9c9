"""Tables of labels and folders as people make them: every spelling is read, and what is taken for what is said."""

import unicodedata
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from soundstorm.data.categories import normalized
from soundstorm.data.datasets import Index, index_dataset
from soundstorm.errors import SoundStormError

NFC, NFD = "V\u00f6gel", "Vo\u0308gel"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    return root


def empty(root: Path, *names: str) -> Path:
    return write(root, dict.fromkeys(names, "x"))


def index(root: Path, name: str = "folder") -> Index:
    return index_dataset(name, LocalFileSystem(), str(root), "data")


def placed(found: Index) -> dict[str, tuple[str, int]]:
    return {row["clip_id"]: (row["category"], row["fold"]) for row in found.clips.to_pylist()}


# ---- tables


@pytest.mark.parametrize(
    "table",
    [
        "filename,category,fold\nwav/a.wav,dog,1\nwav/b.wav,rain,2\n",
        " Filename , Category , Fold \nwav/a.wav, dog, 1\nwav/b.wav,rain ,2 \n",
        "File Name;CATEGORY;fold\nwav/a.wav;dog;1\nwav/b.wav;rain;2\n",
        "file_name\tcategory\tFOLD\nwav/a.wav\tdog\t1\nwav/b.wav\train\t2\n",
        "filename|category|fold\nwav/a.wav|dog|1\nwav/b.wav|rain|2\n",
        "filename,category,fold\nwav\\a.wav,dog,1.0\nwav\\b.wav,rain,2.0\n",
        "\ufefffilename,category,fold\r\n./wav/a.wav,dog,fold1\r\n\r\nWAV/B.wav,rain,Fold 2\r\n",
        'id,category,notes,filename,fold\n1,dog,"loud, near",wav/a.wav,1\n2,rain,,wav/b.wav,2\n',
        "filename,category,fold\nwav/a,dog,1\nwav/b,rain,2\n",
    ],
)
def test_a_table_of_labels_is_read_however_it_is_spelt(table: str, tmp_path: Path) -> None:
    found = index(write(empty(tmp_path, "wav/a.wav", "wav/b.wav"), {"clips.csv": table}))
    assert found.rejected.num_rows == 0
    assert sorted(placed(found).values()) == [("dog", 1), ("rain", 2)]
    assert found.clips["uri"].to_pylist() == ["data/wav/a.wav", "data/wav/b.wav"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "File,Class\na.wav,dog\n",
            r"clips.csv: column 'filename' is missing; it has File, Class: name its columns filename, category .*or "
            r"move it out",
        ),
        (
            "filename:category\na.wav:dog\n",
            r"it has filename:category \(it is not separated by commas, semicolons, tabs, bars\)",
        ),
        ("filename,category\n\ufffe", "there is no clip|no clip that can be used"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_with_the_remedy(table: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match=message):
        index(write(empty(tmp_path, "a.wav"), {"clips.csv": table}))


def test_a_name_with_a_comma_that_is_not_quoted_is_told_with_the_remedy(tmp_path: Path) -> None:
    found = index(
        write(empty(tmp_path, "a, b.wav", "c.wav"), {"clips.csv": "filename,category\na, b.wav,dog\nc.wav,dog\n"})
    )
    assert "row 2 of clips.csv: a does not exist; it was looked for in data" in found.rejected["detail"][0].as_py()
    assert (
        "the row has 1 more cells than the header: put names that contain the delimiter into quotes"
        in found.rejected["detail"][0].as_py()
    )


def test_columns_and_numbers_of_published_tables_may_be_spelt_otherwise_too(tmp_path: Path) -> None:
    table = "Slice File Name;fsID;Fold;classid;CLASS\n7-3-0-0.wav;7;1.0;3.0;Dog Bark\n"
    found = index(
        write(empty(tmp_path, "audio/fold1/7-3-0-0.wav"), {"metadata/UrbanSound8K.csv": table}), "urbansound8k"
    )
    assert placed(found) == {"7-3-0-0": ("dog_bark", 1)}


def test_files_with_another_ending_than_the_published_table_says_are_used_and_told(tmp_path: Path) -> None:
    table = "filename,fold,target,category\n1-7-A-0.wav,1,0,dog\n1-8-A-0.wav,1,0,dog\n"
    found = index(write(empty(tmp_path, "audio/1-7-A-0.ogg", "audio/1-8-A-0.flac"), {"meta/esc50.csv": table}), "esc50")
    assert found.clips["uri"].to_pylist() == ["data/audio/1-7-A-0.ogg", "data/audio/1-8-A-0.flac"]
    assert (
        "2 files have another suffix than meta/esc50.csv says, for example audio/1-7-A-0.ogg for 1-7-A-0.wav"
        in found.notes[0]
    )


def test_names_are_looked_for_in_the_audio_folder_beside_the_table_too(tmp_path: Path) -> None:
    found = index(
        write(
            empty(tmp_path, "audio/a.wav", "audio/b.wav"),
            {"labels.csv": "filename,category\na.wav,dog\nb.wav,rain\ngone.wav,rain\n"},
        )
    )
    assert found.clips["uri"].to_pylist() == ["data/audio/a.wav", "data/audio/b.wav"]
    assert found.clips["clip_id"].to_pylist() == ["a.wav", "b.wav"]
    assert found.rejected["detail"].to_pylist() == [
        "row 4 of labels.csv: gone.wav does not exist; it was looked for in data, data/audio"
    ]


def test_a_table_in_meta_decides_for_the_audio_folder_beside_it(tmp_path: Path) -> None:
    root = write(
        empty(tmp_path, "audio/a.wav", "audio/b.wav"), {"meta/labels.csv": "filename,category\na.wav,dog\nb.wav,rain\n"}
    )
    found = index(root)
    assert {category for category, _ in placed(found).values()} == {"dog", "rain"}
    assert "audio/ is read as the folder of the recordings that meta/labels.csv names, not as a class" in found.notes
    given = index_dataset("folder", LocalFileSystem(), str(root / "meta" / "labels.csv"), "data/meta/labels.csv")
    assert given.clips["uri"].to_pylist() == ["data/audio/a.wav", "data/audio/b.wav"]


def test_the_layout_of_a_published_data_set_is_named(esc50: Path) -> None:
    with pytest.raises(
        SoundStormError, match=r"has the layout of a published dataset \(meta/esc50.csv\): give --dataset esc50"
    ):
        index(esc50)


def test_a_table_that_overrides_class_folders_is_told(tmp_path: Path) -> None:
    root = write(
        empty(tmp_path, "dog/a.wav", "dog/b.wav", "rain/c.wav"), {"clips.csv": "filename,category\ndog/a.wav,barking\n"}
    )
    found = index(root)
    assert found.categories == ["barking"]
    assert found.notes == (
        "clips.csv decides which files are used, not the 2 folders beside it (dog, rain): 2 recordings that it does "
        "not name are ignored, for example dog/b.wav; move it away to use the folders as classes",
    )


# ---- Unicode and case


def test_both_unicode_forms_of_a_category_are_one_class_in_tables_and_folders(tmp_path: Path) -> None:
    table = index(
        write(empty(tmp_path / "t", "a.wav", "b.wav"), {"clips.csv": f"filename,category\na.wav,{NFC}\nb.wav,{NFD}\n"})
    )
    folders = index(empty(tmp_path / "f", f"{NFC}/a.wav", f"{NFD}/b.wav"))
    assert table.categories == folders.categories == [NFC]
    assert table.notes == folders.notes == ()


def test_of_two_files_that_differ_in_unicode_form_only_none_vanishes(tmp_path: Path) -> None:
    folders = index(empty(tmp_path / "f", f"dog/{NFC}.wav", f"dog/{NFD}.wav"))
    assert folders.clips["clip_id"].to_pylist() == [f"dog/{NFD}.wav", f"dog/{NFC}.wav"]
    assert len(set(folders.clips["fold"].to_pylist())) == 1
    assert "1 files differ from another in the Unicode form of their names only" in folders.notes[0]
    table = f"filename,category\n{NFC}.wav,dog\n{NFD}.wav,rain\n"
    rows = index(write(empty(tmp_path / "t", f"{NFC}.wav", f"{NFD}.wav"), {"clips.csv": table}))
    assert {
        unicodedata.is_normalized("NFC", uri): category
        for uri, category in zip(*(rows.clips[name].to_pylist() for name in ("uri", "category")), strict=True)
    } == {
        True: "dog",
        False: "rain",
    }


def test_classes_that_differ_in_case_only_are_told(tmp_path: Path) -> None:
    found = index(empty(tmp_path, "Dog/a.wav", "dog/b.wav", "rain/c.wav"))
    assert found.categories == ["Dog", "dog", "rain"]
    assert found.notes == ("'Dog' and 'dog' are 2 classes: give them one name if they are one",)


def test_emoji_and_accents_tell_classes_apart_and_punctuation_does_not(tmp_path: Path) -> None:
    assert len({normalized(name) for name in ("🐶", "🐱", "dog 🐶", "कि", "का", NFC, "Vogel")}) == 7
    assert normalized("Crying Baby") == normalized("crying-baby") == normalized("crying__baby!") == "crying_baby"
    assert normalized(NFC) == normalized(NFD)
    assert index(empty(tmp_path, "🐶/a.wav", "🐱/b.wav")).notes == ()


# ---- folders that are no classes


def test_train_and_test_are_folds_and_the_folders_in_them_classes(tmp_path: Path) -> None:
    found = index(
        empty(
            tmp_path,
            "test/dog/a.wav",
            "train/dog/b.wav",
            "train/rain/deep/c.wav",
            "Validation/rain/d.wav",
            "train/stray.wav",
        )
    )
    assert (found.categories, found.num_folds) == (["dog", "rain"], 3)
    assert placed(found) == {
        "train/dog/b.wav": ("dog", 1),
        "train/rain/deep/c.wav": ("rain", 1),
        "Validation/rain/d.wav": ("rain", 2),
        "test/dog/a.wav": ("dog", 3),
    }
    assert found.rejected["clip_id"].to_pylist() == ["train/stray.wav"]
    assert "train/ (fold 1), Validation/ (fold 2), test/ (fold 3) are read as the parts of a dataset" in found.notes[0]


def test_numbered_folders_keep_their_numbers_as_folds(tmp_path: Path) -> None:
    found = index(
        empty(tmp_path, *(f"audio/fold{number}/{name}/a.wav" for number in (1, 2, 10) for name in ("dog", "rain")))
    )
    assert {fold for _, fold in placed(found).values()} == {1, 2, 10}
    assert found.num_folds == 10 and found.categories == ["dog", "rain"]
    assert found.notes[0] == "audio/ is not a class: the folders in it are"


def test_a_recording_beside_the_folder_of_classes_is_not_taken_for_that_folder(tmp_path: Path) -> None:
    found = index(empty(tmp_path, "a.wav", "audio/dog/b.wav", "audio/rain/c.wav"))
    assert found.categories == ["dog", "rain"] and found.notes == ("audio/ is not a class: the folders in it are",)
    assert found.rejected["clip_id"].to_pylist() == ["a.wav"]


def test_a_folder_of_recordings_that_is_the_only_class_is_told(tmp_path: Path) -> None:
    found = index(write(empty(tmp_path, "audio/a.wav"), {"meta/labels.csv": "file,label\na.wav,dog\n"}))
    assert found.categories == ["audio"]
    assert (
        "audio/ is read as the only class" in found.notes[0]
        and "there is no CSV filename,category beside it" in found.notes[0]
    )


def test_parts_without_class_folders_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(
        SoundStormError,
        match=r"train/ \(fold 1\), test/ \(fold 2\) look like the parts of a dataset, and hold no class folders",
    ):
        index(empty(tmp_path, "train/a.wav", "test/b.wav"))


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    found = index(empty(tmp_path, "train/a.wav", "airplane/b.wav"))
    assert (found.categories, found.notes) == (["airplane", "train"], ())
    alone = index(empty(tmp_path / "alone", "train/a.wav", "train/more/b.wav"))
    assert alone.categories == ["train"]


def test_train_and_test_beside_other_folders_are_classes_and_told(tmp_path: Path) -> None:
    found = index(empty(tmp_path, "train/a.wav", "test/b.wav", "dog/c.wav"))
    assert found.categories == ["dog", "test", "train"]
    assert found.notes == ("test and train are read as classes, because there are other folders beside them",)
