"""The audio files that a command line names: folders, prefixes, patterns, tables; in a fixed order, and by parts."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from cluster import storage, tables
from cluster.errors import ClusterError
from jobs.inputs import file_listing as audio_listing
from jobs.inputs.audio_files import open_recording
from jobs.inputs.file_listing import list_audio
from soundstorm.audio.files import RejectedAudio
from soundstorm.errors import SoundStormError

NAMES = ("a.wav", "b/1.wav", "b/2.FLAC", "b/c/1.ogg", "b/c/10.wav", "notes.txt", "z[1].mp3")


@pytest.fixture
def root(storage_root: str) -> str:
    for name in NAMES:
        storage.write_bytes(f"{storage_root}/{name}", name.encode())
    return storage.absolute(storage_root)


def listed(*sources: str, table: str | None = None) -> list[str]:
    with list_audio(sources, table) as found:
        uris = found.reader()(range(found.count))
        assert len(uris) == found.count
        return uris


def test_folders_files_and_patterns_name_audio_files(root: str) -> None:
    below = [f"{root}/{name}" for name in NAMES if not name.endswith(".txt")]
    assert sorted(listed(root)) == sorted(below)
    assert listed(f"{root}/b/c") == [f"{root}/b/c/1.ogg", f"{root}/b/c/10.wav"]
    assert listed(f"{root}/a.wav", f"{root}/absent.wav", f"{root}/a.wav") == [f"{root}/a.wav", f"{root}/absent.wav"]
    assert listed(f"{root}/*.wav") == [f"{root}/a.wav"]
    assert sorted(listed(f"{root}/**/1*")) == sorted([f"{root}/b/1.wav", f"{root}/b/c/1.ogg", f"{root}/b/c/10.wav"])
    assert listed(f"{root}/?/[!2].*") == [f"{root}/b/1.wav"]
    assert listed(f"{root}/**/[23].FLAC") == [f"{root}/b/2.FLAC"]
    assert listed(f"{root}/z[1].mp3") == [f"{root}/z[1].mp3"]  # a file of this name, no pattern


def test_two_stars_within_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SoundStormError, match=r"a\*\*b.wav: \*\* matches folders"):
        listed(f"{tmp_path}/a**b.wav")


def test_tables_name_files_too(root: str) -> None:
    uris = [f"{root}/{number}.wav" for number in range(10)]
    for number in (0, 1):
        tables.write_table(
            tables.part_uri(f"{root}/list", number),
            pa.table({"uri": uris[5 * number : 5 * number + 5], "x": [1] * 5}),
            {},
        )
    assert listed(table=f"{root}/list") == uris
    assert listed(f"{root}/a.wav", table=f"{root}/list/part-00001.parquet") == [f"{root}/a.wav", *uris[5:]]
    tables.write_table(f"{root}/large.parquet", pa.table({"uri": pa.array(uris, pa.large_string())}), {})
    assert listed(table=f"{root}/large.parquet") == uris
    tables.write_table(f"{root}/odd.parquet", pa.table({"uri": [1]}), {})
    tables.write_table(f"{root}/empty.parquet", pa.table({"uri": pa.array([], pa.string())}), {})
    for table, message in (("odd", "column 'uri' is int64"), ("empty", "has no rows")):
        with pytest.raises(SoundStormError, match=message):
            listed(table=f"{root}/{table}.parquet")
    with pytest.raises(ClusterError, match="column 'uri' is missing"):
        tables.write_table(f"{root}/other.parquet", pa.table({"path": ["x"]}), {})
        listed(table=f"{root}/other.parquet")


def test_relative_paths_are_those_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").touch()
    monkeypatch.chdir(tmp_path)  # workers have folders of their own
    tables.write_table("list.parquet", pa.table({"uri": ["in/a.wav"]}), {})
    assert listed("in") == listed("in/*.wav") == listed(table="list.parquet") == [f"{tmp_path}/in/a.wav"]


def test_what_names_nothing_is_refused(root: str) -> None:
    with pytest.raises(SoundStormError, match="no files: name audio files"):
        listed()
    with pytest.raises(SoundStormError, match=r"absent: no audio files \(\.wav"):
        listed(f"{root}/a.wav", f"{root}/absent")
    with pytest.raises(SoundStormError, match=r"\*\.txt: no audio file .* matches"):
        listed(f"{root}/*.txt")


def test_the_digest_changes_with_the_files(tmp_path: Path) -> None:
    def digest() -> str:
        with list_audio([str(tmp_path)], None) as found:
            return found.digest

    for name in ("c.wav", "b/a.wav", "a.wav"):
        storage.write_bytes(str(tmp_path / name), b"12")
    first = digest()
    assert digest() == first
    storage.write_bytes(str(tmp_path / "a.wav"), b"123")
    assert digest() != first


def test_ranges_are_read_in_order_whatever_lies_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_listing, "ROWS_AT_ONCE", 7)
    with list_audio([f"{tmp_path}/{number:03d}.wav" for number in range(100)], None) as found:
        read = found.reader()
        for numbers in (range(0, 3), range(3, 20), range(45, 50), range(50, 51), range(90, 100)):
            assert read(numbers) == [f"{tmp_path}/{number:03d}.wav" for number in numbers]


def test_a_name_that_is_not_utf_8_is_listed_written_out_and_a_link_to_itself_like_any_that_leads_nowhere(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")).write_bytes(b"RIFF")
    (tmp_path / "self.wav").symlink_to("self.wav")
    assert listed(str(tmp_path)) == [f"{tmp_path}/a.wav", f"{tmp_path}/\\xff.wav", f"{tmp_path}/self.wav"]


def test_links_that_lead_nowhere_are_listed_and_links_to_folders_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("here/rain/a.wav", "there/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"RIFF")
    here = tmp_path / "here"
    (here / "rain" / "good.wav").symlink_to("a.wav")
    (here / "rain" / "gone.wav").symlink_to("nowhere.wav")
    (here / "rain" / "gone.txt").symlink_to("nowhere.txt")
    (here / "more").symlink_to(tmp_path / "there")
    names = [f"{here}/rain/{name}.wav" for name in ("a", "good", "gone")]
    assert listed(str(here)) == names
    assert f"1 link to a folder is not followed, for example {here}/more" in capsys.readouterr().err
    assert listed(f"{here}/*/go*.wav") == names[1:]
    with pytest.raises(RejectedAudio, match=r"missing_file: .*gone.wav does not exist"):
        open_recording(names[-1])
