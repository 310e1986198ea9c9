"""Finding the rows of a column of texts by a key of each text, with 12 bytes a row."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

ROWS_AT_ONCE = 16_384
"""Rows of a column that are Python objects at a time."""


class TextLookup:
    """Maps a key to the rows that have it, without holding keys: it keeps their hashes, sorted, and compares the texts
    of the rows whose hash is that of the key.

    Args:
        texts: a column of texts, which is not copied.
        key: of a text.
        among: whether a text has a key; by default all do.
    """

    def __init__(
        self,
        texts: pa.Array | pa.ChunkedArray,
        key: Callable[[str], str] = str,
        among: Callable[[str], bool] = lambda text: True,
    ) -> None:
        self._texts, self._key = texts, key
        rows = np.fromiter((row for row, text in enumerate(iter_texts(texts)) if among(text)), np.uint32)
        hashes = np.fromiter((hash(key(text)) for text in iter_texts(texts) if among(text)), np.int64, len(rows))
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._rows = hashes[order], rows[order]

    def rows(self, key: str) -> list[int]:
        """The rows whose text has this key, in rising order."""
        value = np.int64(hash(key))
        at = int(self._hashes.searchsorted(value))
        found = []
        while at < len(self._hashes) and self._hashes[at] == value:
            row = int(self._rows[at])
            if self._key(self._texts[row].as_py()) == key:
                found.append(row)
            at += 1
        return found


def iter_texts(column: pa.Array | pa.ChunkedArray) -> Iterator[str]:
    """The texts of a column, of which only some are Python objects at a time."""
    for start in range(0, len(column), ROWS_AT_ONCE):
        yield from column.slice(start, ROWS_AT_ONCE).to_pylist()


def hashes_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A hash of each text of a column; equal texts have equal hashes in this process, and null has 0."""
    texts = iter_texts(column)
    return np.fromiter((0 if text is None else hash(text) for text in texts), np.int64, len(column))
