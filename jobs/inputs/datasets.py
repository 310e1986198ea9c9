"""Opening the dataset of a job: the index of its clips, local or remote."""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.markup import escape

from cluster import storage
from cluster.runtime.memory import release_memory
from jobs.console.command import console, print_note
from jobs.console.options import JobOptions, OneOf
from jobs.inputs.outputs_apart import check_not_inside
from soundstorm.data.datasets import DATASETS, Index, index_dataset
from soundstorm.data.indexing.text_lookup import ROWS_AT_ONCE, TextLookup, iter_texts
from soundstorm.errors import SoundStormError
from soundstorm.schemas import IGNORED, Ignored

NO_SIZE = -1
"""Stands for the size of a file that is not listed."""


@dataclass(kw_only=True)
class DatasetOptions(JobOptions):
    """Which recordings to use."""

    dataset: Annotated[str, OneOf(DATASETS)] = "esc50"
    """esc50, esc10, urbansound8k, folder (one sub-folder per class, or a CSV file) or synthetic."""
    data_dir: str | None = None
    """Folder of the dataset, path or s3:// URI; default: data/NAME, where `download` puts it."""
    strict_folds: bool = False
    """Of each source recording with clips in two folds, leave out the smaller side; default: published folds are used
    unchanged."""

    @property
    def location(self) -> str:
        """Folder of the dataset."""
        return self.data_dir or f"data/{self.dataset}"


def open_dataset(name: str, location: str, *, strict_folds: bool = False) -> Index:
    """Index the dataset `name` at `location`; with `strict_folds` no source recording has clips in two folds.

    Raises:
        SoundStormError: the layout is not that of the dataset, or it has no clip.
        ClusterError: the place cannot be read.
    """
    filesystem, root = storage.filesystem(location)
    if not storage.exists(location):
        raise SoundStormError(
            f"--data-dir {location}: there is nothing there; give the folder of {name}"
            + (f" or run `soundstorm download --dataset {name}`" if DATASETS[name].url else "")
        )
    prefix = location if storage.is_remote(location) else storage.absolute(location)
    return index_dataset(
        name,
        filesystem,
        root,
        prefix,
        strict_folds=strict_folds,
        names_below=_names_in_bucket if storage.is_remote(location) else None,
    )


def _names_in_bucket(folder: str) -> Iterator[str]:
    """The objects below a folder `bucket/key`, relative to it."""
    uri = f"s3://{folder}"
    return (entry.uri[len(uri) + 1 :] for entry in storage.iter_objects(uri))


def open_and_report(options: DatasetOptions) -> Index:
    """Index the dataset of `options` and print notes about it; raises like `open_dataset`."""
    index = open_dataset(options.dataset, options.location, strict_folds=options.strict_folds)
    release_memory()
    for note in index.notes:
        print_note(note)
    return index


def is_listed(clips: pa.Table, list_uri: str) -> pa.Array:
    """For each clip, whether the text file `list_uri` lists it, by clip id or file name, one per line.

    Raises:
        SoundStormError: it lists none of them.
        ClusterError: it cannot be read.
    """
    named = {
        line.strip() for line in storage.read_bytes(list_uri).decode("utf-8", "replace").splitlines() if line.strip()
    }
    pairs = zip(iter_texts(clips["clip_id"]), iter_texts(clips["uri"]), strict=True)
    listed = np.fromiter(
        (clip_id in named or uri.rpartition("/")[2] in named for clip_id, uri in pairs), bool, clips.num_rows
    )
    if not listed.any():
        raise SoundStormError(
            f"--clips {list_uri}: it names no clip of these folds; give one clip id or file name per line"
        )
    return pa.array(listed)


def only_listed(index: Index, list_uri: str | None) -> Index:
    """`index` with only the clips that `list_uri` lists; the others become ignored. None: all clips. Raises like
    `is_listed`."""
    if list_uri is None:
        return index
    listed = is_listed(index.clips, list_uri)
    uris = index.clips["uri"].filter(pc.invert(listed))
    why = (Ignored.UNLISTED.value, f"{list_uri} (--clips) does not name it")
    columns = [uris, *(pa.repeat(pa.scalar(text, pa.string()), len(uris)) for text in why)]
    ignored = pa.concat_tables([index.ignored, pa.table(columns, schema=IGNORED)])
    return replace(index, clips=index.clips.filter(listed), ignored=ignored)


def report_ignored(index: Index, verbose: bool) -> None:
    """Print how many files of the data folder are ignored and why; `verbose` lists each."""
    ignored = index.ignored
    if verbose:
        for row in (row for batch in ignored.to_batches(ROWS_AT_ONCE) for row in batch.to_pylist()):
            console.print(f"ignored: {escape(row['uri'])} ({row['reason']}: {escape(row['detail'])})")
    elif ignored.num_rows:
        reasons = ", ".join(
            f"{count} {reason}" for reason, count in Counter(iter_texts(ignored["reason"])).most_common()
        )
        example = f"{ignored['uri'][0]} ({ignored['detail'][0]})"
        print_note(
            f"{ignored.num_rows} of {index.num_files} files are ignored ({reasons}), for example "
            f"{example}; --verbose names all"
        )


def folds_record(index: Index, options: DatasetOptions) -> dict[str, Any]:
    """For a stage's record: source recordings with clips in two folds (source -> fold -> clips), and whether one side
    was left out."""
    return {"sources_in_two_folds": index.split_sources, "strict_folds": options.strict_folds}


def index_digest(clips: pa.Table) -> str:
    """SHA-256 of the rows of the index and the sizes of the files, in order: it changes when the dataset changes."""
    extremes = pc.min_max(clips["uri"]).as_py()
    folder = posixpath.commonprefix([uri for uri in extremes.values() if uri is not None]).rpartition("/")[0]
    sizes = _sizes(clips["uri"], folder) if folder else np.full(clips.num_rows, NO_SIZE)
    digest = hashlib.sha256()
    done = 0
    for batch in clips.select(["clip_id", "uri", "fold", "label", "category"]).to_batches(ROWS_AT_ONCE):
        some = sizes[done : done + batch.num_rows].tolist()
        done += batch.num_rows
        for row, size in zip(zip(*batch.to_pydict().values(), strict=True), some, strict=True):
            digest.update(repr((*row, None if size == NO_SIZE else size)).encode())
    return digest.hexdigest()


def _sizes(uris: pa.ChunkedArray, folder: str) -> np.ndarray:
    """Bytes of each file, NO_SIZE if it is not below `folder`."""
    rows_of = TextLookup(uris)
    sizes = np.full(len(uris), NO_SIZE)
    for entry in storage.iter_objects(folder):
        sizes[rows_of.rows(entry.uri)] = entry.size
    return sizes


def check_not_inside_dataset(output_dir: str, options: DatasetOptions, option: str = "--output-dir") -> None:
    """Raise SoundStormError if `output_dir`, the value of `option`, is inside a folder of recordings, where the next
    run would index it."""
    if options.dataset == "folder":
        check_not_inside(output_dir, options.location, option, "--data-dir")


def last_fold(clips: pa.Table) -> int:
    """The last fold that has clips: the test fold by default."""
    return int(pc.max(clips["fold"]).as_py())


def rows_of_folds(clips: pa.Table, folds: set[int]) -> pa.Table:
    """The clips whose fold is one of `folds`."""
    return clips.filter(pc.is_in(clips["fold"], pa.array(sorted(folds), clips.schema.field("fold").type)))
