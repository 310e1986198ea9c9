"""A data folder, and the files in it by one listing: also those that cannot be opened, or whose names are no text."""

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

Problem = tuple[Reason, str]
"""Why a file or a row cannot be used."""


@dataclass(kw_only=True, frozen=True)
class Listing:
    """Files of a data folder."""

    files: dict[str, Problem | None]
    """Path below the data folder as it is stored -> why the file cannot be opened, None where nothing is known against
    it."""

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
        """The stored path that `path` means: that very one, else one in another Unicode form, else the only one that
        differs in case."""
        if path in self.files:
            return path
        alike = self._by_form.get(composed(path)) or self._by_case.get(composed(path).casefold(), [])
        same_form = composed(path) in self._by_form
        return alike[0] if len(alike) == 1 or (alike and same_form) else None

    def find_recording(self, path: str) -> str | None:
        """Like `find`; where there is no such file, the only recording of that name with another ending."""
        alike = self._recordings_by_stem.get(composed(posixpath.splitext(path)[0] if is_audio(path) else path), [])
        return self.find(path) or (alike[0] if len(alike) == 1 else None)

    def name_of(self, stored: str) -> str:
        """The name of a file in composed form (NFC), the same on every system; of files that differ in form only, one
        has it, each other its own."""
        name = composed(stored)
        alike = self._by_form[name]
        first = name if name in alike else alike[0]
        return name if stored == first else stored


@dataclass(kw_only=True, frozen=True)
class DatasetFolder:
    """A data folder: where to read it, and what to call it."""

    filesystem: FileSystem
    root: str
    """Path within the file system, without a slash at its end."""
    uri: str
    """The same place as a URI, without a slash at its end."""

    def list_files(self, folder: str = "") -> Listing:
        """Every file at any depth of the folder `folder` in it, hidden ones too, by one listing; paths are below the
        data folder."""
        base = posixpath.join(self.root, folder).rstrip("/") or "/"
        try:
            if isinstance(self.filesystem, LocalFileSystem):
                found = _walk(base)
            else:
                infos = self.filesystem.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
                found = {info.path[len(base) :].lstrip("/"): None for info in infos if info.type == FileType.File}
        except (OSError, UnicodeDecodeError) as error:
            raise SoundStormError(
                f"{self.uri}/{folder} cannot be listed ({error}): check that all folders in it may be read"
            ) from error
        return Listing(files={posixpath.join(folder, path): found[path] for path in sorted(found)})

    def has_file(self, path: str) -> bool:
        """Whether there is such a file."""
        return bool(self.filesystem.get_file_info(posixpath.join(self.root, path)).type == FileType.File)

    def read(self, path: str) -> bytes:
        """The content of a file; raises OSError."""
        with self.filesystem.open_input_stream(posixpath.join(self.root, path)) as stream:
            return bytes(stream.read())


def composed(text: str) -> str:
    """`text` in the Unicode form NFC, in which an accent is part of its letter."""
    return unicodedata.normalize("NFC", text)


def is_hidden(path: str) -> bool:
    """Whether a file or a folder on the way to it is hidden, or an archive's companion of Apple's."""
    return any(part.startswith((".", "__MACOSX")) for part in path.split("/"))


def _grouped(paths: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(key(path), []).append(path)
    return groups


def _walk(base: str) -> dict[str, Problem | None]:
    """Files below a folder of the local disk, through links, each once per way that leads to it; a link back to a
    folder on its way ends there."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    if not Path(base).is_dir():
        return {}
    found: dict[str, Problem | None] = {}
    ways = {base: frozenset([_identity(base)])}
    for folder, folders, names in os.walk(base, followlinks=True, onerror=refuse):
        way, below = ways.pop(folder), folder[len(base) :].lstrip("/")
        for name in list(folders):
            path = posixpath.join(folder, name)
            identity = _identity(path)
            if identity in way:
                folders.remove(name)
                found[shown(posixpath.join(below, name))] = (
                    Reason.UNREADABLE_FILE,
                    "it is a link back to a folder that it lies in",
                )
            else:
                ways[path] = way | {identity}
        for name in names:
            relative = posixpath.join(below, name)
            problem = _problem(posixpath.join(folder, name))
            if problem is None and shown(relative) != relative:
                problem = (Reason.UNREADABLE_FILE, "its name is not UTF-8: rename it")
            found[shown(relative)] = problem
    return found


def shown(path: str) -> str:
    r"""A path of the local disk as text that can be stored: bytes that are no UTF-8 are written out, as in
    `rain/\xff.wav`."""
    return path if path.isascii() else path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)  # noqa: PTH116 (a Path cannot be made faster)
    return found.st_dev, found.st_ino


def _problem(path: str) -> Problem | None:
    """Why nothing can be read from a name in a folder of the local disk."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError as error:
        if not os.path.islink(path):  # noqa: PTH114
            return Reason.UNREADABLE_FILE, f"it cannot be looked at: {error.strerror}"
        return Reason.MISSING_FILE, f"it is a link to {shown(os.readlink(path))}, where there is nothing"  # noqa: PTH115
    return None if stat.S_ISREG(mode) else (Reason.UNREADABLE_FILE, "it is a pipe, a socket or a device, and no file")
