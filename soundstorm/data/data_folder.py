"""A data folder and the list of its files, including files that cannot be opened or whose names are not UTF-8."""

import os
import posixpath
import stat
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from soundstorm.audio.file_kinds import is_audio
from soundstorm.errors import SoundStormError
from soundstorm.schemas import Reason

Rejection = tuple[Reason, str]
"""Why a file or a row cannot be used."""


@dataclass(kw_only=True, frozen=True)
class Listing:
    """The files of a data folder."""

    files: dict[str, Rejection | None]
    """Stored path, relative to the data folder -> why the file cannot be opened, None if no reason is known."""

    @cached_property
    def _by_form(self) -> dict[str, list[str]]:
        return _grouped(self.files, composed)

    @cached_property
    def _by_case(self) -> dict[str, list[str]]:
        return _grouped(self.files, lambda path: composed(path).casefold())

    @cached_property
    def _recordings_by_stem(self) -> dict[str, list[str]]:
        return _grouped(filter(is_audio, self.files), lambda path: composed(posixpath.splitext(path)[0]))

    def find(self, path: str) -> str | None:
        """The stored path that `path` refers to: an exact match, or else one in another Unicode form, or else a unique
        one that differs only in case."""
        if path in self.files:
            return path
        alike = self._by_form.get(composed(path)) or self._by_case.get(composed(path).casefold(), [])
        same_form = composed(path) in self._by_form
        return alike[0] if len(alike) == 1 or (alike and same_form) else None

    def find_recording(self, path: str) -> str | None:
        """Like `find`; if there is no such file, the only recording with the same name and another suffix."""
        alike = self._recordings_by_stem.get(composed(posixpath.splitext(path)[0] if is_audio(path) else path), [])
        return self.find(path) or (alike[0] if len(alike) == 1 else None)

    def name_of(self, stored: str) -> str:
        """Name of a file in Unicode form NFC, the same on every system. If several files differ only in their Unicode
        form, one gets the NFC name and the others keep their stored names."""
        name = composed(stored)
        alike = self._by_form[name]
        first = name if name in alike else alike[0]
        return name if stored == first else stored


@dataclass(kw_only=True, frozen=True)
class DatasetFolder:
    """A data folder: its file system, path and URI."""

    filesystem: FileSystem
    root: str
    """Path within the file system, without trailing slash."""
    uri: str
    """The same folder as a URI, without trailing slash."""

    def list_files(self, folder: str = "") -> Listing:
        """All files at any depth below `folder`, hidden ones too, in one listing; paths are relative to the data
        folder."""
        base = posixpath.join(self.root, folder).rstrip("/") or "/"
        try:
            if isinstance(self.filesystem, LocalFileSystem):
                found = _walk(base)
            else:
                infos = self.filesystem.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
                found = {info.path[len(base) :].lstrip("/"): None for info in infos if info.type == FileType.File}
        except (OSError, UnicodeDecodeError) as error:
            raise SoundStormError(
                f"{self.uri}/{folder} cannot be listed ({error}): check that all its folders are readable"
            ) from error
        return Listing(files={posixpath.join(folder, path): found[path] for path in sorted(found)})

    def has_file(self, path: str) -> bool:
        """Whether the file exists."""
        return bool(self.filesystem.get_file_info(posixpath.join(self.root, path)).type == FileType.File)

    def read(self, path: str) -> bytes:
        """The content of a file; raises OSError."""
        with self.filesystem.open_input_stream(posixpath.join(self.root, path)) as stream:
            return bytes(stream.read())


def composed(text: str) -> str:
    """`text` in Unicode form NFC, in which an accent is part of its letter."""
    return unicodedata.normalize("NFC", text)


def is_hidden(path: str) -> bool:
    """Whether a file or a folder in its path is hidden, or is metadata that macOS adds to archives."""
    return any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def _grouped(paths: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def _walk(base: str) -> dict[str, Rejection | None]:
    """Files below a local folder, following links: a file appears once per path that leads to it. A link to a folder
    that contains it is not followed."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    if not Path(base).is_dir():
        return {}
    found: dict[str, Rejection | None] = {}
    ways = {base: frozenset([_identity(base)])}
    for folder, folders, names in os.walk(base, followlinks=True, onerror=refuse):
        way, below = ways.pop(folder), folder[len(base) :].lstrip("/")
        for name in list(folders):
            path = posixpath.join(folder, name)
            identity = _identity(path)
            if identity in way:
                folders.remove(name)
                found[printable(posixpath.join(below, name))] = (
                    Reason.UNREADABLE_FILE,
                    "it is a link to a folder that contains it",
                )
            else:
                ways[path] = way | {identity}
        for name in names:
            relative = posixpath.join(below, name)
            rejection = _rejection(posixpath.join(folder, name))
            if rejection is None and printable(relative) != relative:
                rejection = (Reason.UNREADABLE_FILE, "its name is not UTF-8: rename it")
            found[printable(relative)] = rejection
    return found


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
