"""Accounts for every file of a data folder: found = tokenized + rejected + ignored."""

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from soundstorm.audio.file_kinds import is_audio
from soundstorm.data.clip_windows import split_window
from soundstorm.data.data_folder import is_hidden
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


def ignored_files(contents: Contents, left_out: Iterable[str]) -> pa.Table:
    """The files that neither a row nor a class folder makes a clip (schema IGNORED), each with the reason.

    Args:
        contents: of the data folder.
        left_out: paths of clips that are not used because their source recording also has clips in another fold.
    """
    tried = {entry.path for entry in contents.entries}
    reasons = {path: _why(path, contents) for path in contents.listing.files if path not in tried}
    reasons |= dict.fromkeys(
        left_out, (Ignored.SOURCE_IN_TWO_FOLDS, "its recording has more clips in another fold (--strict-folds)")
    )
    rows = [
        {"uri": f"{contents.data_folder.uri}/{path}", "reason": reason.value, "detail": detail}
        for path, (reason, detail) in sorted(reasons.items())
    ]
    return pa.Table.from_pylist(rows, IGNORED)


def account(found: int, clips: pa.Table, rejected: pa.Table, ignored: pa.Table, files: frozenset[str]) -> Account:
    """Count what happened to each file.

    Args:
        found: number of files in the data folder.
        clips: clips of the index, or windows of them, schema CLIPS.
        rejected: rejections of all stages, schema REJECTED.
        ignored: schema IGNORED.
        files: URIs of the rows rejected at stage "index" whose file exists.

    Raises:
        SoundStormError: a file is in none of the tables or in two of them.
    """
    lost = {row["clip_id"] for row in rejected.to_pylist() if row["stage"] != "index"}
    tokenized = {
        split_window(row["uri"])[0]
        for row in clips.select(["clip_id", "uri"]).to_pylist()
        if row["clip_id"] not in lost
    }
    rows = [(row["stage"], split_window(row["uri"])[0]) for row in rejected.to_pylist()]
    elsewhere = tokenized | set(ignored["uri"].to_pylist())
    at_index = {uri for stage, uri in rows if stage == "index" and uri in files} - elsewhere
    refused = at_index | ({uri for stage, uri in rows if stage != "index"} - tokenized)
    result = Account(
        found=found,
        tokenized=len(tokenized),
        rejected=len(refused),
        ignored=ignored.num_rows,
        rows_without_file=sum(stage == "index" for stage, _ in rows) - len(at_index),
    )
    if result.found != result.tokenized + result.rejected + result.ignored:
        raise SoundStormError(
            f"{result}: these do not add up; the data folder was changed during the run: run again with --overwrite"
        )
    return result


def _why(path: str, contents: Contents) -> tuple[Ignored, str]:
    """Why a file is not a clip."""
    rejection = contents.listing.files[path]
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
