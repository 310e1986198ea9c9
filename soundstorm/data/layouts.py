"""How data sets lie on disk or in a bucket: which files and rows there are, before anything is opened as audio.

Each layout yields one `IndexEntry` per row or file, with what is wrong about it, if anything. Listings are read once
per data set.
"""

import hashlib
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from soundstorm.data.categories import normalized
from soundstorm.data.data_folder import DatasetFolder, Listing, Problem, composed
from soundstorm.data.labels_file import LabelRow, read_labels, whole_number
from soundstorm.schemas import Ignored, Reason

FOLDER_FOLDS = 5
"""Folds that clips of a `folder` data set are dealt to where it names none."""

_NOT_A_NAME = re.compile(r"[/\\\x00-\x1f]|^\.")


@dataclass(kw_only=True, frozen=True)
class IndexEntry:
    """One row or file of a data set. `problem` says why it cannot be used, in which case the numbers mean nothing."""

    clip_id: str
    path: str
    """Path below the data folder: as it is stored, or, where there is no such file, as the row has it."""
    fold: int = 0
    label: int = 0
    category: str = ""
    source: str = ""
    """The recording that the clip was cut from, where the CSV names one."""
    problem: Problem | None = None


@dataclass(kw_only=True, frozen=True)
class Contents:
    """What there is of a data set."""

    place: DatasetFolder
    listing: Listing
    candidates: list[IndexEntry]
    categories: list[str]
    """In the order of their labels."""
    num_folds: int
    ignored: dict[str, tuple[Ignored, str]] = field(default_factory=dict)
    """Stored path of files that are no clips of this data set for a reason of its layout -> that reason; other reasons
    are seen from the names."""
    labels_path: str | None = None
    """Of the table that decides which files are used; None: folders do."""
    notes: tuple[str, ...] = ()
    """What people should know of how the data set was read, a sentence each."""


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

    def contents(self, place: DatasetFolder) -> Contents:
        """One candidate per row of the CSV, in its order; of the files those in the folder `audio` count."""
        columns = [self.filename, "fold", self.label, self.category, *([self.only] if self.only else [])]
        audio = self.audio_folder(1).split("/")[0]
        hint = f"--data-dir must be the folder that holds {audio}/ and {self.csv_path}"
        rows = read_labels(place, self.csv_path, columns, [self.source], hint)
        listing = place.list_files(audio)
        candidates, others, renamed = [], {}, []
        for row in rows:
            candidate = self._candidate(row, listing)
            if self.only is not None and row.cells[self.only].casefold() not in ("true", "1", "1.0", "yes"):
                others[candidate.path] = (
                    Ignored.OTHER_DATASET,
                    f"column {self.only} of {self.csv_path} says that it is none of {self.title}",
                )
                continue
            candidates.append(candidate)
            if (
                candidate.problem is None
                and posixpath.splitext(candidate.path)[1] != posixpath.splitext(row.cells[self.filename])[1]
            ):
                renamed.append(f"{candidate.path} for {row.cells[self.filename]}")
        notes = (
            [
                f"{len(renamed)} files have another ending than {self.csv_path} says, for example {renamed[0]}: they "
                "are used"
            ]
            if renamed
            else []
        )
        return Contents(
            place=place,
            listing=listing,
            candidates=candidates,
            categories=[category for _, category in sorted(self.labels.values())],
            num_folds=self.num_folds,
            ignored={path: why for path, why in others.items() if path in listing.files},
            labels_path=self.csv_path,
            notes=tuple(notes),
        )

    def _candidate(self, row: LabelRow, listing: Listing) -> IndexEntry:
        cells, where = row.cells, f"row {row.number} of {self.csv_path}"
        fold, published = (
            whole_number(cells["fold"], 1, self.num_folds),
            whole_number(cells[self.label], 0, max(self.labels)),
        )
        folder = self.audio_folder(fold or 1)
        inside = path_inside(cells[self.filename])
        stored = None if inside is None else listing.find_recording(f"{folder}/{inside}")
        path = stored or f"{folder}/{inside or cells[self.filename]}"
        clip_id = posixpath.splitext(inside)[0] if inside else cells[self.filename] or where

        def reject(reason: Reason, detail: str) -> IndexEntry:
            return IndexEntry(clip_id=clip_id, path=path, problem=(reason, f"{where}: {detail}"))

        if not cells[self.filename]:
            return reject(Reason.MISSING_FILE, f"the {self.filename} is empty")
        if inside is None:
            return reject(Reason.OUTSIDE_DATA_FOLDER, f"'{cells[self.filename]}' leads out of the folder {folder}")
        if fold is None:
            return reject(Reason.BAD_FOLD, f"fold '{cells['fold']}': {self.title} has folds 1 to {self.num_folds}")
        if published not in self.labels:
            return reject(
                Reason.BAD_LABEL, f"{self.label} '{cells[self.label]}': {self.title} has {_ranges(sorted(self.labels))}"
            )
        label, category = self.labels[published]
        if normalized(cells[self.category]) != normalized(category):
            return reject(
                Reason.BAD_LABEL,
                f"{self.label} {published} is '{category}' in {self.title}, not '{cells[self.category]}'",
            )
        if stored is None:
            return reject(Reason.MISSING_FILE, f"{path} does not exist")
        problem = listing.files[stored]
        if problem is not None:
            return reject(problem[0], f"{stored}: {problem[1]}")
        return IndexEntry(
            clip_id=clip_id, path=stored, fold=fold, label=label, category=category, source=cells.get(self.source, "")
        )


def fold_of_source(source: str, num_folds: int = FOLDER_FOLDS) -> int:
    """A fold from 1 that depends on the name of the source recording only: clips that are added later move no other
    clip."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % num_folds + 1


def path_inside(path: str) -> str | None:
    """`path` in its shortest composed form, or None if it is absolute, leads out of its folder or names nothing."""
    shortest = posixpath.normpath(composed(path))
    outside = shortest.startswith(("/", "../")) or shortest in (".", "..") or "\x00" in shortest
    return None if outside else shortest


def is_category(name: str) -> bool:
    """Whether a class may have this name, which becomes that of a folder."""
    return bool(name) and not _NOT_A_NAME.search(name)


def alike(categories: Sequence[str]) -> list[str]:
    """A sentence for each name that several classes have in different spellings: `Dog` and `dog`."""
    groups: dict[str, list[str]] = {}
    for category in categories:
        groups.setdefault(normalized(category), []).append(category)
    between = "' and '"
    return [
        f"'{between.join(names)}' are {len(names)} classes: give them one name if they are one"
        for names in groups.values()
        if len(names) > 1
    ]


def _ranges(numbers: list[int]) -> str:
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(str(number) for number in numbers)
