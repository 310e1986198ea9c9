"""The dataset `folder`, a user's own recordings: if there is a table of labels at its top, that decides; otherwise each
sub-folder is a class, also within `train` and `test`."""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pyarrow.fs import FileType

from soundstorm.audio.file_kinds import AUDIO_EXAMPLES
from soundstorm.data.data_folder import DatasetFolder, is_hidden, is_recording
from soundstorm.data.indexing.entries import IndexEntry, tabulate
from soundstorm.data.indexing.listing import Listing, composed
from soundstorm.data.labels_file import has_columns
from soundstorm.data.layouts import FOLDER_FOLDS, Contents, fold_of_source, is_category
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
"""Names of folders that divide a dataset for training and testing -> their order; the last one is the test fold."""
PUBLISHED = {"meta/esc50.csv": "esc50", "metadata/UrbanSound8K.csv": "urbansound8k"}
"""Label tables of published datasets -> name of the dataset."""

_FOLD = re.compile(r"fold[ _-]?(\d{1,3})", re.ASCII | re.IGNORECASE)


@dataclass(kw_only=True, frozen=True)
class _Levels:
    """Which folder in a recording's path is its class."""

    classes: int
    """Number of folders above the class."""
    folds: dict[str, int]
    """Name of the folder right above the class -> fold; empty if clips are assigned to folds by hash."""
    notes: tuple[str, ...]

    def class_of(self, parts: list[str]) -> str:
        """The class of a recording, given the components of its path; "" if it lies above the class folders."""
        return parts[self.classes] if len(parts) > self.classes + 1 else ""


def folder_contents(data_folder: DatasetFolder) -> Contents:
    """Contents of a user's folder: a single CSV at its top is the table of labels; without one, each sub-folder is a
    class."""
    listing = data_folder.list_files()
    tables = [path for path in listing if "/" not in path and path.lower().endswith(".csv") and not is_hidden(path)]
    if len(tables) > 1:
        raise SoundStormError(
            f"{data_folder.uri} holds several CSV files ({', '.join(tables)}): give the one to use as --data-dir"
        )
    if tables:
        try:
            return csv_contents(data_folder, tables[0], listing)
        except SoundStormError as error:
            raise SoundStormError(
                f"{error}; or move it out of {data_folder.uri}, so that the sub-folders are the classes"
            ) from error
    return _beside_tables(data_folder, listing) or _sub_folder_contents(data_folder, listing)


def _beside_tables(data_folder: DatasetFolder, listing: Listing) -> Contents | None:
    """Contents of a folder `audio/` without class folders beside a folder such as `meta/` with a table of labels; None
    if the folder does not look like that."""
    first = next(filter(is_recording, listing), None)
    if first is None or not all(
        "/" in path and path.split("/")[0].casefold() in AUDIO_FOLDERS for path in filter(is_recording, listing)
    ):
        return None
    published = [(table, name) for table, name in PUBLISHED.items() if table in listing]
    if published:
        table, name = published[0]
        raise SoundStormError(
            f"{data_folder.uri} has the layout of a published dataset ({table}): give --dataset {name}, or {table} as "
            "--data-dir"
        )
    if any(path.count("/") > 1 for path in filter(is_recording, listing)):
        return None
    folders = [
        path for path in listing if path.lower().endswith(".csv") and path.split("/")[0].casefold() in TABLE_FOLDERS
    ]
    tables = [path for path in folders if has_columns(data_folder, path, COLUMNS)]
    if len(tables) > 1:
        raise SoundStormError(
            f"{data_folder.uri} holds several tables of labels ({', '.join(tables)}): give the one to use as --data-dir"
        )
    if not tables:
        return None
    found = csv_contents(data_folder, tables[0], listing)
    note = f"{first.split('/')[0]}/ is read as the folder of the recordings that {tables[0]} names, not as a class"
    return replace(found, notes=(note, *found.notes))


def _sub_folder_contents(data_folder: DatasetFolder, listing: Listing) -> Contents:
    """One class per sub-folder, at any depth below it. The clip_id is the path with its suffix."""
    levels = _levels(data_folder, listing)
    categories = sorted({name for parts in _parts(listing) if is_category(name := levels.class_of(parts))})
    if not categories:
        raise SoundStormError(
            f"{data_folder.uri} has no sub-folder with {AUDIO_EXAMPLES} files: make one a class, or add a CSV "
            "filename,category"
        )
    labels = {category: label for label, category in enumerate(categories)}
    recordings = filter(is_recording, listing)
    twins = [
        stored
        for stored in recordings
        if not stored.isascii() and listing.name_of(stored) == stored != composed(stored)
    ]
    twin = (
        f"{len(twins)} files differ from another in the Unicode form of their names only, for example {twins[0]}: all "
        "are used"
        if twins
        else ""
    )
    return Contents(
        data_folder=data_folder,
        entries=tabulate(_entries(listing, levels, labels), listing),
        categories=categories,
        num_folds=max(levels.folds.values(), default=FOLDER_FOLDS),
        notes=(*levels.notes, *([twin] if twin else [])),
    )


def _entries(listing: Listing, levels: _Levels, labels: Mapping[str, int]) -> Iterator[IndexEntry]:
    """An entry for each recording."""
    for stored in filter(is_recording, listing):
        parts = composed(stored).split("/")
        category = levels.class_of(parts)
        rejection = listing.rejection(stored)
        if rejection is not None:
            rejection = (rejection[0], f"{stored}: {rejection[1]}")
        elif category not in labels:
            rejection = (Reason.BAD_LABEL, f"{stored} does not lie in a folder that can be a class")
        fold = (
            levels.folds[parts[levels.classes - 1]] if levels.folds and category else fold_of_source(composed(stored))
        )
        yield IndexEntry(
            clip_id=listing.name_of(stored),
            path=stored,
            fold=fold,
            label=labels.get(category, 0),
            rejection=rejection,
        )


def _parts(listing: Listing) -> Iterator[list[str]]:
    """The components of the path of each recording."""
    return (composed(stored).split("/") for stored in filter(is_recording, listing))


def _levels(data_folder: DatasetFolder, listing: Listing) -> _Levels:
    """Find the level of the class folders."""
    above, notes = 0, []
    while True:
        tops = {parts[above] for parts in _parts(listing) if len(parts) > above + 1}
        has_folders = any(len(parts) > above + 2 for parts in _parts(listing))
        if len(tops) != 1 or not has_folders or next(iter(tops)).casefold() not in AUDIO_FOLDERS:
            break
        example = next(parts for parts in _parts(listing) if len(parts) > above + 1)
        notes.append(f"{'/'.join(example[: above + 1])}/ is not a class: the folders in it are")
        above += 1
    folds = _folds(tops)
    below = {parts[above + 1] for parts in _parts(listing) if len(parts) > above + 2} if len(folds) == 1 else set()
    if not folds or (len(folds) == 1 and len(below) < 2):
        some = sorted(name for name in tops if name.casefold() in SPLITS)
        if len(some) > 1:
            notes.append(f"{' and '.join(some)} are read as classes, because there are other folders beside them")
        if not has_folders and len(tops) == 1 and next(iter(tops)).casefold() in AUDIO_FOLDERS:
            notes.append(
                f"{next(iter(tops))}/ is read as the only class: it has no class folders, and there is no CSV "
                f"{','.join(COLUMNS)} beside it or in a folder {' or '.join(TABLE_FOLDERS)} there"
            )
        return _Levels(classes=above, folds={}, notes=tuple(notes))
    named = ", ".join(f"{name}/ (fold {fold})" for name, fold in folds.items())
    if not has_folders:
        raise SoundStormError(
            f"{data_folder.uri}: {named} look like the parts of a dataset, and hold no class folders: make some, or "
            "add a CSV filename,category"
        )
    if len(folds) == 1:
        notes.append(f"{next(iter(folds))}/ is not a class: the folders in it are")
        return _Levels(classes=above + 1, folds={}, notes=tuple(notes))
    notes.append(
        f"{named} are read as the parts of a dataset: the folders in them are the classes, and the last fold is "
        "the test fold"
    )
    return _Levels(classes=above + 1, folds=folds, notes=tuple(notes))


def _folds(tops: set[str]) -> dict[str, int]:
    """The fold of each folder, sorted, if all of them are named like the parts of a dataset; otherwise empty."""
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


def table_contents(data_folder: DatasetFolder, csv_name: str) -> Contents:
    """The recordings that a CSV names, if the CSV itself was given as data folder. A CSV in a folder such as `meta` may
    name files in a folder `audio` beside that folder."""
    above, _, folder = data_folder.root.rpartition("/")
    if folder.casefold() in TABLE_FOLDERS and any(_has_folder(data_folder, above, name) for name in AUDIO_FOLDERS):
        outer = replace(data_folder, root=above, uri=data_folder.uri.rpartition("/")[0])
        return csv_contents(outer, posixpath.join(folder, csv_name))
    return csv_contents(data_folder, csv_name)


def _has_folder(data_folder: DatasetFolder, above: str, name: str) -> bool:
    return bool(data_folder.filesystem.get_file_info(posixpath.join(above, name)).type == FileType.Directory)
