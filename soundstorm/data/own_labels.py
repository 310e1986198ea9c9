"""A table of labels of one's own: which files are used, and what they are called, is what its rows say."""

import posixpath
from dataclasses import dataclass

from soundstorm.audio.file_kinds import is_audio
from soundstorm.data.data_folder import DatasetFolder, Listing, composed, is_hidden
from soundstorm.data.labels_file import LabelRow, read_labels, whole_number
from soundstorm.data.layouts import FOLDER_FOLDS, Contents, IndexEntry, fold_of_source, is_category, path_inside
from soundstorm.schemas import Reason

COLUMNS = ("filename", "category")
OPTIONAL = ("fold", "source")
AUDIO_FOLDERS = ("audio", "wav", "wavs", "clips", "sounds", "recordings", "data")
"""Folders beside a table of labels that its names may be relative to, as in ESC-50 and the data sets of DCASE."""
TABLE_FOLDERS = ("meta", "metadata", "labels", "annotations")
"""Folders that hold tables of labels and lie beside the recordings."""
MAX_FOLDS = 100
"""The most folds that a table may name."""


@dataclass(kw_only=True, frozen=True)
class _Table:
    """What the rows of one table have in common."""

    place: DatasetFolder
    path: str
    listing: Listing
    labels: dict[str, int]
    bases: tuple[str, ...]
    """Folders that names may be relative to, the first match counts; "" is the data folder."""


def csv_contents(place: DatasetFolder, path: str, listing: Listing | None = None) -> Contents:
    """A CSV of one's own with columns `filename`, `category`, and if known `fold` and `source`.

    Names are looked for in the folder of the CSV, in the data folder, and in a folder such as `audio` there. Without
    `fold`, clips are dealt to 5 folds by the hash of their `source` (the recording that they were cut from), else of
    their name.
    """
    hint = "give a folder of class folders, or a CSV with filename,category[,fold]"
    rows = read_labels(place, path, COLUMNS, OPTIONAL, hint)
    listing = place.list_files() if listing is None else listing
    categories = sorted({name for row in rows if is_category(name := composed(row.cells["category"]))})
    tops = {name.split("/")[0] for name in listing.files if "/" in name}
    bases = dict.fromkeys(
        [posixpath.dirname(path), "", *(name for name in sorted(tops) if name.casefold() in AUDIO_FOLDERS)]
    )
    table = _Table(
        place=place,
        path=path,
        listing=listing,
        labels={name: label for label, name in enumerate(categories)},
        bases=tuple(bases),
    )
    candidates = [_candidate(table, row) for row in rows]
    num_folds = (
        max((candidate.fold for candidate in candidates), default=1) if "fold" in rows[0].cells else FOLDER_FOLDS
    )
    usable = [candidate for candidate in candidates if candidate.problem is None]
    return Contents(
        place=place,
        listing=listing,
        candidates=candidates,
        categories=categories,
        num_folds=num_folds,
        labels_path=path,
        notes=tuple(_overridden(table, usable)),
    )


def _overridden(table: _Table, usable: list[IndexEntry]) -> list[str]:
    """What the table leaves unused though it looks like a class folder."""
    taken = {candidate.path for candidate in usable}
    recordings = [name for name in table.listing.files if is_audio(name) and not is_hidden(name)]
    unused = [name for name in recordings if name not in taken]
    folders = sorted(
        {name.split("/")[0] for name in recordings if "/" in name} - {base for base in table.bases if base}
    )
    notes = []
    if unused and folders:
        notes.append(
            f"{table.path} decides what is used, and not the {len(folders)} folders beside it ({', '.join(folders[:5])}"
            f"{', ...' if len(folders) > 5 else ''}): {len(unused)} recordings that it does not name are ignored, for "
            f"example {unused[0]}; "
            "move it away to have the folders as classes"
        )
    return notes


def _candidate(table: _Table, row: LabelRow) -> IndexEntry:
    cells, where = row.cells, f"row {row.number} of {table.path}"
    given, category = cells["filename"], composed(cells["category"])
    inside, stored = _looked_up(table, given)
    clip_id = inside or given or where
    if stored is not None and table.listing.name_of(stored) == stored != composed(stored):
        clip_id = stored  # another file has the same name in composed form
    path = stored or clip_id

    def reject(reason: Reason, detail: str) -> IndexEntry:
        return IndexEntry(clip_id=clip_id, path=path, problem=(reason, f"{where}: {detail}"))

    surplus = (
        f"; the row has {row.surplus} more cells than the header: put names that hold what parts the cells into quotes"
        if row.surplus
        else ""
    )
    if not given:
        return reject(Reason.MISSING_FILE, "the filename is empty")
    if inside is None:
        return reject(Reason.OUTSIDE_DATA_FOLDER, f"'{given}' leads out of the data folder")
    if category not in table.labels:
        name = (
            f"category '{category}' must be a name that can be a folder's: not empty, no slashes, no dot at its start"
        )
        return reject(Reason.BAD_LABEL, name + surplus)
    source = cells.get("source", "")
    fold = whole_number(cells["fold"], 1, MAX_FOLDS) if "fold" in cells else fold_of_source(source or inside)
    if fold is None:
        return reject(
            Reason.BAD_FOLD, f"fold '{cells['fold']}': folds are whole numbers from 1 to {MAX_FOLDS}{surplus}"
        )
    if stored is None:
        places = ", ".join(f"{table.place.uri}/{base}".rstrip("/") for base in table.bases)
        return reject(Reason.MISSING_FILE, f"{inside} does not exist; it was looked for in {places}{surplus}")
    problem = table.listing.files[stored]
    if problem is not None:
        return reject(problem[0], f"{stored}: {problem[1]}")
    return IndexEntry(
        clip_id=clip_id, path=stored, fold=fold, label=table.labels[category], category=category, source=source
    )


def _looked_up(table: _Table, given: str) -> tuple[str | None, str | None]:
    """The name in a row as a path that stays inside, and the stored path that it means; None where there is none."""
    root = f"{table.place.root}/"
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
