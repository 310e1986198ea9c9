"""The registry of datasets, and the index of a dataset's clips: a row per usable recording, and a row per rejected
one."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.fs import FileSystem, FileType

from soundstorm.audio.synthesis import CLASSES
from soundstorm.data.accounting import ignored_files
from soundstorm.data.class_folders import folder_contents, table_contents
from soundstorm.data.clip_windows import split_window
from soundstorm.data.data_folder import DatasetFolder
from soundstorm.data.indexing.entries import without_duplicates
from soundstorm.data.indexing.tables import clip_table, rejection_table
from soundstorm.data.indexing.text_lookup import iter_texts
from soundstorm.data.layouts import FOLDER_FOLDS, Contents, TableLayout, spelling_notes
from soundstorm.data.source_recordings import SplitSources, in_two_folds, smaller_sides, split_phrase, split_sources
from soundstorm.data.synthetic import NUM_FOLDS as SYNTHETIC_FOLDS
from soundstorm.errors import SoundStormError
from soundstorm.schemas import IGNORED

ESC50_CATEGORIES = (
    "dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow", "rain", "sea_waves",
    "crackling_fire", "crickets",
    "chirping_birds", "water_drops", "wind", "pouring_water", "toilet_flush", "thunderstorm", "crying_baby",
    "sneezing", "clapping",
    "breathing", "coughing", "footsteps", "laughing", "brushing_teeth", "snoring", "drinking_sipping",
    "door_wood_knock", "mouse_click",
    "keyboard_typing", "door_wood_creaks", "can_opening", "washing_machine", "vacuum_cleaner", "clock_alarm",
    "clock_tick", "glass_breaking",
    "helicopter", "chainsaw", "siren", "car_horn", "engine", "train", "church_bells", "airplane", "fireworks",
    "hand_saw",
)  # fmt: skip
"""Classes of ESC-50; the published number of a class is its index."""
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)
"""Numbers in ESC-50 of the ten classes of ESC-10, in the order of their labels."""
URBANSOUND8K_CATEGORIES = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling", "engine_idling", "gun_shot",
    "jackhammer", "siren",
    "street_music",
)  # fmt: skip
"""Classes of UrbanSound8K; the published number of a class is its index."""


@dataclass(kw_only=True, frozen=True)
class Dataset:
    """What is known about a dataset before its files are read."""

    title: str
    num_folds: int
    """Folds are numbered from 1 to this; for `folder` it applies if the CSV has no column `fold`."""
    layout: TableLayout | None
    """None: a user's own folder."""
    num_clips: int | None = None
    """Number of clips in the published dataset."""
    clip_s: float | None = None
    """Duration in seconds of every published clip; None: clips have their own durations."""
    folds_are_published: bool = False
    """Whether results are published for these folds. They are then used as they are, even if a source recording has
    clips in two of them."""
    url: str | None = None
    """Address of the published archive; None: there is nothing to download."""
    md5: str | None = None
    """MD5 of the archive; None: the archive is generated for each download, so only its content can be checked."""
    licence: str = ""
    credit: str = ""


@dataclass(kw_only=True, frozen=True)
class Index:
    """The clips of a dataset."""

    clips: pa.Table
    """Schema CLIPS: clips whose row is valid and whose file exists; the files have not been opened yet."""
    rejected: pa.Table
    """Schema REJECTED, stage "index"."""
    num_folds: int
    categories: list[str]
    """`categories[label]` is the name of the class."""
    num_files: int = 0
    """Number of files found."""
    ignored: pa.Table = field(default_factory=IGNORED.empty_table)
    """Schema IGNORED: the files that are not clips of the dataset."""
    rejected_files: frozenset[str] = frozenset()
    """URIs of the rejected rows whose file exists."""
    split_sources: SplitSources = field(default_factory=dict)
    """Source recordings that have clips in two folds of the dataset."""
    notes: tuple[str, ...] = ()
    """Sentences for the user on how the dataset was read."""


def _esc50_layout(
    title: str, labels: dict[int, tuple[int, str]], subset_column: str | None = None, num_folds: int = 5
) -> TableLayout:
    return TableLayout(
        title=title,
        csv_path="meta/esc50.csv",
        filename="filename",
        label="target",
        category="category",
        source="src_file",
        num_folds=num_folds,
        audio_folder=lambda fold: "audio",
        labels=labels,
        subset_column=subset_column,
    )


def _numbered(categories: tuple[str, ...]) -> dict[int, tuple[int, str]]:
    return {number: (number, category) for number, category in enumerate(categories)}


_ESC_ID = re.compile(r"[1-5]-\d+-[A-Z]-\d+")
_PUBLISHED_IDS = {
    "esc50": _ESC_ID,
    "esc10": _ESC_ID,
    "synthetic": _ESC_ID,
    "urbansound8k": re.compile(r"\d+-\d+-\d+-\d+"),
}

_ESC50_URL = "https://github.com/karolpiczak/ESC-50/archive/master.zip"
_ESC_CREDIT = 'K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", ACM Multimedia 2015'

DATASETS: dict[str, Dataset] = {
    "esc50": Dataset(
        title="ESC-50",
        num_folds=5,
        layout=_esc50_layout("ESC-50", _numbered(ESC50_CATEGORIES)),
        num_clips=2000,
        clip_s=5.0,
        folds_are_published=True,
        url=_ESC50_URL,
        licence="CC BY-NC 3.0",
        credit=_ESC_CREDIT,
    ),
    "esc10": Dataset(
        title="ESC-10",
        num_folds=5,
        layout=_esc50_layout(
            "ESC-10", {target: (label, ESC50_CATEGORIES[target]) for label, target in enumerate(ESC10_TARGETS)}, "esc10"
        ),
        num_clips=400,
        clip_s=5.0,
        folds_are_published=True,
        url=_ESC50_URL,
        licence="CC BY 3.0",
        credit=_ESC_CREDIT,
    ),
    "urbansound8k": Dataset(
        title="UrbanSound8K",
        num_folds=10,
        layout=TableLayout(
            title="UrbanSound8K",
            csv_path="metadata/UrbanSound8K.csv",
            filename="slice_file_name",
            label="classID",
            category="class",
            source="fsID",
            num_folds=10,
            audio_folder=lambda fold: f"audio/fold{fold}",
            labels=_numbered(URBANSOUND8K_CATEGORIES),
        ),
        num_clips=8732,
        folds_are_published=True,
        url="https://zenodo.org/record/1203745/files/UrbanSound8K.tar.gz",
        md5="9aa69802bbf37fb986f71ec1483a196e",
        licence="CC BY-NC 3.0",
        credit='J. Salamon, C. Jacoby, J. P. Bello, "A Dataset and Taxonomy for Urban Sound Research", ACM Multimedia '
        "2014",
    ),
    "folder": Dataset(title="a folder of recordings", num_folds=FOLDER_FOLDS, layout=None),
    "synthetic": Dataset(
        title="the synthetic dataset",
        num_folds=SYNTHETIC_FOLDS,
        layout=_esc50_layout("the synthetic dataset", _numbered(CLASSES), num_folds=SYNTHETIC_FOLDS),
        licence="CC0 1.0",
        credit="made by soundstorm.audio.synthesis",
    ),
}


def index_dataset(
    name: str,
    filesystem: FileSystem,
    root: str,
    uri_prefix: str,
    *,
    strict_folds: bool = False,
    names_below: Callable[[str], Iterable[str]] | None = None,
) -> Index:
    """List the clips of the dataset `name` in a folder, or for `folder` also in a CSV file.

    Args:
        filesystem: file system of the dataset.
        root: the folder, as a path within `filesystem`.
        uri_prefix: the same folder as a URI; the `uri` of a clip is this and its path relative to the folder.
        strict_folds: if a source recording has clips in two folds, keep only those of the fold with most of them.
        names_below: see `DatasetFolder`.

    Raises:
        SoundStormError: the name is unknown, the CSV or a column of it is missing, no clip can be used, or a source
            recording has clips in different folds, while the folds are not published ones and `strict_folds` is not
            set.
    """
    if name not in DATASETS:
        raise SoundStormError(f"dataset '{name}' is unknown: choose one of {', '.join(DATASETS)}")
    data_folder = DatasetFolder(
        filesystem=filesystem, root=root.rstrip("/"), uri=uri_prefix.rstrip("/"), names_below=names_below
    )
    return _to_index(name, _contents(name, data_folder), strict_folds)


def _contents(name: str, data_folder: DatasetFolder) -> Contents:
    """What the dataset has; of several clips with the same clip_id or the same file, the first is usable."""
    layout = DATASETS[name].layout
    if layout is not None:
        contents = layout.contents(data_folder)
    elif data_folder.filesystem.get_file_info(data_folder.root or "/").type == FileType.File:
        parent, _, csv_name = data_folder.root.rpartition("/")
        folder = replace(data_folder, root=parent, uri=data_folder.uri.rpartition("/")[0])
        contents = table_contents(folder, csv_name)
    else:
        contents = folder_contents(data_folder)
    entries = without_duplicates(contents.entries)
    entries.listing.free_lookups()
    return replace(contents, entries=entries)


def source_of(clip_id: str, dataset: str) -> str:
    """The source recording of a clip, according to its name. Clips of one source must not be split between training and
    test.

    The names in ESC-50, ESC-10 and the synthetic dataset (`fold-source-take-target`) and in UrbanSound8K
    (`source-class-occurrence-slice`) contain it. In `folder` each file is its own source, shared by its windows.
    """
    clip_id, _ = split_window(clip_id)
    parts = clip_id.split("-")
    if dataset == "urbansound8k":
        return parts[0]
    return parts[1] if dataset != "folder" and len(parts) > 1 else clip_id


def _to_index(name: str, contents: Contents, strict_folds: bool) -> Index:
    """Divide the entries into clips and rejected rows."""
    data_folder, entries = contents.data_folder, contents.entries
    listing, usable = entries.listing, entries.usable
    if not usable.num_rows:
        raise SoundStormError(f"{data_folder.uri} has no clip that can be used{_why_none(name, entries.rejected)}")
    split = _split_sources(name, usable)
    left_out, notes = _two_folds(name, data_folder, split, strict_folds)
    is_left_out = pc.is_in(usable["clip_id"], pa.array(sorted(left_out), pa.string()))
    paths_left_out = listing.paths.take(usable["file"].filter(is_left_out).combine_chunks()).to_pylist()
    spellings = spelling_notes(contents.categories) if DATASETS[name].layout is None else []
    existing = entries.rejected["path"].filter(entries.rejected["file"].is_valid())
    ignored = ignored_files(contents, entries, paths_left_out)  # before the clips: both take memory
    return Index(
        clips=clip_table(
            replace(entries, usable=usable.filter(pc.invert(is_left_out)) if left_out else usable),
            name,
            data_folder.uri,
            contents.categories,
        ),
        rejected=rejection_table(entries, data_folder.uri),
        num_folds=contents.num_folds,
        categories=contents.categories,
        num_files=len(listing),
        ignored=ignored,
        rejected_files=frozenset(f"{data_folder.uri}/{path}" for path in iter_texts(existing)),
        split_sources=split,
        notes=(*contents.notes, *spellings, *notes),
    )


def _why_none(name: str, rejected: pa.Table) -> str:
    """Why no entry is usable, as the end of a sentence."""
    if not rejected.num_rows:
        return f": it names no clip of {DATASETS[name].title}"
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(iter_texts(rejected["reason"])).most_common())
    return f": {counts}; the first: {rejected['detail'][0].as_py()}"


def _split_sources(name: str, usable: pa.Table) -> SplitSources:
    """Source recordings with clips in two folds, from the table of labels or, in a published dataset, from the names
    of the clips."""

    def sources(rows: pa.Table) -> Iterator[str]:
        pairs = zip(iter_texts(rows["clip_id"]), iter_texts(rows["source"]), strict=True)
        return (source or _published_source(clip_id, name) for clip_id, source in pairs)

    numbers = np.fromiter(map(hash, sources(usable)), np.int64, usable.num_rows)
    suspects = usable.take(in_two_folds(numbers, usable["fold"].to_numpy()))
    return split_sources(
        zip(suspects["clip_id"].to_pylist(), suspects["fold"].to_pylist(), sources(suspects), strict=True)
    )


def _two_folds(
    name: str, data_folder: DatasetFolder, split: SplitSources, strict_folds: bool
) -> tuple[set[str], tuple[str, ...]]:
    """The clips to leave out because their source recording also lies in another fold, and notes on such recordings."""
    if not split:
        return set(), ()
    leaks = "a test on one fold would contain sound that the other has"
    if strict_folds:
        left_out = smaller_sides(split)
        return set(left_out), (
            f"{_recordings(split)} in two folds: {split_phrase(split)}; --strict-folds leaves out "
            f"{', '.join(left_out)}",
        )
    if DATASETS[name].folds_are_published:
        title = DATASETS[name].title
        return set(), (
            f"{_recordings(split)} in two folds, as {title} is published: {split_phrase(split)}; {leaks} "
            "(--strict-folds leaves out one side)",
        )
    source, folds = next(iter(split.items()))
    (one, clips), (other, others) = list(folds.items())[:2]
    raise SoundStormError(
        f"{data_folder.uri}: clips of the recording '{source}' lie in fold {one} ({clips[0]}) and in fold {other} "
        f"({others[0]}), so that {leaks}: "
        "put all clips of a recording into one fold, or leave out the smaller side with --strict-folds"
    )


def _recordings(split: SplitSources) -> str:
    return f"{len(split)} recording{'s have' if len(split) > 1 else ' has'} clips"


def _published_source(clip_id: str, dataset: str) -> str:
    """The source in a clip_id of the published form; "" for any other clip_id."""
    return source_of(clip_id, dataset) if (form := _PUBLISHED_IDS.get(dataset)) and form.fullmatch(clip_id) else ""
