"""Accounts for every file of a data folder: found = tokenized + rejected + ignored."""

import heapq
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

import pyarrow as pa

from soundstorm.audio.file_kinds import is_audio
from soundstorm.data.clip_windows import split_window
from soundstorm.data.data_folder import is_hidden
from soundstorm.data.indexing.entries import Entries
from soundstorm.data.indexing.text_lookup import ROWS_AT_ONCE, iter_texts
from soundstorm.data.layouts import Contents
from soundstorm.errors import SoundStormError
from soundstorm.schemas import IGNORED, Ignored


@dataclass(kw_only=True, frozen=True)
class Account:
    """Number of files of a data folder by what happened to them."""

    found: int
    tokenized: int
    rejected: int
    ignored: int
    rows_without_file: int
    """Rejected rows of a table of labels that name no existing file, or the same file as another row."""

    def __str__(self) -> str:
        extra = (
            f"; {self.rows_without_file} row{'s' if self.rows_without_file > 1 else ''} without a file of their own"
            if self.rows_without_file
            else ""
        )
        return (
            f"{self.found} files found: {self.tokenized} tokenized, {self.rejected} rejected, {self.ignored} "
            f"ignored{extra}"
        )


def ignored_files(contents: Contents, entries: Entries, left_out: Iterable[str]) -> pa.Table:
    """The files that neither a row nor a class folder makes a clip (schema IGNORED), each with the reason.

    Args:
        contents: of the data folder.
        entries: its entries, of which none was left out.
        left_out: paths of clips that are not used because their source recording also has clips in another fold.
    """
    why_left = (Ignored.SOURCE_IN_TWO_FOLDS, "its recording has more clips in another fold (--strict-folds)")
    reasons = heapq.merge(
        ((path, _why(path, contents)) for path in entries.listing.others(entries.files())),
        ((path, why_left) for path in sorted(left_out)),
        key=itemgetter(0),
    )
    chunks = []
    while some := list(islice(reasons, ROWS_AT_ONCE)):
        uris = [f"{contents.data_folder.uri}/{path}" for path, _ in some]
        columns = [uris, [reason.value for _, (reason, _) in some], [detail for _, (_, detail) in some]]
        chunks.append(pa.record_batch([pa.array(column, pa.string()) for column in columns], IGNORED))
    return pa.Table.from_batches(chunks, IGNORED)


class Accounting:
    """Counts what happened to each file, from the clips and rejections in any portions.

    Args:
        found: number of files in the data folder.
        ignored: schema IGNORED.
        files: URIs of the rows rejected at stage "index" whose file exists.
    """

    def __init__(self, found: int, ignored: pa.Table, files: frozenset[str]) -> None:
        self._found, self._num_ignored = found, ignored.num_rows
        self._at_index = set(files)
        for uri in iter_texts(ignored["uri"]) if files else ():
            self._at_index.discard(uri)
        self._rows_at_index = self._tokenized = self._lost = self._lost_at_index = 0
        self._recording = ""
        self._is_used = False

    def add(self, clips: pa.Table, rejected: pa.Table) -> None:
        """Count the next clips, of which windows of a recording follow each other.

        Args:
            clips: clips of the index, or windows of them, schema CLIPS.
            rejected: rejections, schema REJECTED: those of these clips, and any of stage "index".
        """
        stages = rejected["stage"].to_pylist()
        self._rows_at_index += stages.count("index")
        lost = {
            clip_id for clip_id, stage in zip(rejected["clip_id"].to_pylist(), stages, strict=True) if stage != "index"
        }
        for clip_id, uri in zip(iter_texts(clips["clip_id"]), iter_texts(clips["uri"]), strict=True):
            recording = split_window(uri)[0] if "#" in uri else uri
            if recording != self._recording:
                self._close()
                self._recording, self._is_used = recording, False
            self._is_used |= clip_id not in lost

    def _close(self) -> None:
        """Count the recording whose clips were added last."""
        if not self._recording:
            return
        if self._is_used:
            self._tokenized += 1
            self._at_index.discard(self._recording)
        else:
            self._lost += 1
            self._lost_at_index += self._recording in self._at_index

    def result(self) -> Account:
        """The account, when all clips and rejections were added.

        Raises:
            SoundStormError: a file is in none of the tables or in two of them.
        """
        self._close()
        self._recording = ""
        result = Account(
            found=self._found,
            tokenized=self._tokenized,
            rejected=len(self._at_index) + self._lost - self._lost_at_index,
            ignored=self._num_ignored,
            rows_without_file=self._rows_at_index - len(self._at_index),
        )
        if result.found != result.tokenized + result.rejected + result.ignored:
            raise SoundStormError(
                f"{result}: these do not add up; the data folder was changed during the run: run again with --overwrite"
            )
        return result


def _why(path: str, contents: Contents) -> tuple[Ignored, str]:
    """Why a file is not a clip."""
    rejection = contents.entries.listing.rejection(path)
    and_unreadable = f"; {rejection[1]}" if rejection else ""
    if path in contents.ignored:
        reason, detail = contents.ignored[path]
        return reason, detail + and_unreadable
    if path == contents.labels_path:
        return Ignored.LABELS, "it is the table of labels" + and_unreadable
    if is_hidden(path):
        return Ignored.HIDDEN, "it is hidden, or lies in a hidden folder" + and_unreadable
    if not is_audio(path):
        suffix = posixpath.splitext(path)[1]
        return Ignored.NO_RECORDING, (
            f"its suffix '{suffix}' is not that of a recording" if suffix else "its name has no suffix"
        ) + and_unreadable
    return Ignored.UNLISTED, f"{contents.labels_path} does not name it" + and_unreadable
