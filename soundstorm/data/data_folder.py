"""A data folder and the list of its files, including files that cannot be opened or whose names are not UTF-8."""

import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from soundstorm.audio.file_kinds import is_audio
from soundstorm.data.indexing.listing import Listing, Rejection
from soundstorm.errors import SoundStormError
from soundstorm.schemas import Reason


@dataclass(kw_only=True, frozen=True)
class DatasetFolder:
    """A data folder: its file system, path and URI."""

    filesystem: FileSystem
    root: str
    """Path within the file system, without trailing slash."""
    uri: str
    """The same folder as a URI, without trailing slash."""
    names_below: Callable[[str], Iterable[str]] | None = None
    """Lists the files below a path of a file system that is not local, each relative to it, one after the other; None:
    the file system lists them all at once."""

    def list_files(self, folder: str = "") -> Listing:
        """All files at any depth below `folder`, hidden ones too, in one listing; paths are relative to the data
        folder."""
        base = posixpath.join(self.root, folder).rstrip("/") or "/"
        try:
            return Listing((posixpath.join(folder, path), rejection) for path, rejection in self._below(base))
        except (OSError, UnicodeDecodeError) as error:
            raise SoundStormError(
                f"{self.uri}/{folder} cannot be listed ({error}): check that all its folders are readable"
            ) from error

    def _below(self, base: str) -> Iterator[tuple[str, Rejection | None]]:
        if isinstance(self.filesystem, LocalFileSystem):
            yield from _walk(base)
        elif self.names_below is not None:
            yield from ((name, None) for name in self.names_below(base))
        else:
            infos = self.filesystem.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
            yield from ((info.path[len(base) :].lstrip("/"), None) for info in infos if info.type == FileType.File)

    def has_file(self, path: str) -> bool:
        """Whether the file exists."""
        return bool(self.filesystem.get_file_info(posixpath.join(self.root, path)).type == FileType.File)

    def read(self, path: str) -> bytes:
        """The content of a file; raises OSError."""
        with self.filesystem.open_input_stream(posixpath.join(self.root, path)) as stream:
            return bytes(stream.read())


def is_recording(path: str) -> bool:
    """Whether a path is that of an audio file that is not hidden."""
    return is_audio(path) and not is_hidden(path)


def is_hidden(path: str) -> bool:
    """Whether a file or a folder in its path is hidden, or is metadata that macOS adds to archives."""
    return any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def _walk(base: str) -> Iterator[tuple[str, Rejection | None]]:
    """Files below a local folder, following links: a file appears once per path that leads to it. A link to a folder
    that contains it is not followed."""
    if not Path(base).is_dir():
        return
    ways = [("", frozenset([_identity(base)]))]
    while ways:
        below, way = ways.pop()
        folder = posixpath.join(base, below) if below else base
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        may_enter = os.access(folder, os.X_OK)
        with entries:
            for entry in entries:
                path = posixpath.join(below, entry.name)
                if not _is_folder(entry):
                    yield _checked(path, entry, may_enter)
                elif (identity := _identity(entry.path)) in way:
                    yield printable(path), (Reason.UNREADABLE_FILE, "it is a link to a folder that contains it")
                else:
                    ways.append((path, way | {identity}))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a folder, or a link to one that can be reached."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _checked(path: str, entry: "os.DirEntry[str]", may_enter: bool) -> tuple[str, Rejection | None]:
    """The path of a file as text, and why the file cannot be read, None if it can. Only the folder is asked about a
    regular file in a folder that may be entered."""
    is_regular = may_enter and entry.is_file(follow_symlinks=False)
    rejection = None if is_regular else _rejection(entry.path)
    name = printable(path)
    if rejection is None and name != path:
        rejection = (Reason.UNREADABLE_FILE, "its name is not UTF-8: rename it")
    return name, rejection


def printable(path: str) -> str:
    """A local path as text that can be stored: bytes that are not UTF-8 are escaped, as in `rain/\xff.wav`."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)  # noqa: PTH116 (faster than a Path)
    return found.st_dev, found.st_ino


def _rejection(path: str) -> Rejection | None:
    """Why a local file cannot be read, None if it can."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError as error:
        if not os.path.islink(path):  # noqa: PTH114
            return Reason.UNREADABLE_FILE, f"its status cannot be read: {error.strerror}"
        return Reason.MISSING_FILE, f"it is a link to {printable(os.readlink(path))}, which does not exist"  # noqa: PTH115
    return None if stat.S_ISREG(mode) else (Reason.UNREADABLE_FILE, "it is a pipe, a socket or a device, not a file")
