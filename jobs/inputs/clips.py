"""Finds the clips of an evaluation, from a manifest, a table of clips, a dataset, or any folder of audio."""

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cluster import storage, tables
from cluster.tables import stage_record as records
from jobs.console.command import print_note
from jobs.inputs.datasets import open_dataset
from jobs.inputs.file_listing import audio_below
from soundstorm.audio.file_kinds import AUDIO_EXAMPLES
from soundstorm.data.categories import normalized
from soundstorm.data.data_folder import printable
from soundstorm.errors import SoundStormError
from soundstorm.schemas import REJECTED, check_table
from soundstorm.serialization.damaged import one_line

TABLES = ("samples.parquet", "clips.parquet")
"""Looked for in a folder, in this order."""
LAYOUTS = {"meta/esc50.csv": ("esc50", "synthetic"), "metadata/UrbanSound8K.csv": ("urbansound8k",)}
"""Datasets whose folder holds such a file."""
TYPES = {"uri": pa.string(), "category": pa.string(), "fold": pa.int32(), "sha256": pa.string(), "dataset": pa.string()}
"""Columns of such a table that are used."""
NO_CATEGORY = "all"
MAX_LISTED_FOLDERS = 100
"""Folders of clips that are listed one by one; of more, the one that holds all of them is listed."""
MAX_LISTED_FILES = 1_000_000
"""Maximum number of files in the listed folders; sizes are unknown where there are more, such as on a whole disk."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One audio file to measure."""

    clip_id: str
    uri: str
    category: str
    fold: int
    version: str = ""
    """Identifies the file's content as far as that is known without reading it: a SHA-256 or a size."""
    dataset: str = ""
    """Dataset of the clip, if it is known."""


def find_clips(option: str, uri: str) -> list[Clip]:
    """The audio files that `uri` stands for, in a fixed order.

    Args:
        option: name of the command-line option, for errors.
        uri: a Parquet table with a column `uri`; a folder with samples.parquet or clips.parquet; the folder of ESC-50,
            UrbanSound8K or the synthetic dataset; or a folder of audio files, where the sub-folder is the category.

    Raises:
        SoundStormError: there is no audio.
    """
    if uri.endswith(".parquet"):
        return with_sizes(_from_table(uri))
    if records.is_begun(uri, "generate"):
        raise SoundStormError(
            f"{option} {uri}: `generate` has not finished there; run it again, or give the folder 'audio' below"
        )
    index = _index_of(uri)
    if index in TABLES:
        unusable = _rejected_by_tokenize(uri)
        return with_sizes([clip for clip in _from_table(storage.join(uri, index)) if clip.clip_id not in unusable])
    if index is not None:
        return with_sizes(_from_clips(_open_first(LAYOUTS[index], uri), "clip_id"))
    root = storage.absolute(uri).rstrip("/") + "/"
    entries = sorted(audio_below(uri))
    if not entries:
        raise SoundStormError(
            f"{option} {uri}: no audio ({AUDIO_EXAMPLES}) and no table there; give a folder of audio or a manifest"
        )
    clips = []
    for stored, size in entries:
        relative = printable(stored[len(root) :])
        folder = relative.rpartition("/")[0]
        clips.append(Clip(relative, printable(stored), folder.rpartition("/")[2] or NO_CATEGORY, 0, str(size)))
    return clips


def is_listed(uri: str) -> bool:
    """Whether the clips at `uri` are all audio files below it, not those of a table."""
    return not uri.endswith(".parquet") and _index_of(uri) is None


def _index_of(uri: str) -> str | None:
    """The file in the folder `uri` that lists its clips, one of TABLES or LAYOUTS; None if there is none."""
    return next((name for name in (*TABLES, *LAYOUTS) if storage.exists(storage.join(uri, *name.split("/")))), None)


def with_sizes(clips: list[Clip]) -> list[Clip]:
    """The clips, with the file size as version where they have none and listings have it. A recording that is replaced
    by another of the same size has the same version."""
    uris = [clip.uri for clip in clips if not clip.version]
    folders = {uri.rpartition("/")[0] for uri in uris}
    if len(folders) > MAX_LISTED_FOLDERS:
        common = posixpath.commonprefix(uris).rpartition("/")[0]
        folders = set() if common.endswith(":/") else {common}  # of several buckets there is none
    sizes = _sizes_below(sorted(folder for folder in folders if folder))
    return [clip if clip.version else replace(clip, version=sizes.get(clip.uri, "")) for clip in clips]


def _sizes_below(folders: Sequence[str]) -> dict[str, str]:
    """Size of each file below the folders, by URI; none if there are more than MAX_LISTED_FILES."""
    entries = (entry for folder in folders if storage.exists(folder) for entry in storage.iter_objects(folder))
    sizes: dict[str, str] = {}
    for entry in entries:
        sizes[entry.uri] = str(entry.size)
        if len(sizes) > MAX_LISTED_FILES:
            return {}
    return sizes


def _open_first(datasets: Sequence[str], uri: str) -> pa.Table:
    """The clips at `uri`, as the first of `datasets` that has any there; raises what is wrong with the first of them if
    none has."""
    problems = []
    for dataset in datasets:
        try:
            index = open_dataset(dataset, uri)
        except SoundStormError as error:
            problems.append(error)
            continue
        if index.rejected.num_rows:
            rejected = (
                f"{uri}: {index.rejected.num_rows} of its rows give no clip, for example "
                f"{index.rejected['detail'][0].as_py()}"
            )
            print_note(rejected)
        return index.clips
    raise problems[0]


def fingerprint_of_clips(clips: Sequence[Clip]) -> str:
    """SHA-256 of names, URIs and versions, in order: it changes when the clips change."""
    found = hashlib.sha256()
    for clip in clips:
        found.update(repr((clip.clip_id, clip.uri, clip.category, clip.version)).encode())
    return found.hexdigest()


def _rejected_by_tokenize(uri: str) -> set[str]:
    """Clips in the folder `uri` that `tokenize` indexed and then could not use."""
    folder = storage.join(uri, "rejected")
    if not storage.exists(folder):
        return set()
    rejected, _ = tables.read_table(folder)
    check_table(rejected, REJECTED, folder)
    return {row["clip_id"] for row in rejected.to_pylist() if row["stage"] != "index"}


def _from_table(uri: str) -> list[Clip]:
    table, _ = tables.read_table(uri)
    identifier = next((name for name in ("sample_id", "clip_id") if name in table.column_names), None)
    if identifier is None or "uri" not in table.column_names:
        raise SoundStormError(
            f"{uri}: columns 'uri' and 'sample_id' or 'clip_id' are needed; it has {', '.join(table.column_names)}"
        )
    columns = [identifier, *(name for name in TYPES if name in table.column_names)]
    try:
        table = table.select(columns).cast(
            pa.schema([pa.field(name, TYPES.get(name, pa.string()), nullable=False) for name in columns])
        )
    except (pa.ArrowException, ValueError, LookupError) as error:
        raise SoundStormError(
            f"{uri}: columns {', '.join(columns)} are not those of a table of clips ({one_line(error)}): run the step "
            "that writes it again"
        ) from error
    clips = _from_clips(table, identifier)
    if not clips:
        raise SoundStormError(f"{uri}: the table has no rows; there is nothing to measure")
    return clips


def _from_clips(table: pa.Table, identifier: str) -> list[Clip]:
    categories = table["category"].to_pylist() if "category" in table.column_names else [NO_CATEGORY] * len(table)
    folds = table["fold"].to_pylist() if "fold" in table.column_names else [0] * len(table)
    versions = table["sha256"].to_pylist() if "sha256" in table.column_names else [""] * len(table)
    datasets = table["dataset"].to_pylist() if "dataset" in table.column_names else [""] * len(table)
    rows = zip(
        table[identifier].to_pylist(), table["uri"].to_pylist(), categories, folds, versions, datasets, strict=True
    )
    return [
        Clip(str(clip_id), str(uri), str(category), int(fold), str(version), str(name))
        for clip_id, uri, category, fold, version, name in rows
    ]


def clips_of_fold(clips: list[Clip], fold: int | None, where: str) -> list[Clip]:
    """The clips of one fold; all of them where `fold`, the value of `--fold`, is None.

    Raises:
        SoundStormError: `where`, the place that they are from, has none.
    """
    if fold is None:
        return clips
    chosen = [clip for clip in clips if clip.fold == fold]
    if not chosen:
        folds = sorted({clip.fold for clip in clips})
        raise SoundStormError(f"--fold is {fold}: {where} has folds {', '.join(map(str, folds))}")
    return chosen


def draw_per_category(clips: Sequence[Clip], count: int | None, seed: int) -> list[Clip]:
    """A random sample of at most `count` clips per category, in their order; all clips if `count` is None."""
    if count is None:
        return list(clips)
    chosen: set[int] = set()
    rng = np.random.default_rng(seed)
    for category in sorted({clip.category for clip in clips}):
        members = [position for position, clip in enumerate(clips) if clip.category == category]
        chosen.update(rng.permutation(members)[:count].tolist())
    return [clip for position, clip in enumerate(clips) if position in chosen]


def pair_up(generated: Sequence[Clip], real: Sequence[Clip]) -> list[Clip]:
    """For each generated clip a real clip of its category, in turn; of any category if its own has none."""
    by_category: dict[str, list[Clip]] = {}
    for clip in real:
        by_category.setdefault(normalized(clip.category), []).append(clip)
    taken: dict[str, int] = {}
    partners = []
    for clip in generated:
        category = normalized(clip.category)
        candidates = by_category.get(category) or list(real)
        turn = taken.get(category, 0)
        taken[category] = turn + 1
        partners.append(candidates[turn % len(candidates)])
    return partners
