"""Files on local disks, written atomically. Used by `storage` only; errors are `ClusterError`s."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cluster.errors import ClusterError
from cluster.storage.os_errors import file_error

CHUNK_BYTES = 2**20
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
"""Error numbers of file systems without hard links, such as exFAT and many network file systems."""


def path_of(uri: str | Path) -> Path:
    """Absolute path of a local URI: a path, `~`, or file://."""
    text = str(uri)
    if text.lower().startswith("file:"):
        text = unquote(urlsplit(text).path)
    if not text or "\x00" in text:
        raise ClusterError(f"{text!r} is not a path; give a local path or s3://bucket/prefix")
    return Path(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 (pathlib's own would follow links, and fail for an unknown ~user)


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    """Convert errors of the operating system into a ClusterError about `path`."""
    try:
        yield
    except OSError as error:
        raise file_error(str(path), error) from error


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Path of a hidden temporary file beside `path`; it is deleted at the end if it still exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name[:60]}.{uuid.uuid4().hex}.tmp")
    try:
        yield scratch
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def write_synced(scratch: Path, content: bytes | memoryview | Path) -> None:
    """Write `content` (bytes, or those of another file) to `scratch` and flush it to the disk."""
    with scratch.open("xb") as file:
        if isinstance(content, Path):
            with content.open("rb") as source:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write(path: Path, content: bytes | memoryview | Path) -> None:
    """Write `content` to `path` atomically, replacing existing content."""
    with errors(path), temporary_file(path) as scratch:
        write_synced(scratch, content)
        scratch.replace(path)


def create(path: Path, content: bytes) -> bool:
    """Like `write`, unless the file exists; returns False if it does. Without hard links, `path` is empty for a
    moment."""
    with errors(path), temporary_file(path) as scratch:
        write_synced(scratch, content)
        try:
            os.link(scratch, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _create_without_link(scratch, path)
        return True


def _create_without_link(scratch: Path, path: Path) -> bool:
    """Rename `scratch` to `path` unless it exists: of several processes, the one that creates the empty file does
    it."""
    try:
        path.open("xb").close()
    except FileExistsError:
        return False
    try:
        scratch.replace(path)
    except BaseException:
        path.unlink()
        raise
    return True


def walk(folder: Path) -> Iterator[tuple[str, int]]:
    """The path of every file below `folder` with its size in bytes, in a fixed order; nothing if there is no such
    folder. Files being written are left out."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise file_error(str(folder), error) from error

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            if not _is_being_written(name):
                path = os.path.join(root, name)  # noqa: PTH118 (faster than a Path, and there may be millions)
                try:
                    size = os.stat(path).st_size  # noqa: PTH116
                except OSError as error:
                    if error.errno in (errno.ENOENT, errno.ELOOP):  # deleted meanwhile, or a broken link
                        continue
                    raise file_error(path, error) from error
                yield path, size


def names(folder: Path) -> list[str]:
    """Sorted names of the files directly in `folder`, without temporary ones; empty if there is no such folder."""
    with errors(folder):
        if not folder.is_dir():
            return []
        there = (entry.name for entry in os.scandir(folder) if entry.is_file())
        return sorted(name for name in there if not _is_being_written(name))


def _is_being_written(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def links_left_out(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Symbolic links below `folder` that `walk` leaves out, in a fixed order, and whether each leads to a folder
    (otherwise it is broken)."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from ((path, True) for name in folders if (path := Path(root, name)).is_symlink())
        yield from (
            (path, False) for name in sorted(names) if (path := Path(root, name)).is_symlink() and not path.exists()
        )


def delete(path: Path) -> None:
    """Delete a file, or a folder with all its content, if it exists. Refuses to delete a whole disk or the home
    folder."""
    if path in (Path(path.anchor), Path.home()):
        raise ClusterError(f"{path} is a whole disk or home folder: name a folder below it")
    with errors(path), contextlib.suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
