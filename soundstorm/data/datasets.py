"""The data sets by name, and the index of their clips: one row per recording that can be tried, one per row that
cannot."""

import re
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
from pyarrow.fs import FileSystem, FileType

from soundstorm.audio.synthesis import CLASSES
from soundstorm.data.accounting import ignored_files
from soundstorm.data.class_folders import folder_contents, table_contents
from soundstorm.data.clip_windows import split_window
from soundstorm.data.data_folder import DatasetFolder
from soundstorm.data.layouts import FOLDER_FOLDS, Contents, IndexEntry, TableLayout, alike
from soundstorm.data.source_recordings import SplitSources, named, smaller_sides, split_sources
from soundstorm.data.synthetic import NUM_FOLDS as SYNTHETIC_FOLDS
from soundstorm.errors import SoundStormError
from soundstorm.schemas import CLIPS, IGNORED, REJECTED, Reason

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
"""ESC-50's classes; a class's published number is its position."""
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)
"""ESC-50's numbers of the ten classes of ESC-10, in the order of their labels."""
URBANSOUND8K_CATEGORIES = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling", "engine_idling", "gun_shot",
    "jackhammer", "siren",
    "street_music",
)  # fmt: skip
"""UrbanSound8K's classes; a class's published number is its position."""


@dataclass(kw_only=True, frozen=True)
class Dataset:
    """What is known of a data set before looking at it."""

    title: str
    num_folds: int
    """Folds 1 to this; for `folder` the number where its CSV has no column `fold`."""
    layout: TableLayout | None
    """None: a folder of one's own."""
    num_clips: int | None = None
    """Clips of the published data set."""
    clip_s: float | None = None
    """Seconds that every published clip lasts; None: as long as it is."""
    folds_are_published: bool = False
    """Whether everybody tests on these very folds, so that they are used as they are also where a recording lies in two
    of them."""
    url: str | None = None
    """Where the archive is published; None: there is none to download."""
    md5: str | None = None
    """MD5 of the archive; None: the archive is made anew for each download, so only its content can be checked."""
    licence: str = ""
    credit: str = ""


@dataclass(kw_only=True, frozen=True)
class Index:
    """The clips of a data set."""

    clips: pa.Table
    """Schema CLIPS: clips whose row is in order and whose file exists; the files were not opened yet."""
    rejected: pa.Table
    """Schema REJECTED, stage "index"."""
    num_folds: int
    categories: list[str]
    """`categories[label]` is the name of the class."""
    num_files: int = 0
    """Files found."""
    ignored: pa.Table = field(default_factory=IGNORED.empty_table)
    """Schema IGNORED: the files among them that are no clips of the data set."""
    rejected_files: frozenset[str] = frozenset()
    """URIs of the rejected rows that are those of a file found; the others name none."""
    split_sources: SplitSources = field(default_factory=dict)
    """Source recordings that have clips in two folds, as the data set is."""
    notes: tuple[str, ...] = ()
    """What people should know of how the data set was read, a sentence each."""


def _esc50_layout(
    title: str, labels: dict[int, tuple[int, str]], only: str | None = None, num_folds: int = 5
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
        only=only,
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
        title="the synthetic data set",
        num_folds=SYNTHETIC_FOLDS,
        layout=_esc50_layout("the synthetic data set", _numbered(CLASSES), num_folds=SYNTHETIC_FOLDS),
        licence="CC0 1.0",
        credit="made by soundstorm.audio.synthesis",
    ),
}


def index_dataset(
    name: str, filesystem: FileSystem, root: str, uri_prefix: str, *, strict_folds: bool = False
) -> Index:
    """Lists the clips of the data set `name` that lies in a folder, or for `folder` also in a CSV file.

    Args:
        filesystem: where it lies.
        root: the folder, as a path within `filesystem`.
        uri_prefix: the same folder as a URI; a clip's `uri` is this and its path below the folder.
        strict_folds: leave out the smaller side of each source recording that has clips in two folds.

    Raises:
        SoundStormError: the name is unknown, the CSV or a column of it is missing, no clip can be used, or clips of one
            source recording lie in different folds, which are neither published ones nor made strict.
    """
    if name not in DATASETS:
        raise SoundStormError(f"data set '{name}' is unknown: choose one of {', '.join(DATASETS)}")
    place = DatasetFolder(filesystem=filesystem, root=root.rstrip("/"), uri=uri_prefix.rstrip("/"))
    layout = DATASETS[name].layout
    if layout is not None:
        contents = layout.contents(place)
    elif filesystem.get_file_info(place.root or "/").type == FileType.File:
        parent, _, csv_name = place.root.rpartition("/")
        contents = table_contents(
            DatasetFolder(filesystem=filesystem, root=parent, uri=place.uri.rpartition("/")[0]), csv_name
        )
    else:
        contents = folder_contents(place)
    return _to_index(name, contents, strict_folds)


def source_of(clip_id: str, dataset: str) -> str:
    """The recording that a clip was cut from, as far as its name tells: clips of one source must not be split between
    train and test.

    ESC-50 and ESC-10 (`fold-source-take-target`) and UrbanSound8K (`source-class-occurrence-slice`) name it, as the
    synthetic data set does; in `folder` each file is its own, and its windows are of one.
    """
    clip_id, _ = split_window(clip_id)
    parts = clip_id.split("-")
    if dataset == "urbansound8k":
        return parts[0]
    return parts[1] if dataset != "folder" and len(parts) > 1 else clip_id


def _to_index(name: str, contents: Contents, strict_folds: bool) -> Index:
    """Splits the candidates into clips and rejected rows; of clips with one clip_id, or one file, the first is kept."""
    place, clips, rejected = contents.place, [], []
    kept: dict[str, IndexEntry] = {}
    owners: dict[str, str] = {}
    for candidate in contents.candidates:
        problem = candidate.problem
        if problem is None and candidate.clip_id in kept:
            problem = (
                Reason.DUPLICATE_ID,
                f"{candidate.path}: clip_id '{candidate.clip_id}' is taken by an earlier clip, which is kept",
            )
        elif problem is None and candidate.path in owners:
            earlier = owners[candidate.path]
            problem = (
                Reason.DUPLICATE_ID,
                f"{candidate.path}: it is the file of the earlier clip '{earlier}' already, which is kept",
            )
        row = {"clip_id": candidate.clip_id, "uri": f"{place.uri}/{candidate.path}"}
        if problem is None:
            kept[candidate.clip_id] = candidate
            owners[candidate.path] = candidate.clip_id
            clips.append(
                row
                | {"dataset": name, "fold": candidate.fold, "label": candidate.label, "category": candidate.category}
            )
        else:
            rejected.append(row | {"stage": "index", "reason": problem[0].value, "detail": problem[1]})
    if not clips:
        counts = ", ".join(
            f"{count} {reason}" for reason, count in Counter(row["reason"] for row in rejected).most_common()
        )
        first = (
            f": {counts}; the first: {rejected[0]['detail']}"
            if rejected
            else f": it names no clip of {DATASETS[name].title}"
        )
        raise SoundStormError(f"{place.uri} has no clip that can be used{first}")
    split = split_sources(
        (clip.clip_id, clip.fold, clip.source or _published_source(clip.clip_id, name)) for clip in kept.values()
    )
    left_out, notes = _two_folds(name, place, split, strict_folds)
    spellings = alike(contents.categories) if DATASETS[name].layout is None else []
    files = {f"{place.uri}/{path}" for path in contents.listing.files}
    return Index(
        clips=pa.Table.from_pylist([clip for clip in clips if clip["clip_id"] not in left_out], CLIPS),
        rejected=pa.Table.from_pylist(rejected, REJECTED),
        num_folds=contents.num_folds,
        categories=contents.categories,
        num_files=len(contents.listing.files),
        ignored=ignored_files(contents, [kept[clip_id].path for clip_id in left_out]),
        rejected_files=frozenset(row["uri"] for row in rejected) & files,
        split_sources=split,
        notes=(*contents.notes, *spellings, *notes),
    )


def _two_folds(
    name: str, place: DatasetFolder, split: SplitSources, strict_folds: bool
) -> tuple[set[str], tuple[str, ...]]:
    """The clips to leave out because their recording lies in another fold too, and what is to be said of such
    recordings."""
    if not split:
        return set(), ()
    knows = "a test on one would know it from the other"
    if strict_folds:
        left_out = smaller_sides(split)
        return set(left_out), (
            f"{_recordings(split)} in two folds: {named(split)}; --strict-folds leaves out {', '.join(left_out)}",
        )
    if DATASETS[name].folds_are_published:
        title = DATASETS[name].title
        return set(), (
            f"{_recordings(split)} in two folds, as {title} is published: {named(split)}; {knows} (--strict-folds "
            "leaves out one side)",
        )
    source, folds = next(iter(split.items()))
    (one, clips), (other, others) = list(folds.items())[:2]
    raise SoundStormError(
        f"{place.uri}: clips of the recording '{source}' lie in fold {one} ({clips[0]}) and in fold {other} "
        f"({others[0]}), so that {knows}: "
        "put all clips of a recording into one fold, or leave out the smaller side with --strict-folds"
    )


def _recordings(split: SplitSources) -> str:
    return f"{len(split)} recording{'s have' if len(split) > 1 else ' has'} clips"


def _published_source(clip_id: str, dataset: str) -> str:
    """The source in a clip_id of the published form; "" in any other."""
    return source_of(clip_id, dataset) if (form := _PUBLISHED_IDS.get(dataset)) and form.fullmatch(clip_id) else ""
