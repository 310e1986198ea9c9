"""A user's own table of labels: its rows decide which files are used and what their classes are."""

import posixpath
from dataclasses import dataclass

import pyarrow.compute as pc

from soundstorm.audio.file_kinds import is_audio
from soundstorm.data.data_folder import DatasetFolder, is_recording
from soundstorm.data.indexing.entries import Entries, IndexEntry, tabulate
from soundstorm.data.indexing.listing import Listing, composed
from soundstorm.data.labels_file import LabelRow, read_labels, whole_number
from soundstorm.data.layouts import FOLDER_FOLDS, Contents, fold_of_source, is_category, path_inside
from soundstorm.schemas import Reason

COLUMNS = ("filename", "category")
OPTIONAL = ("fold", "source")
AUDIO_FOLDERS = ("audio", "wav", "wavs", "clips", "sounds", "recordings", "data")
"""Folders beside a table of labels that its file names may be relative to, as in ESC-50 and the datasets of DCASE."""
TABLE_FOLDERS = ("meta", "metadata", "labels", "annotations")
"""Folders beside the recordings that may contain tables of labels."""
MAX_FOLDS = 100
"""Largest fold number that a table may contain."""


@dataclass(kw_only=True, frozen=True)
class _Table:
    """What all rows of a table share."""

    data_folder: DatasetFolder
    path: str
    listing: Listing
    labels: dict[str, int]
    bases: tuple[str, ...]
    """Folders that file names may be relative to, in order of priority; "" is the data folder."""


def csv_contents(data_folder: DatasetFolder, path: str, listing: Listing | None = None) -> Contents:
    """Contents of a user's CSV with the columns `filename` and `category`, and optionally `fold` and `source`.

    Files are looked up in the folder of the CSV, in the data folder, and in a folder such as `audio` there. Without
    `fold`, clips are assigned to 5 folds by the hash of their `source` (the recording that they were cut from), or else
    of their name.
    """
    hint = "give a folder of class folders, or a CSV with filename,category[,fold]"
    rows = read_labels(data_folder, path, COLUMNS, OPTIONAL, hint)
    listing = data_folder.list_files() if listing is None else listing
    categories = sorted({name for row in rows if is_category(name := composed(row.cells["category"]))})
    tops = {name.split("/")[0] for name in listing if "/" in name}
    bases = dict.fromkeys(
        [posixpath.dirname(path), "", *(name for name in sorted(tops) if name.casefold() in AUDIO_FOLDERS)]
    )
    table = _Table(
        data_folder=data_folder,
        path=path,
        listing=listing,
        labels={name: label for label, name in enumerate(categories)},
        bases=tuple(bases),
    )
    entries = tabulate((_entry(table, row) for row in rows), listing)
    largest = pc.max(entries.usable["fold"]).as_py() or 0
    return Contents(
        data_folder=data_folder,
        entries=entries,
        categories=categories,
        num_folds=largest if "fold" in rows.place_of else FOLDER_FOLDS,
        labels_path=path,
        notes=tuple(_overridden(table, entries)),
    )


def _overridden(table: _Table, entries: Entries) -> list[str]:
    """A note on recordings that look like class folders but are not named by the table."""
    tops = {name.split("/")[0] for name in table.listing if "/" in name and is_recording(name)}
    folders = sorted(tops - {base for base in table.bases if base})
    if not folders:
        return []
    unused = filter(is_recording, table.listing.others(entries.usable["file"].to_numpy()))
    first = next(unused, None)
    if first is None:
        return []
    return [
        f"{table.path} decides which files are used, not the {len(folders)} folders beside it ("
        f"{', '.join(folders[:5])}{', ...' if len(folders) > 5 else ''}): {1 + sum(1 for _ in unused)} recordings that "
        f"it does not name are ignored, for example {first}; move it away to use the folders as classes"
    ]


def _entry(table: _Table, row: LabelRow) -> IndexEntry:
    cells, where = row.cells, f"row {row.number} of {table.path}"
    given, category = cells["filename"], composed(cells["category"])
    inside, stored = _looked_up(table, given)
    clip_id = inside or given or where
    if stored is not None and table.listing.name_of(stored) == stored != composed(stored):
        clip_id = stored  # another file has the same name in Unicode form NFC
    path = stored or clip_id

    def reject(reason: Reason, detail: str) -> IndexEntry:
        return IndexEntry(clip_id=clip_id, path=path, rejection=(reason, f"{where}: {detail}"))

    surplus = (
        f"; the row has {row.surplus} more cells than the header: put names that contain the delimiter into quotes"
        if row.surplus
        else ""
    )
    if not given:
        return reject(Reason.MISSING_FILE, "the filename is empty")
    if inside is None:
        return reject(Reason.OUTSIDE_DATA_FOLDER, f"'{given}' leads out of the data folder")
    if category not in table.labels:
        name = f"category '{category}' must be a valid folder name: not empty, no slashes, no dot at its start"
        return reject(Reason.BAD_LABEL, name + surplus)
    source = cells.get("source", "")
    fold = whole_number(cells["fold"], 1, MAX_FOLDS) if "fold" in cells else fold_of_source(source or inside)
    if fold is None:
        return reject(
            Reason.BAD_FOLD, f"fold '{cells['fold']}': folds are whole numbers from 1 to {MAX_FOLDS}{surplus}"
        )
    if stored is None:
        places = ", ".join(f"{table.data_folder.uri}/{base}".rstrip("/") for base in table.bases)
        return reject(Reason.MISSING_FILE, f"{inside} does not exist; it was looked for in {places}{surplus}")
    rejection = table.listing.rejection(stored)
    if rejection is not None:
        return reject(rejection[0], f"{stored}: {rejection[1]}")
    return IndexEntry(clip_id=clip_id, path=stored, fold=fold, label=table.labels[category], source=source)


def _looked_up(table: _Table, given: str) -> tuple[str | None, str | None]:
    """The file name of a row as a path within the data folder, and the stored path that it refers to; None if there is
    none."""
    root = f"{table.data_folder.root}/"
    spellings = [given] if "\\" not in given else [given, given.replace("\\", "/")]
    spellings = [spelling[len(root) :] if spelling.startswith(root) else spelling for spelling in spellings]
    insides = [path_inside(spelling) for spelling in spellings]
    for inside, spelling in zip(insides, spellings, strict=True):
        for base in table.bases if inside is not None else ():
            at = posixpath.normpath(posixpath.join(base, spelling))
            stored = table.listing.find(at) if is_audio(at) else table.listing.find_recording(at)
            if stored is not None:
                return inside, stored
    return insides[-1], None
