"""Unpacking archives that may be hostile or damaged."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.transfer.unpack import unpack

MIB = 2**20


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o777
            archive.addfile(info, io.BytesIO(content))
    return path


def unpack_all(archive: Path, folder: Path, max_bytes: int = 10 * MIB, max_files: int = 100) -> int:
    return unpack(archive, folder, choose=lambda path: path, max_bytes=max_bytes, max_files=max_files)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


makers = pytest.mark.parametrize("make", [make_zip, make_tar])
Maker = Callable[[Path, dict[str, bytes]], Path]


@makers
def test_wanted_files_are_unpacked_under_their_new_names(tmp_path: Path, make: Maker) -> None:
    archive = make(tmp_path / "a", {"top/audio/ü.wav": b"sound", "top/audio/empty": b"", "top/tests/x.py": b"code"})
    count = unpack(
        archive,
        tmp_path / "out",
        choose=lambda path: path.removeprefix("top/") if "audio" in path else None,
        max_bytes=MIB,
        max_files=9,
    )
    assert count == 2
    assert files_of(tmp_path / "out") == {"audio/ü.wav": b"sound", "audio/empty": b""}
    assert not (tmp_path / "out" / "audio" / "ü.wav").stat().st_mode & stat.S_IXUSR


@makers
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "a/..", "a\\..\\evil", "C:/evil", "a//b"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, make: Maker, name: str) -> None:
    archive = make(tmp_path / "a", {"good": b"x", name: b"evil"})
    with pytest.raises(ClusterError, match="leads out of the archive or is not a valid path: this archive is not safe"):
        unpack_all(archive, tmp_path / "out" / "deep")
    assert files_of(tmp_path / "out") == {"deep/good": b"x"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused_if_wanted_and_left_out_if_not(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a", "w:gz") as archive:
        info = tarfile.TarInfo("trap")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ClusterError, match="'trap' is a link or device"):
        unpack_all(tmp_path / "a", tmp_path / "out")
    assert unpack(tmp_path / "a", tmp_path / "out", choose=lambda path: None, max_bytes=MIB, max_files=9) == 0


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        info = zipfile.ZipInfo("trap")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ClusterError, match="'trap' is a link or device"):
        unpack_all(tmp_path / "a", tmp_path / "out")


@makers
def test_a_bomb_is_stopped_by_what_it_unpacks_to(tmp_path: Path, make: Maker) -> None:
    archive = make(tmp_path / "a", {"one": bytes(6 * MIB), "two": bytes(6 * MIB)})
    assert archive.stat().st_size < MIB
    with pytest.raises(ClusterError, match="unpacks to more bytes than allowed, the last in 'two'"):
        unpack_all(archive, tmp_path / "out")
    assert sum(len(content) for content in files_of(tmp_path / "out").values()) <= 10 * MIB


@makers
def test_too_many_entries_are_refused(tmp_path: Path, make: Maker) -> None:
    archive = make(tmp_path / "a", {f"file {number}": b"" for number in range(101)})
    with pytest.raises(ClusterError, match="more than 100 entries"):
        unpack_all(archive, tmp_path / "out")


@makers
def test_a_file_that_is_there_is_not_replaced(tmp_path: Path, make: Maker) -> None:
    archive = make(tmp_path / "a", {"same": b"new", "./same": b"newer"})
    with pytest.raises(ClusterError, match=r"names '\./same' twice"):
        unpack_all(archive, tmp_path / "out")
    assert files_of(tmp_path / "out") == {"same": b"new"}


@makers
def test_a_damaged_archive_is_named_with_the_remedy(tmp_path: Path, make: Maker) -> None:
    whole = make(tmp_path / "whole", {"a": bytes(range(256)) * 4000, "b": b"y" * 1000}).read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 3 : len(whole) // 3 + 200] = bytes(200)
    for number, content in enumerate((whole[: len(whole) // 2], bytes(middle), b"<html>no such page</html>", b"")):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(
            ClusterError, match=r"broken is damaged or not an archive .*: delete it and download it again"
        ):
            unpack_all(tmp_path / "broken", tmp_path / f"out {number}")


def test_an_encrypted_zip_is_refused_in_one_sentence(tmp_path: Path) -> None:
    content = bytearray(make_zip(tmp_path / "a", {"secret": b"x" * 100}).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + offset] |= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ClusterError, match="encrypted"):
        unpack_all(tmp_path / "a", tmp_path / "out")
