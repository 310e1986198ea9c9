"""Archives that follow from their content alone, and files out of them by URI."""

import io
import tarfile
from pathlib import Path

import pytest

from cluster import storage
from cluster.errors import ClusterError, NotFoundError
from cluster.tables import tar_shards as tars

FILES = [
    ("rain-1.flac", b"sound" * 300),
    ("rain-1.json", b"{}"),
    ("Möwe_鳥-2.flac", b""),
    (f"{'long' * 40}-3.flac", b"x"),
]


def test_the_bytes_follow_from_names_and_contents_alone() -> None:
    packed = tars.write_tar(FILES)
    assert packed == tars.write_tar(iter(FILES)) and packed != tars.write_tar(FILES[::-1])
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [name for name, _ in FILES]
        assert {
            (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode) for member in members
        } == {(0, 0, 0, "", "", 0o644)}


def test_a_file_is_read_out_of_its_archive_or_by_itself(storage_root: str) -> None:
    archive, alone = storage.join(storage_root, "01", "part-1.tar"), storage.join(storage_root, "alone#1.flac")
    storage.write_bytes(archive, tars.write_tar(FILES))
    storage.write_bytes(alone, b"alone")
    reader = tars.TarMemberReader()
    for name, content in FILES:
        assert reader.read(tars.member_uri(archive, name)) == content
    assert reader.read(alone) == b"alone"
    with pytest.raises(NotFoundError, match=r"part-1\.tar#wind\.flac: the archive has no such file"):
        reader.read(tars.member_uri(archive, "wind.flac"))
    with pytest.raises(NotFoundError, match=r"part-2\.tar does not exist"):
        reader.read(tars.member_uri(storage.join(storage_root, "part-2.tar"), "rain-1.flac"))


def test_the_archive_opened_last_is_read_once(tmp_path: Path) -> None:
    archive = tmp_path / "part-1.tar"
    archive.write_bytes(tars.write_tar(FILES))
    reader = tars.TarMemberReader()
    reader.read(f"{archive}#rain-1.json")
    archive.unlink()
    assert reader.read(f"{archive}#rain-1.flac") == FILES[0][1]


@pytest.mark.parametrize("content", [b"no archive at all", b"x" * 2000, tars.write_tar(FILES)[:700], b""])
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "part-1.tar"
    archive.write_bytes(content)
    with pytest.raises(ClusterError, match=r"part-1\.tar") as error:
        tars.TarMemberReader().read(f"{archive}#rain-1.flac")
    assert "\n" not in str(error.value)
