"""Unpacking of untrusted zip and tar archives.

Only regular files are created, with default permissions, and only below the given folder.
"""

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from cluster.errors import ClusterError
from cluster.storage.os_errors import file_error

CHUNK_BYTES = 1 << 20


@dataclass(kw_only=True, frozen=True)
class _Member:
    """One entry of an archive."""

    name: str
    is_file: bool
    is_folder: bool
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, *, choose: Callable[[str], str | None], max_bytes: int, max_files: int) -> int:
    """Unpack the chosen files of a zip or tar archive (plain, gz, bz2, xz); returns their number.

    Files that were written before an error stay: unpack into a temporary folder and rename it.

    Args:
        archive: the file.
        folder: where to; files in it are never replaced.
        choose: path of a file in the archive -> its path below `folder`, or None to leave it out.
        max_bytes: the most bytes that all files together may have, counted as they are unpacked.
        max_files: the most entries that the archive may have.

    Raises:
        ClusterError: the archive is damaged, too large, holds a path that leads out of it, names a file twice, or a
            wanted file is a link or device.
    """
    count, written = 0, 0
    try:
        with _members(archive) as members:
            for number, member in enumerate(members, start=1):
                if number > max_files:
                    raise ClusterError(
                        f"{archive} has more than {max_files:,} entries: this is not the archive expected here"
                    )
                path = choose(_safe(member.name, archive))
                if path is None or member.is_folder:
                    continue
                if not member.is_file:
                    raise ClusterError(
                        f"{archive}: '{member.name}' is a link or device, not a file: this archive is not safe to "
                        "unpack"
                    )
                written += _write(member, folder / _safe(path, archive), max_bytes - written, archive)
                count += 1
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2 report bad data so
            raise _damaged(archive, error) from error
        raise file_error(str(folder), error) from error
    return count


def _damaged(archive: Path, error: Exception) -> ClusterError:
    cause = str(error).partition("\n")[0].rstrip(":")
    return ClusterError(f"{archive} is damaged or not an archive ({cause}): delete it and download it again")


def _write(member: _Member, target: Path, max_bytes: int, archive: Path) -> int:
    """Write one file of at most `max_bytes`; returns its size."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    if source is None:
        raise ClusterError(f"{archive}: '{member.name}' has no content: this archive is not safe to unpack")
    size = 0
    try:
        with source, target.open("xb") as file:
            while chunk := source.read(CHUNK_BYTES):
                size += len(chunk)
                if size > max_bytes:
                    raise ClusterError(
                        f"{archive} unpacks to more bytes than allowed, the last in '{member.name}': this is not the "
                        "archive expected here"
                    )
                file.write(chunk)
    except FileExistsError as error:
        raise ClusterError(f"{archive} names '{member.name}' twice: this archive is not safe to unpack") from error
    return size


def _safe(name: str, archive: Path) -> str:
    """`name`, if it is a safe relative path; raises ClusterError if not."""
    parts = name.removesuffix("/").split("/")
    if any(part in ("", "..") for part in parts) or re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", name):
        raise ClusterError(
            f"{archive}: the path {name!r} leads out of the archive or is not a valid path: this archive is not safe "
            "to unpack"
        )
    return "/".join(part for part in parts if part != ".")


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    """The entries of an archive, in order."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield (_zip_member(zipped, info) for info in zipped.infolist())
    else:
        with tarfile.open(archive, "r:*") as tarred:
            yield _tar_members(tarred)


def _zip_member(zipped: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = (info.external_attr >> 16) & 0o170000
    return _Member(
        name=info.filename,
        is_file=kind in (0, 0o100000) and not info.is_dir(),
        is_folder=info.is_dir(),
        open=lambda: zipped.open(info),
    )


def _tar_members(tarred: tarfile.TarFile) -> Iterator[_Member]:
    for info in tarred:
        yield _Member(
            name=info.name, is_file=info.isreg(), is_folder=info.isdir(), open=partial(tarred.extractfile, info)
        )
    # tarfile stops at the end mark. The checksum of a compressed file comes after it, and is compared when that is
    # read.
    if tarred.fileobj is not None and len(tarred.fileobj.read(CHUNK_BYTES)) == CHUNK_BYTES:
        raise tarfile.ReadError("there is data after its end")
