"""Object storage as a pyarrow file system, for Parquet tables, dataset folders and the runs of Ray Train and Ray Tune.

It uses `s3_objects`, because pyarrow's own S3 client stops retrying after some hundred errors, publishes uploads that
were aborted, and creates objects called `prefix/`, which some servers refuse. Folders exist only as prefixes of
objects.
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import fs

from cluster.errors import NotFoundError
from cluster.storage import s3_objects as s3
from cluster.storage.uris import split

START_BYTES = 2**20  # read when an object is opened; many objects are not larger
READ_AHEAD_BYTES = 8 * 2**20
RANGE_BYTES = (
    START_BYTES  # of an object that is read in parts: what is looked at first, time and again, is here already
)


class ObjectStorage(fs.FileSystemHandler):
    """All buckets of the S3 server; a path is `bucket/key`. It has no connection and no credentials of its own, so it
    can be sent to other processes. Errors are ClusterErrors, except for missing objects, for which pyarrow and Ray
    expect FileNotFoundError.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStorage)

    def __hash__(self) -> int:
        return hash(ObjectStorage)

    def get_type_name(self) -> str:
        return "objects"

    def normalize_path(self, path: str) -> str:
        return path.rstrip("/")

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return [_info(path) for path in paths]

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        root = selector.base_dir.rstrip("/")
        files, folders = _below(root) if selector.recursive else level(_uri(root))
        if not files and not folders and not selector.allow_not_found and "/" in root:
            raise FileNotFoundError(f"{_uri(root)} does not exist")
        found = [fs.FileInfo(f"{root}/{name}", fs.FileType.Directory) for name in folders] + [
            fs.FileInfo(f"{root}/{name}", fs.FileType.File, size=size) for name, size in files.items()
        ]
        return sorted(found, key=lambda info: info.path)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Does nothing: folders are not created."""

    def delete_dir(self, path: str) -> None:
        s3.delete(_uri(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """A missing folder counts as empty, since `create_dir` creates nothing."""
        s3.delete(_uri(path))

    def delete_root_dir_contents(self) -> None:
        raise io.UnsupportedOperation("refusing to delete all buckets")

    def delete_file(self, path: str) -> None:
        if not s3.delete_one(_uri(path)):
            raise FileNotFoundError(f"{_uri(path)} does not exist")

    def move(self, src: str, dest: str) -> None:
        raise io.UnsupportedOperation(f"{_uri(src)}: objects cannot be moved: write a new one and delete the old one")

    def copy_file(self, src: str, dest: str) -> None:
        raise io.UnsupportedOperation(f"{_uri(src)}: objects cannot be copied on the server: read and write them")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(io.BufferedReader(_Reader(_uri(path)), READ_AHEAD_BYTES), mode="r")

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_Reader(_uri(path)), mode="r")

    def open_output_stream(self, path: str, metadata: dict[str, str]) -> pa.NativeFile:
        split(_uri(path))
        return pa.PythonFile(_Writer(_uri(path)), mode="w")

    def open_append_stream(self, path: str, metadata: dict[str, str]) -> pa.NativeFile:
        raise io.UnsupportedOperation(f"{_uri(path)}: objects cannot be appended to: write the whole object")


def _uri(path: str) -> str:
    return f"s3://{path.rstrip('/')}"


def level(uri: str) -> tuple[dict[str, int], list[str]]:
    """Objects directly below `uri` with their sizes in bytes, and the names of the folders there."""
    files: dict[str, int] = {}
    folders: list[str] = []
    for answer in s3.pages(uri, {"MaxKeys": s3.PAGE, "Delimiter": "/"}):
        items = [item for item in answer.get("Contents", ()) if not item["Key"].endswith("/")]
        files |= {item["Key"].rpartition("/")[2]: int(item["Size"]) for item in items}
        folders += [item["Prefix"].rstrip("/").rpartition("/")[2] for item in answer.get("CommonPrefixes", ())]
    return files, folders


def _below(root: str) -> tuple[dict[str, int], list[str]]:
    """Objects at any depth below `root` with their sizes in bytes, and folders, by their paths from it."""
    files: dict[str, int] = {}
    folders: set[str] = set()
    for uri, size in s3.list_objects(_uri(root)):
        name = uri[len(_uri(root)) + 1 :]
        files[name] = size
        parts = name.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    return files, sorted(folders)


def _info(path: str) -> fs.FileInfo:
    answer = s3.head(_uri(path)) if "/" in path.rstrip("/") else None
    if answer is not None:
        return fs.FileInfo(path, fs.FileType.File, size=int(answer["ContentLength"]))
    found = next(s3.list_objects(_uri(path), page=1), None) is not None
    return fs.FileInfo(path, fs.FileType.Directory if found else fs.FileType.NotFound)


class _Reader(io.RawIOBase):
    """An object as a file for reading, in the version at opening; reading fails if it is replaced meanwhile."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        try:
            self._start, self._found = s3.read_range(uri, 0, START_BYTES)
        except NotFoundError as error:
            raise FileNotFoundError(str(error)) from None
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(
            0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._found.size}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = min(self._position, self._found.size)
        stop = self._found.size if size < 0 else min(start + size, self._found.size)
        content = self._start[start:stop]
        if start + len(content) < stop:
            content += s3.read_range(self._uri, start + len(content), stop - start - len(content), self._found)[0]
        self._position = stop
        return content

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


def open_object(uri: str, at_once: int) -> BinaryIO:
    """Open an object for reading; one of up to `at_once` bytes is read immediately. Raises ClusterError if it does not
    exist."""
    try:
        reader = _Reader(uri)
    except FileNotFoundError as error:
        raise NotFoundError(str(error)) from None
    if reader.seek(0, os.SEEK_END) <= max(at_once, START_BYTES):
        reader.seek(0)
        return io.BytesIO(reader.read())
    reader.seek(0)
    return io.BufferedReader(reader, RANGE_BYTES)


class _Writer(io.RawIOBase):
    """An object as a file for writing. It appears when the file is closed, and not at all if it is discarded unclosed.

    Nor does it appear if it is closed because of an exception, such as at the end of a `with` block, where pyarrow
    closes its files, too.
    """

    def __init__(self, uri: str) -> None:
        self._uri, self._handled_before = uri, sys.exception()
        descriptor, name = tempfile.mkstemp(prefix="soundstorm-")
        self._path, self._file = Path(name), os.fdopen(descriptor, "wb")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            try:
                self._file.close()
                if sys.exception() in (None, self._handled_before):
                    s3.write(self._uri, self._path)
            finally:
                self._discard()
                super().close()

    def __del__(self) -> None:
        self._discard()

    def _discard(self) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
