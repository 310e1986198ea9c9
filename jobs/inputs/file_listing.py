"""The audio files that a command line names, in a fixed order and kept on disk, so that memory does not grow with their
number."""

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from fsspec.utils import glob_translate

from cluster import storage, tables
from cluster.tables.stream import write_table_stream
from jobs.console.command import print_note
from soundstorm.audio.file_kinds import AUDIO_EXAMPLES, is_audio
from soundstorm.data.data_folder import printable
from soundstorm.errors import SoundStormError

LISTED = pa.schema([pa.field("uri", pa.string(), nullable=False)])
ROWS_AT_ONCE = 4096
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Audio files by URI; made by `list_audio`."""

    path: Path
    """A Parquet file on this machine, schema LISTED."""
    count: int
    digest: str
    """SHA-256 over URIs, and sizes where they were listed, in order: changes when the files do."""

    def reader(self) -> Callable[[range], list[str]]:
        """A function that gives the URIs of a range of numbers; each range must begin where the one before it ends, or
        later."""
        batches = tables.iter_batches(str(self.path), rows=ROWS_AT_ONCE)
        held: list[str] = []
        first = 0

        def read(numbers: range) -> list[str]:
            nonlocal held, first
            while first + len(held) < numbers.stop:
                done = min(max(0, numbers.start - first), len(held))
                held, first = held[done:] + next(batches)["uri"].to_pylist(), first + done
            return held[numbers.start - first : numbers.stop - first]

        return read


@contextlib.contextmanager
def list_audio(sources: Sequence[str], table: str | None) -> Iterator[Listing]:
    """The audio files that `sources` and `table` name, in order; the listing lasts as long as the block.

    Args:
        sources: each an audio file, which need not exist; a folder or s3:// prefix, of which all audio files at any
            depth are taken; or a pattern with `*`, `?`, `[...]` and, for folders at any depth, `**`. One that is named
            twice is taken once.
        table: a Parquet file, or a folder of part-*.parquet, with a column `uri`; None: none.

    Raises:
        SoundStormError: nothing was named, or there is no audio file where one of them says.
        ClusterError: a place cannot be listed.
    """
    if not sources and table is None:
        raise SoundStormError(
            "no files: name audio files, folders, s3:// prefixes or patterns, or a table of URIs with --list"
        )
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix="soundstorm-listing-") as folder:
        path = Path(folder) / "listing.parquet"
        count = write_table_stream(str(path), LISTED, _tables(_entries(sources, table), digest.update), {})
        if not count:
            raise SoundStormError(f"--list {table}: the table has no rows: give a table with files to classify")
        yield Listing(path=path, count=count, digest=digest.hexdigest())


def _tables(entries: Iterator[tuple[str, int]], note: Callable[[bytes], None]) -> Iterator[pa.Table]:
    """The URIs in tables of a few thousand rows; `note` is called with the URI and size of each file."""
    held: list[str] = []
    for uri, size in entries:
        note(repr((uri, size)).encode())
        held.append(printable(uri))
        if len(held) >= ROWS_AT_ONCE:
            yield pa.table({"uri": held}, LISTED)
            held = []
    if held:
        yield pa.table({"uri": held}, LISTED)


def _entries(sources: Sequence[str], table: str | None) -> Iterator[tuple[str, int]]:
    """URI and size of each file; -1 for the size where it was not listed."""
    for source in dict.fromkeys(sources):
        if _WILDCARD.search(source) and not storage.exists(source):
            yield from _matching(source)
        elif is_audio(source):
            yield storage.absolute(source), -1
        else:
            yield from _below(storage.absolute(source))
    if table is not None:
        for batch in tables.iter_batches(table, columns=["uri"], rows=ROWS_AT_ONCE):
            if batch["uri"].type not in (pa.string(), pa.large_string()) or batch["uri"].null_count:
                raise SoundStormError(
                    f"--list {table}: column 'uri' is {batch['uri'].type} with {batch['uri'].null_count} empty rows; "
                    "give texts"
                )
            yield from ((storage.absolute(uri) if uri else uri, -1) for uri in batch["uri"].to_pylist())


def audio_below(folder: str) -> Iterator[tuple[str, int]]:
    """URI and size of each audio file below a folder.

    A broken link is listed too, with size -1, so that opening it raises an error that names it. Links to folders are
    not followed, and a note says so.
    """
    yield from ((entry.uri, entry.size) for entry in storage.iter_objects(folder) if is_audio(entry.uri))
    linked = []
    for uri, is_folder in storage.links_left_out(folder):
        if is_folder:
            linked.append(uri)
        elif is_audio(uri):
            yield uri, -1
    if linked:
        not_followed = (
            f"{len(linked)} {'links to folders are' if len(linked) > 1 else 'link to a folder is'} not followed, "
            f"for example {printable(linked[0])}"
        )
        print_note(f"{not_followed}: name what it leads to as well, or copy it there")


def _below(folder: str) -> Iterator[tuple[str, int]]:
    """All audio files below a folder."""
    found = False
    for uri, size in audio_below(folder):
        found = True
        yield uri, size
    if not found:
        raise SoundStormError(
            f"{folder}: no audio files ({AUDIO_EXAMPLES}) there; name a file, a folder, an s3:// prefix or a pattern"
        )


def _matching(pattern: str) -> Iterator[tuple[str, int]]:
    """The audio files that a pattern matches, below the last folder before its first wildcard."""
    whole = storage.absolute(pattern)
    wildcard = _WILDCARD.search(whole)
    assert wildcard is not None
    folder = whole[: whole.rindex("/", 0, wildcard.start())] or "/"
    try:
        matches = re.compile(glob_translate(whole)).match
    except ValueError as error:
        raise SoundStormError(f"{pattern}: ** matches folders: put it between slashes, as in a/**/*.wav") from error
    found = False
    for uri, size in audio_below(folder):
        if matches(uri):
            found = True
            yield uri, size
    if not found:
        raise SoundStormError(
            f"{pattern}: no audio file ({AUDIO_EXAMPLES}) matches; in patterns * matches a name, ** folders"
        )
