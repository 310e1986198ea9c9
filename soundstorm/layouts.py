"""How data sets lie on disk or in a bucket: which files and CSV rows there are, before anything is opened as audio.

Each layout yields one `Candidate` per row or file, with what is wrong about it, if anything. Listings are read once per data set.
"""

import csv
import hashlib
import io
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pyarrow.fs import FileSelector, FileSystem, FileType

from soundstorm.audio_kinds import AUDIO_EXAMPLES, is_audio
from soundstorm.errors import SoundStormError
from soundstorm.schemas import Reason

FOLDER_FOLDS = 5
"""Folds that clips of a `folder` data set are dealt to where it names none."""
MAX_FOLDS = 100
"""The most folds that a CSV of a `folder` data set may name."""

_NOT_A_NAME = re.compile(r"[/\\\x00-\x1f]|^\.")


@dataclass(kw_only=True, frozen=True)
class Place:
    """A data folder: where to read it, and what to call it."""

    filesystem: FileSystem
    root: str
    """Path within the file system, without a slash at its end."""
    uri: str
    """The same place as a URI, without a slash at its end."""

    def list_files(self, folder: str = "") -> dict[str, str]:
        """Every file at any depth, without hidden ones, by one listing: path below `folder` in NFC form -> as it is stored."""
        base = posixpath.join(self.root, folder).rstrip("/")
        try:
            found = self.filesystem.get_file_info(FileSelector(base or "/", recursive=True, allow_not_found=True))
            paths = [info.path[len(base) :].lstrip("/") for info in found if info.type == FileType.File]
        except (OSError, UnicodeDecodeError) as error:
            raise SoundStormError(f"{self.uri}/{folder} cannot be listed ({error}): rename files whose names are not UTF-8") from error
        shown = sorted(path for path in paths if not any(part.startswith((".", "__MACOSX")) for part in path.split("/")))
        return {unicodedata.normalize("NFC", path): path for path in shown}

    def read_csv(self, path: str, columns: Sequence[str], hint: str) -> list[dict[str, str]]:
        """The rows of a CSV file with a header; absent cells are empty.

        Raises:
            SoundStormError: the file is missing (the message ends with `hint`), is not a CSV in UTF-8, lacks a column or has no row.
        """
        where = f"{self.uri}/{path}"
        try:
            if self.filesystem.get_file_info(posixpath.join(self.root, path)).type != FileType.File:
                raise SoundStormError(f"{where} is missing: {hint}")
            with self.filesystem.open_input_stream(posixpath.join(self.root, path)) as stream:
                text = stream.read().decode("utf-8-sig")
            reader = csv.DictReader(io.StringIO(text, newline=""), restval="", skipinitialspace=True)
            rows = [{key: (value or "").strip() for key, value in row.items() if isinstance(key, str)} for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise SoundStormError(f"{where} cannot be read as CSV in UTF-8: {error}") from error
        for column in columns:
            if column not in (reader.fieldnames or []):
                raise SoundStormError(f"{where}: column '{column}' is missing; it has {', '.join(reader.fieldnames or []) or 'no columns'}")
        if not rows:
            raise SoundStormError(f"{where} has a header and no rows: there is nothing to use")
        return rows


@dataclass(kw_only=True, frozen=True)
class Candidate:
    """One row or file of a data set. `problem` says why it cannot be used, in which case the numbers mean nothing."""

    clip_id: str
    path: str
    """Path below the data folder, in NFC form or, for a clip that can be used, as it is stored."""
    fold: int = 0
    label: int = 0
    category: str = ""
    source: str = ""
    """The recording that the clip was cut from, where the CSV names one."""
    problem: tuple[Reason, str] | None = None


@dataclass(kw_only=True, frozen=True)
class TableLayout:
    """A published layout: one CSV, and a folder `audio` with the files that it names."""

    title: str
    """Name of the data set in messages."""
    csv_path: str
    filename: str
    """Column of the file's name; the clip_id is that name without its ending."""
    label: str
    """Column of the published class number."""
    category: str
    """Column of the class's name."""
    source: str
    """Column of the recording that a clip was cut from; need not be there."""
    num_folds: int
    audio_folder: Callable[[int], str]
    """Folder of a file below the data folder, given its fold."""
    labels: dict[int, tuple[int, str]]
    """Published class number -> label and name of the class."""
    only: str | None = None
    """Column that must be true for a row to belong to the data set."""

    def candidates(self, place: Place) -> Iterator[Candidate]:
        """One candidate per row of the CSV, in its order."""
        columns = [self.filename, "fold", self.label, self.category, *([self.only] if self.only else [])]
        audio = self.audio_folder(1).split("/")[0]
        rows = place.read_csv(self.csv_path, columns, f"--data-dir must be the folder that holds {audio}/ and {self.csv_path}")
        files = place.list_files(audio)
        for number, row in enumerate(rows, start=2):
            if self.only is None or row[self.only].lower() in ("true", "1"):
                yield self._candidate(row, f"row {number} of {self.csv_path}", audio, files)

    def _candidate(self, row: dict[str, str], where: str, audio: str, files: dict[str, str]) -> Candidate:
        fold, published = _whole_number(row["fold"], 1, self.num_folds), _whole_number(row[self.label], 0, max(self.labels))
        folder = self.audio_folder(fold or 1)
        inside = _path_inside(row[self.filename])
        path = f"{folder}/{inside or row[self.filename]}"
        clip_id = posixpath.splitext(inside)[0] if inside else row[self.filename] or where

        def reject(reason: Reason, detail: str) -> Candidate:
            return Candidate(clip_id=clip_id, path=path, problem=(reason, f"{where}: {detail}"))

        if not row[self.filename]:
            return reject(Reason.MISSING_FILE, f"the {self.filename} is empty")
        if inside is None:
            return reject(Reason.OUTSIDE_DATA_FOLDER, f"'{row[self.filename]}' leads out of the folder {folder}")
        if fold is None:
            return reject(Reason.BAD_FOLD, f"fold '{row['fold']}': {self.title} has folds 1 to {self.num_folds}")
        if published not in self.labels:
            return reject(Reason.BAD_LABEL, f"{self.label} '{row[self.label]}': {self.title} has {_ranges(sorted(self.labels))}")
        label, category = self.labels[published]
        if row[self.category] != category:
            return reject(Reason.BAD_LABEL, f"{self.label} {published} is '{category}' in {self.title}, not '{row[self.category]}'")
        stored = files.get(path.removeprefix(f"{audio}/"))
        if stored is None:
            return reject(Reason.MISSING_FILE, f"{path} does not exist")
        return Candidate(clip_id=clip_id, path=f"{audio}/{stored}", fold=fold, label=label, category=category, source=row.get(self.source, ""))


def folder_candidates(place: Place) -> tuple[list[Candidate], list[str], int]:
    """A folder of one's own: with one CSV at its top that CSV decides, else each sub-folder is a class.

    Returns:
        The candidates, the categories in the order of their labels, and the number of folds.
    """
    files = place.list_files()
    tables = [path for path in files.values() if "/" not in path and path.lower().endswith(".csv")]
    if len(tables) > 1:
        raise SoundStormError(f"{place.uri} holds several CSV files ({', '.join(tables)}): give the one to use as --data-dir")
    return csv_candidates(place, tables[0], files) if tables else _sub_folder_candidates(place, files)


def csv_candidates(place: Place, path: str, files: dict[str, str] | None = None) -> tuple[list[Candidate], list[str], int]:
    """A CSV of one's own with columns `filename` (from the CSV's folder), `category`, and if known `fold` and `source`.

    Without `fold`, clips are dealt to 5 folds by the hash of their `source` (the recording that they were cut from), else of their path.
    """
    rows = place.read_csv(path, ("filename", "category"), "give a folder of class folders, or a CSV with filename,category[,fold]")
    files = place.list_files() if files is None else files
    categories = sorted({row["category"] for row in rows if _is_category(row["category"])})
    labels = {category: label for label, category in enumerate(categories)}
    candidates = [_csv_candidate(row, f"row {number} of {path}", labels, files) for number, row in enumerate(rows, start=2)]
    num_folds = max((candidate.fold for candidate in candidates), default=1) if "fold" in rows[0] else FOLDER_FOLDS
    return candidates, categories, num_folds


def fold_of_source(source: str, num_folds: int = FOLDER_FOLDS) -> int:
    """A fold from 1 that depends on the name of the source recording only: clips that are added later move no other clip."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % num_folds + 1


def _csv_candidate(row: dict[str, str], where: str, labels: dict[str, int], files: dict[str, str]) -> Candidate:
    inside, category = _path_inside(row["filename"]), row["category"]
    clip_id = inside or row["filename"] or where

    def reject(reason: Reason, detail: str) -> Candidate:
        return Candidate(clip_id=clip_id, path=clip_id, problem=(reason, f"{where}: {detail}"))

    if not row["filename"]:
        return reject(Reason.MISSING_FILE, "the filename is empty")
    if inside is None:
        return reject(Reason.OUTSIDE_DATA_FOLDER, f"'{row['filename']}' leads out of the data folder")
    if category not in labels:
        return reject(Reason.BAD_LABEL, f"category '{category}' must be a name that can be a folder's: not empty, no slashes, no dot at its start")
    fold = _whole_number(row["fold"], 1, MAX_FOLDS) if "fold" in row else fold_of_source(row.get("source") or clip_id)
    if fold is None:
        return reject(Reason.BAD_FOLD, f"fold '{row['fold']}': folds are whole numbers from 1 to {MAX_FOLDS}")
    if inside not in files:
        return reject(Reason.MISSING_FILE, f"{inside} does not exist")
    return Candidate(clip_id=clip_id, path=files[inside], fold=fold, label=labels[category], category=category, source=row.get("source", ""))


def _sub_folder_candidates(place: Place, files: dict[str, str]) -> tuple[list[Candidate], list[str], int]:
    """One class per sub-folder; files may lie deeper in it. The clip_id is the path, with its ending."""
    audio = {path: stored for path, stored in files.items() if is_audio(path)}
    categories = sorted({path.split("/")[0] for path in audio if "/" in path and _is_category(path.split("/")[0])})
    if not categories:
        raise SoundStormError(f"{place.uri} has no sub-folder with {AUDIO_EXAMPLES} files: make one a class, or add a CSV filename,category")
    labels = {category: label for label, category in enumerate(categories)}
    candidates = []
    for path, stored in audio.items():
        category = path.split("/")[0] if "/" in path else ""
        problem = None if category in labels else (Reason.BAD_LABEL, f"{path} lies in no folder that can be a class")
        candidates.append(
            Candidate(clip_id=path, path=stored, fold=fold_of_source(path), label=labels.get(category, 0), category=category, problem=problem)
        )
    return candidates, categories, FOLDER_FOLDS


def _path_inside(path: str) -> str | None:
    """`path` in its shortest NFC form, or None if it is absolute, leads out of its folder or names nothing."""
    shortest = posixpath.normpath(unicodedata.normalize("NFC", path))
    outside = shortest.startswith(("/", "../")) or shortest in (".", "..") or "\x00" in shortest
    return None if outside else shortest


def _is_category(name: str) -> bool:
    return bool(name) and not _NOT_A_NAME.search(name)


def _whole_number(text: str, lowest: int, highest: int) -> int | None:
    """The number, or None if `text` is no whole number or is out of range."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    return number if lowest <= number <= highest else None


def _ranges(numbers: list[int]) -> str:
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(str(number) for number in numbers)
