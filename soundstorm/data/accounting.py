"""What became of every file of a data folder: found = tokenized + rejected + ignored."""

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
    """Files of a data folder by what became of them."""

    found: int
    tokenized: int
    rejected: int
    ignored: int
    rows_without_file: int
    """Rejected rows of a table of labels that name no file, or one that another row has."""

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
    """The files that no row and no class folder makes a clip (schema IGNORED), each with its reason.

    Args:
        contents: of the data folder.
        left_out: paths of clips that are not used because their recording has clips in another fold too.
    """
    tried = {candidate.path for candidate in contents.candidates}
    reasons = {path: _why(path, contents) for path in contents.listing.files if path not in tried}
    reasons |= dict.fromkeys(
        left_out, (Ignored.SOURCE_IN_TWO_FOLDS, "its recording has more clips in another fold (--strict-folds)")
    )
    rows = [
        {"uri": f"{contents.place.uri}/{path}", "reason": reason.value, "detail": detail}
        for path, (reason, detail) in sorted(reasons.items())
    ]
    return pa.Table.from_pylist(rows, IGNORED)


def account(found: int, clips: pa.Table, rejected: pa.Table, ignored: pa.Table, files: frozenset[str]) -> Account:
    """What became of each file.

    Args:
        found: files of the data folder.
        clips: of the index or windows of them, schema CLIPS.
        rejected: of all stages, schema REJECTED.
        ignored: schema IGNORED.
        files: URIs of the rejected rows of stage "index" that are those of a file.

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
            f"{result}: these do not add up; the data folder was changed meanwhile, run again with --overwrite"
        )
    return result


def _why(path: str, contents: Contents) -> tuple[Ignored, str]:
    """Why a file was not tried."""
    problem = contents.listing.files[path]
    told = f"; {problem[1]}" if problem else ""
    if path in contents.ignored:
        reason, detail = contents.ignored[path]
        return reason, detail + told
    if path == contents.labels_path:
        return Ignored.LABELS, "it says which files are used, and what they are" + told
    if is_hidden(path):
        return Ignored.HIDDEN, "it is hidden, or lies in a hidden folder" + told
    if not is_audio(path):
        ending = posixpath.splitext(path)[1]
        return Ignored.NO_RECORDING, (
            f"its ending '{ending}' is none of a recording" if ending else "its name has no ending"
        ) + told
    return Ignored.UNLISTED, f"{contents.labels_path} does not name it" + told
