"""The list of the files of a data folder, in columns, and how the name in a row of a table finds its file."""

import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from soundstorm.audio.file_kinds import is_audio
from soundstorm.data.indexing.text_lookup import ROWS_AT_ONCE, TextLookup, iter_texts
from soundstorm.schemas import Reason

Rejection = tuple[Reason, str]
"""Why a file or a row cannot be used."""


class Listing:
    """The files of a data folder by their stored path relative to it, sorted.

    Args:
        files: path of each file, and why it cannot be opened, None if no reason is known; in any order.
    """

    def __init__(self, files: Iterable[tuple[str, Rejection | None]]) -> None:
        self._rejections: dict[str, Rejection] = {}
        texts = pa.chunked_array(list(self._chunks(files)), pa.large_string()).combine_chunks()
        if self._rejections:  # names that are not UTF-8 may be written like another name
            texts = pc.unique(texts)
        self.paths: pa.LargeStringArray = texts.take(pc.sort_indices(texts))
        """Stored paths, sorted."""

    def _chunks(self, files: Iterable[tuple[str, Rejection | None]]) -> Iterator[pa.LargeStringArray]:
        """The paths as they come; the rejections are kept apart."""
        remaining = iter(files)
        while some := list(islice(remaining, ROWS_AT_ONCE)):
            self._rejections |= {path: rejection for path, rejection in some if rejection is not None}
            yield pa.array([path for path, _ in some], pa.large_string())

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[str]:
        return iter_texts(self.paths)

    def __contains__(self, path: str) -> bool:
        return self.row(path) is not None

    def row(self, path: str) -> int | None:
        """Number of a stored path among `paths`; None if there is no such file."""
        return next(iter(self._by_path.rows(path)), None)

    def rejection(self, path: str) -> Rejection | None:
        """Why a file cannot be opened, None if no reason is known."""
        return self._rejections.get(path)

    def others(self, rows: np.ndarray) -> Iterator[str]:
        """The paths whose numbers are not among `rows`."""
        others = np.ones(len(self), bool)
        others[rows] = False
        return iter_texts(self.paths.filter(pa.array(others)))

    @cached_property
    def _by_path(self) -> TextLookup:
        return TextLookup(self.paths)

    @cached_property
    def _by_form(self) -> dict[str, list[str]]:
        """Composed form -> paths that are not ASCII; the others are their own form."""
        groups: dict[str, list[str]] = {}
        for path in self:
            if not path.isascii():
                groups.setdefault(composed(path), []).append(path)
        return groups

    @cached_property
    def _by_case(self) -> TextLookup:
        return TextLookup(self.paths, lambda path: composed(path).casefold())

    @cached_property
    def _recordings_by_stem(self) -> TextLookup:
        return TextLookup(self.paths, lambda path: composed(posixpath.splitext(path)[0]), is_audio)

    def find(self, path: str) -> str | None:
        """The stored path that `path` refers to: an exact match, or else one in another Unicode form, or else a unique
        one that differs only in case."""
        if path in self:
            return path
        form = composed(path)
        alike = [*([form] if form in self else []), *self._by_form.get(form, [])]
        if alike:
            return min(alike)
        rows = self._by_case.rows(form.casefold())
        return str(self.paths[rows[0]].as_py()) if len(rows) == 1 else None

    def find_recording(self, path: str) -> str | None:
        """Like `find`; if there is no such file, the only recording with the same name and another suffix."""
        stored = self.find(path)
        if stored is not None:
            return stored
        rows = self._recordings_by_stem.rows(composed(posixpath.splitext(path)[0] if is_audio(path) else path))
        return str(self.paths[rows[0]].as_py()) if len(rows) == 1 else None

    def free_lookups(self) -> None:
        """Free what `find` and others have built to look paths up; they build it again when it is needed."""
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                self.__dict__.pop(name, None)

    def name_of(self, stored: str) -> str:
        """Name of a file in Unicode form NFC, the same on every system. If several files differ only in their Unicode
        form, one gets the NFC name and the others keep their stored names."""
        if stored.isascii():
            return stored
        name = composed(stored)
        first = name if name in self else self._by_form[name][0]
        return name if stored == first else stored


def composed(text: str) -> str:
    """`text` in Unicode form NFC, in which an accent is part of its letter."""
    return unicodedata.normalize("NFC", text)
