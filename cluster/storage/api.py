"""Reading and writing by URI. A URI is a local path (absolute, relative, `~`, `file://`) or `s3://bucket/key`.

All writes are atomic, every call ends within a bounded time, and all errors are `ClusterError`s of one sentence without
secrets. This file dispatches on the kind of URI; `local` and `s3_objects` do the work.
"""

import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow.fs

from cluster.errors import ClusterError, NotFoundError
from cluster.storage import local as disk
from cluster.storage import s3_objects as s3
from cluster.storage.arrow_filesystem import ObjectStorage, level, open_object
from cluster.storage.uris import BAD_CHARACTERS, split, without_login

AT_ONCE_BYTES = 8 * 2**20
COPY_THREADS = 8
PROBE_BYTES = 64 * 1024

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or object of a listing."""

    uri: str
    """URI of the file or object."""
    size: int
    """Size in bytes."""


# ---- names


def is_remote(uri: str | Path) -> bool:
    """Whether `uri` is in object storage. Raises ClusterError for a scheme that is neither `s3` nor `file`, and for
    `s3:` without its slashes."""
    text = str(uri)
    if text.lower().startswith("s3:"):
        if not text.startswith("s3://"):
            raise ClusterError(
                f"{without_login(text)}: an S3 address starts with 's3://', in small letters and with two slashes; "
                "a local file of that name is given with './' before it"
            )
        return True
    match = _SCHEME.match(text)
    if match and match.group(1).lower() != "file":
        raise ClusterError(
            f"{without_login(text)}: '{match.group(1)}:' is not supported; give a local path or s3://bucket/prefix"
        )
    return False


def absolute(uri: str | Path) -> str:
    """`uri` in a form that is valid in every process: an absolute local path, or s3:// without a trailing slash."""
    if is_remote(uri):
        bucket, key = split(uri)
        return f"s3://{bucket}/{key}" if key else f"s3://{bucket}"
    return str(disk.path_of(uri))


def join(uri: str | Path, *parts: str) -> str:
    """`uri`, made absolute, with `parts` below it. A part may contain `/` between names, but can never lead out of
    `uri`.

    Raises:
        ClusterError: a part is empty, absolute, or has a backslash, a control character, or `.` or `..` as a name.
    """
    for part in parts:
        if "\\" in part or BAD_CHARACTERS.search(part) or any(name in ("", ".", "..") for name in part.split("/")):
            raise ClusterError(
                f"{part!r} cannot be a name below {uri}: no empty names, no '..', no leading '/', no backslash, no "
                "control characters"
            )
    return "/".join([absolute(uri).rstrip("/"), *parts])


def filesystem(uri: str | Path) -> tuple[pyarrow.fs.FileSystem, str]:
    """The pyarrow file system behind `uri` and the path within it, for Ray Data and Parquet. It can be pickled, and
    carries no credentials.

    Objects are written atomically through it; local files are visible while pyarrow writes them.
    """
    if is_remote(uri):
        return pyarrow.fs.PyFileSystem(ObjectStorage()), "/".join(split(uri)).rstrip("/")
    return pyarrow.fs.LocalFileSystem(), str(disk.path_of(uri))


# ---- reading


def exists(uri: str | Path) -> bool:
    """Whether there is a file or object at `uri`, or anything below it."""
    if is_remote(uri):
        return (bool(split(uri)[1]) and s3.head(uri) is not None) or next(
            s3.list_objects(uri, page=1), None
        ) is not None
    path = disk.path_of(uri)
    with disk.errors(path):
        return path.exists()


def read_bytes(uri: str | Path) -> bytes:
    """The whole content. Raises ClusterError if it does not exist or cannot be read."""
    if is_remote(uri):
        return s3.read(uri)
    path = disk.path_of(uri)
    with disk.errors(path):
        return path.read_bytes()


def open_file(uri: str | Path, at_once: int = AT_ONCE_BYTES) -> BinaryIO:
    """Open the file or object for random access, without holding it in memory.

    Args:
        uri: the file or object.
        at_once: an object of up to this size is read immediately and as a whole; of a larger one parts are read on
            demand.

    Raises:
        ClusterError: it does not exist, cannot be read, or was replaced while it was read.
    """
    if is_remote(uri):
        return open_object(absolute(uri), at_once)
    path = disk.path_of(uri)
    with disk.errors(path):
        return path.open("rb")


def require_file(uri: str | Path) -> None:
    """Raise a ClusterError unless the file or object exists and the storage answers."""
    found = s3.head(uri) is not None if is_remote(uri) else disk.path_of(uri).is_file()
    if not found:
        if is_remote(uri):
            next(s3.list_objects(uri, page=1), None)  # a missing bucket has its own message
        raise NotFoundError(f"{uri} does not exist; check the address")


def list_objects(uri: str | Path, suffix: str = "") -> list[Entry]:
    """All files below the folder `uri`, at any depth, whose name ends with `suffix`, sorted by URI. A folder that does
    not exist is empty."""
    return sorted(iter_objects(uri, suffix), key=lambda entry: entry.uri)


def iter_objects(uri: str | Path, suffix: str = "") -> Iterator[Entry]:
    """Like `list_objects`, as an iterator, so that memory does not grow with the number of files; in a fixed order that
    need not be that of the URIs."""
    found = s3.list_objects(uri) if is_remote(uri) else disk.walk(disk.path_of(uri))
    return (Entry(name, size) for name, size in found if name.endswith(suffix))


def list_folder(uri: str | Path) -> list[str]:
    """Sorted names of the files directly in the folder `uri`. A folder that does not exist is empty."""
    if is_remote(uri):
        return sorted(level(absolute(uri))[0])
    return disk.names(disk.path_of(uri))


def links_left_out(uri: str | Path) -> Iterator[tuple[str, bool]]:
    """Symbolic links below the folder `uri`, which listings leave out, and whether each leads to a folder (otherwise it
    is broken). Buckets have none."""
    return (
        iter(())
        if is_remote(uri)
        else ((str(path), is_folder) for path, is_folder in disk.links_left_out(disk.path_of(uri)))
    )


def presign(uri: str | Path, expires_s: int = 3600) -> str:
    """A link that opens in a browser: signed and valid for `expires_s` seconds in object storage, a file:// link on a
    local disk."""
    return s3.presign(uri, expires_s) if is_remote(uri) else disk.path_of(uri).as_uri()


# ---- writing


def write_bytes(uri: str | Path, data: bytes | memoryview) -> None:
    """Write `data` atomically, replacing existing content."""
    if is_remote(uri):
        s3.write(uri, data)
    else:
        disk.write(disk.path_of(uri), data)


def write_file(uri: str | Path, source: Path) -> None:
    """Like `write_bytes`, with the content of the local file `source`, which need not fit into memory."""
    if is_remote(uri):
        s3.write(uri, source)
    else:
        disk.write(disk.path_of(uri), source)


def create_bytes(uri: str | Path, data: bytes) -> bool:
    """Write `data` unless the file or object exists; returns False if it does.

    Of two concurrent writers exactly one gets True, on local disks and on servers that honour `If-None-Match`. On other
    servers both may get True and the later one wins, so both should write the same bytes. After a lost response the
    result may be False although this call created the object.
    """
    return s3.create(uri, data) if is_remote(uri) else disk.create(disk.path_of(uri), data)


def delete(uri: str | Path) -> None:
    """Delete the file or object `uri` and everything below it, if it exists. Refuses to delete a whole bucket, disk or
    home folder."""
    if is_remote(uri):
        s3.delete(uri)
    else:
        disk.delete(disk.path_of(uri))


def check_writable(uri: str | Path) -> None:
    """Write and delete a small file below `uri`. Raises ClusterError for a missing bucket, wrong credentials, or a
    read-only or full disk."""
    probe = join(uri, f".write-check-{uuid.uuid4().hex}")
    try:
        write_bytes(probe, bytes(PROBE_BYTES))
        delete(probe)
    except ClusterError as error:  # do not mention the probe object
        raise type(error)(str(error).replace(probe, str(uri))) from error


# ---- copies


def copy_from_local(folder: Path, uri: str | Path) -> list[str]:
    """Copy everything below `folder` to below `uri`, each object atomically. Returns the sorted URIs of the copies."""
    root = disk.path_of(folder)
    sources = {join(uri, Path(path).relative_to(root).as_posix()): Path(path) for path, _ in disk.walk(root)}
    _in_threads(lambda target: write_file(target, sources[target]), sources)
    return sorted(sources)


def _in_threads(copy: Callable[[str], None], names: Iterable[str]) -> None:
    """Run `copy` on each name, several in parallel; after the first error no further copy is started, and the error is
    raised."""
    failed = threading.Event()

    def copy_unless_failed(name: str) -> None:
        if not failed.is_set():
            try:
                copy(name)
            except BaseException:
                failed.set()
                raise

    with ThreadPoolExecutor(COPY_THREADS) as pool:
        for _ in pool.map(copy_unless_failed, names):
            pass
