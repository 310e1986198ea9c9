"""Layouts of datasets on disk or in a bucket: which files and rows there are, before any file is opened as audio.

Each layout yields one `IndexEntry` per row or file, with the reason why it cannot be used, if there is one. The files
are listed once per dataset.
"""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from soundstorm.data.categories import normalized
from soundstorm.data.data_folder import DatasetFolder
from soundstorm.data.indexing.entries import Entries, IndexEntry, tabulate
from soundstorm.data.indexing.listing import Listing, composed
from soundstorm.data.labels_file import LabelRow, LabelTable, read_labels, whole_number
from soundstorm.schemas import Ignored, Reason

TRUE = ("true", "1", "1.0", "yes")
FOLDER_FOLDS = 5
"""Number of folds to which clips of a `folder` dataset are assigned if it has no folds."""

_NOT_A_NAME = re.compile(r"[/\\\x00-\x1f]|^\.")


@dataclass(kw_only=True, frozen=True)
class Contents:
    """The contents of a dataset."""

    data_folder: DatasetFolder
    entries: Entries
    categories: list[str]
    """In the order of their labels."""
    num_folds: int
    ignored: dict[str, tuple[Ignored, str]] = field(default_factory=dict)
    """Stored path -> reason, of files that the layout excludes from this dataset; other reasons follow from the
    names."""
    labels_path: str | None = None
    """Path of the table of labels; None: the folders are the labels."""
    notes: tuple[str, ...] = ()
    """Sentences for the user on how the dataset was read."""


@dataclass(kw_only=True, frozen=True)
class TableLayout:
    """The layout of a published dataset: a CSV, and a folder `audio` with the files that it names."""

    title: str
    """Name of the dataset in messages."""
    csv_path: str
    filename: str
    """Column with the file name; the clip_id is that name without its suffix."""
    label: str
    """Column with the published class number."""
    category: str
    """Column with the name of the class."""
    source: str
    """Column with the recording that a clip was cut from; optional."""
    num_folds: int
    audio_folder: Callable[[int], str]
    """Maps a fold to the folder of its files, relative to the data folder."""
    labels: dict[int, tuple[int, str]]
    """Published class number -> label and name of the class."""
    subset_column: str | None = None
    """Column that must be true for a row to belong to the dataset."""

    def contents(self, data_folder: DatasetFolder) -> Contents:
        """One entry per row of the CSV, in its order; only files in the folder `audio` are listed."""
        columns = [self.filename, "fold", self.label, self.category]
        if self.subset_column is not None:
            columns.append(self.subset_column)
        audio = self.audio_folder(1).split("/")[0]
        hint = f"--data-dir must be the folder that holds {audio}/ and {self.csv_path}"
        rows = read_labels(data_folder, self.csv_path, columns, [self.source], hint)
        listing = data_folder.list_files(audio)
        others: dict[str, tuple[Ignored, str]] = {}
        renamed: Counter[str] = Counter()
        entries = tabulate(self._entries(rows, listing, others, renamed), listing)
        notes = (
            [
                f"{renamed.total()} files have another suffix than {self.csv_path} says, for example "
                f"{next(iter(renamed))}: they are used"
            ]
            if renamed
            else []
        )
        return Contents(
            data_folder=data_folder,
            entries=entries,
            categories=[category for _, category in sorted(self.labels.values())],
            num_folds=self.num_folds,
            ignored=others,
            labels_path=self.csv_path,
            notes=tuple(notes),
        )

    def _entries(
        self,
        rows: LabelTable,
        listing: Listing,
        others: dict[str, tuple[Ignored, str]],
        renamed: Counter[str],
    ) -> Iterator[IndexEntry]:
        """The entries of the dataset. Files of other rows are added to `others`, and those whose suffix is not that of
        their row to `renamed`, of which only the first is named."""
        why = f"column {self.subset_column} of {self.csv_path} says that it does not belong to {self.title}"
        for row in rows:
            entry = self._entry(row, listing)
            if self.subset_column is not None and row.cells[self.subset_column].casefold() not in TRUE:
                if entry.path in listing:
                    others[entry.path] = (Ignored.OTHER_DATASET, why)
                continue
            given = row.cells[self.filename]
            if entry.rejection is None and posixpath.splitext(entry.path)[1] != posixpath.splitext(given)[1]:
                renamed[next(iter(renamed), f"{entry.path} for {given}")] += 1
            yield entry

    def _entry(self, row: LabelRow, listing: Listing) -> IndexEntry:
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
            return IndexEntry(clip_id=clip_id, path=path, rejection=(reason, f"{where}: {detail}"))

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
        rejection = listing.rejection(stored)
        if rejection is not None:
            return reject(rejection[0], f"{stored}: {rejection[1]}")
        return IndexEntry(clip_id=clip_id, path=stored, fold=fold, label=label, source=cells.get(self.source, ""))


def fold_of_source(source: str, num_folds: int = FOLDER_FOLDS) -> int:
    """Fold, from 1, that depends only on the name of the source recording: adding clips later does not move any other
    clip."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % num_folds + 1


def path_inside(path: str) -> str | None:
    """`path` in normalized form (shortest, NFC), or None if it is absolute, leads out of its folder or is empty."""
    shortest = posixpath.normpath(composed(path))
    outside = shortest.startswith(("/", "../")) or shortest in (".", "..") or "\x00" in shortest
    return None if outside else shortest


def is_category(name: str) -> bool:
    """Whether a class may have this name, which also becomes the name of a folder."""
    return bool(name) and not _NOT_A_NAME.search(name)


def spelling_notes(categories: Sequence[str]) -> list[str]:
    """A sentence for each group of classes whose names differ only in spelling, such as `Dog` and `dog`."""
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
