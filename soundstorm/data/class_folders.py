"""A folder of one's own recordings: a table of labels at its top decides, else each sub-folder is a class, also below
`train` and `test`."""

import posixpath
import re
from dataclasses import dataclass, replace

from pyarrow.fs import FileType

from soundstorm.audio.file_kinds import AUDIO_EXAMPLES, is_audio
from soundstorm.data.data_folder import DatasetFolder, Listing, composed, is_hidden
from soundstorm.data.labels_file import has_columns
from soundstorm.data.layouts import FOLDER_FOLDS, Contents, IndexEntry, fold_of_source, is_category
from soundstorm.data.own_labels import AUDIO_FOLDERS, COLUMNS, TABLE_FOLDERS, csv_contents
from soundstorm.errors import SoundStormError
from soundstorm.schemas import Reason

SPLITS = {
    "train": 0,
    "training": 0,
    "val": 1,
    "valid": 1,
    "validation": 1,
    "dev": 1,
    "test": 2,
    "testing": 2,
    "eval": 2,
    "evaluation": 2,
}
"""Names of folders that part a data set for training and testing -> what comes last is tested."""
PUBLISHED = {"meta/esc50.csv": "esc50", "metadata/UrbanSound8K.csv": "urbansound8k"}
"""Tables of published data sets -> the name to open them by."""

_FOLD = re.compile(r"fold[ _-]?(\d{1,3})", re.ASCII | re.IGNORECASE)


@dataclass(kw_only=True, frozen=True)
class _Levels:
    """Which folder of a recording's path is its class."""

    classes: int
    """How many folders lie above the class."""
    folds: dict[str, int]
    """Folder right above the class -> fold; empty where folds are dealt."""
    notes: tuple[str, ...]


def folder_contents(place: DatasetFolder) -> Contents:
    """A folder of one's own: with one CSV at its top that CSV decides, else each sub-folder is a class."""
    listing = place.list_files()
    tables = [
        path for path in listing.files if "/" not in path and path.lower().endswith(".csv") and not is_hidden(path)
    ]
    if len(tables) > 1:
        raise SoundStormError(
            f"{place.uri} holds several CSV files ({', '.join(tables)}): give the one to use as --data-dir"
        )
    if tables:
        try:
            return csv_contents(place, tables[0], listing)
        except SoundStormError as error:
            raise SoundStormError(
                f"{error}; or move it out of {place.uri}, so that the sub-folders are the classes"
            ) from error
    return _beside_tables(place, listing) or _sub_folder_contents(place, listing)


def _beside_tables(place: DatasetFolder, listing: Listing) -> Contents | None:
    """`audio/` without class folders beside `meta/`: a table of labels in there decides; None where it does not look
    like that."""
    recordings = [path.split("/") for path in listing.files if is_audio(path) and not is_hidden(path)]
    if not recordings or any(len(parts) < 2 or parts[0].casefold() not in AUDIO_FOLDERS for parts in recordings):
        return None
    published = [(table, name) for table, name in PUBLISHED.items() if table in listing.files]
    if published:
        table, name = published[0]
        raise SoundStormError(
            f"{place.uri} has the layout of a published data set ({table}): give --dataset {name}, or {table} as "
            "--data-dir"
        )
    if any(len(parts) > 2 for parts in recordings):
        return None
    folders = [
        path
        for path in listing.files
        if path.lower().endswith(".csv") and path.split("/")[0].casefold() in TABLE_FOLDERS
    ]
    tables = [path for path in folders if has_columns(place, path, COLUMNS)]
    if len(tables) > 1:
        raise SoundStormError(
            f"{place.uri} holds several tables of labels ({', '.join(tables)}): give the one to use as --data-dir"
        )
    if not tables:
        return None
    found = csv_contents(place, tables[0], listing)
    note = f"{recordings[0][0]}/ is taken for the recordings that {tables[0]} names, and not for a class"
    return replace(found, notes=(note, *found.notes))


def _sub_folder_contents(place: DatasetFolder, listing: Listing) -> Contents:
    """One class per sub-folder; files may lie deeper in it. The clip_id is the path, with its ending."""
    names = {
        stored: composed(stored).split("/") for stored in listing.files if is_audio(stored) and not is_hidden(stored)
    }
    levels = _levels(place, list(names.values()))
    class_of = {
        stored: parts[levels.classes] if len(parts) > levels.classes + 1 else "" for stored, parts in names.items()
    }
    categories = sorted({category for category in class_of.values() if is_category(category)})
    if not categories:
        raise SoundStormError(
            f"{place.uri} has no sub-folder with {AUDIO_EXAMPLES} files: make one a class, or add a CSV "
            "filename,category"
        )
    labels = {category: label for label, category in enumerate(categories)}
    candidates = []
    for stored, category in class_of.items():
        problem = listing.files[stored]
        if problem is not None:
            problem = (problem[0], f"{stored}: {problem[1]}")
        elif category not in labels:
            problem = (Reason.BAD_LABEL, f"{stored} lies in no folder that can be a class")
        fold = (
            levels.folds[names[stored][levels.classes - 1]]
            if levels.folds and category
            else fold_of_source(composed(stored))
        )
        clip_id = listing.name_of(stored)
        candidates.append(
            IndexEntry(
                clip_id=clip_id,
                path=stored,
                fold=fold,
                label=labels.get(category, 0),
                category=category,
                problem=problem,
            )
        )
    twins = [stored for stored in names if listing.name_of(stored) == stored != composed(stored)]
    twin = (
        f"{len(twins)} files differ from another in the Unicode form of their names only, for example {twins[0]}: all "
        "are used"
        if twins
        else ""
    )
    return Contents(
        place=place,
        listing=listing,
        candidates=candidates,
        categories=categories,
        num_folds=max(levels.folds.values(), default=FOLDER_FOLDS),
        notes=(*levels.notes, *([twin] if twin else [])),
    )


def _levels(place: DatasetFolder, paths: list[list[str]]) -> _Levels:
    """Where the classes are, given the parts of the path of each recording."""
    above, notes = 0, []
    while True:
        tops = {parts[above] for parts in paths if len(parts) > above + 1}
        has_folders = any(len(parts) > above + 2 for parts in paths)
        if len(tops) != 1 or not has_folders or next(iter(tops)).casefold() not in AUDIO_FOLDERS:
            break
        example = next(parts for parts in paths if len(parts) > above + 1)
        notes.append(f"{'/'.join(example[: above + 1])}/ is no class: the folders in it are")
        above += 1
    folds = _folds(tops)
    if not folds or (len(folds) == 1 and len({parts[above + 1] for parts in paths if len(parts) > above + 2}) < 2):
        some = sorted(name for name in tops if name.casefold() in SPLITS)
        if len(some) > 1:
            notes.append(f"{' and '.join(some)} are taken for classes, as other folders lie beside them")
        if not has_folders and len(tops) == 1 and next(iter(tops)).casefold() in AUDIO_FOLDERS:
            notes.append(
                f"{next(iter(tops))}/ is taken for a class, the only one: no class folders are in it, and no CSV "
                f"{','.join(COLUMNS)} lies beside it, "
                f"nor in a folder {' or '.join(TABLE_FOLDERS)} there"
            )
        return _Levels(classes=above, folds={}, notes=tuple(notes))
    named = ", ".join(f"{name}/ (fold {fold})" for name, fold in folds.items())
    if not has_folders:
        raise SoundStormError(
            f"{place.uri}: {named} look like the parts of a data set, and hold no class folders: make some, or add a "
            "CSV filename,category"
        )
    if len(folds) == 1:
        notes.append(f"{next(iter(folds))}/ is no class: the folders in it are")
        return _Levels(classes=above + 1, folds={}, notes=tuple(notes))
    notes.append(
        f"{named} are taken for the parts of a data set: the folders in them are the classes, and the last fold is "
        "the one that is tested"
    )
    return _Levels(classes=above + 1, folds=folds, notes=tuple(notes))


def _folds(tops: set[str]) -> dict[str, int]:
    """The fold of each folder, in order, where all of them are named as the parts of a data set are; else none."""
    if tops and all(name.casefold() in SPLITS for name in tops):
        return {
            name: fold
            for fold, name in enumerate(sorted(tops, key=lambda name: (SPLITS[name.casefold()], name)), start=1)
        }
    matches = {name: _FOLD.fullmatch(name) for name in tops}
    numbers = {name: int(match[1]) for name, match in matches.items() if match}
    if not tops or len(numbers) < len(tops) or len(set(numbers.values())) < len(tops):
        return {}
    offset = max(0, 1 - min(numbers.values()))
    return dict(sorted(((name, number + offset) for name, number in numbers.items()), key=lambda pair: pair[1]))


def table_contents(place: DatasetFolder, csv_name: str) -> Contents:
    """The recordings that a CSV names which was given itself; one in a folder such as `meta` may name those in `audio`
    beside that folder."""
    above, _, folder = place.root.rpartition("/")
    if folder.casefold() in TABLE_FOLDERS and any(_has_folder(place, above, name) for name in AUDIO_FOLDERS):
        outer = DatasetFolder(filesystem=place.filesystem, root=above, uri=place.uri.rpartition("/")[0])
        return csv_contents(outer, posixpath.join(folder, csv_name))
    return csv_contents(place, csv_name)


def _has_folder(place: DatasetFolder, above: str, name: str) -> bool:
    return bool(place.filesystem.get_file_info(posixpath.join(above, name)).type == FileType.Directory)
