"""Opening the dataset of a job: the index of its clips, local or remote."""

import hashlib
import posixpath
from collections import Counter
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.markup import escape

from cluster import storage
from jobs.console.command import console, print_note
from jobs.console.options import JobOptions, OneOf
from jobs.inputs.outputs_apart import check_not_inside
from soundstorm.data.datasets import DATASETS, Index, index_dataset
from soundstorm.errors import SoundStormError
from soundstorm.schemas import IGNORED, Ignored


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
    return index_dataset(name, filesystem, root, prefix, strict_folds=strict_folds)


def open_and_report(options: DatasetOptions) -> Index:
    """Index the dataset of `options` and print notes about it; raises like `open_dataset`."""
    index = open_dataset(options.dataset, options.location, strict_folds=options.strict_folds)
    for note in index.notes:
        print_note(note)
    return index


def is_listed(clips: pa.Table, list_uri: str) -> list[bool]:
    """For each clip, whether the text file `list_uri` lists it, by clip id or file name, one per line.

    Raises:
        SoundStormError: it lists none of them.
        ClusterError: it cannot be read.
    """
    named = {
        line.strip() for line in storage.read_bytes(list_uri).decode("utf-8", "replace").splitlines() if line.strip()
    }
    listed = [
        bool({row["clip_id"], row["uri"].rpartition("/")[2]} & named)
        for row in clips.select(["clip_id", "uri"]).to_pylist()
    ]
    if not any(listed):
        raise SoundStormError(
            f"--clips {list_uri}: it names no clip of these folds; give one clip id or file name per line"
        )
    return listed


def only_listed(index: Index, list_uri: str | None) -> Index:
    """`index` with only the clips that `list_uri` lists; the others become ignored. None: all clips. Raises like
    `is_listed`."""
    if list_uri is None:
        return index
    listed = is_listed(index.clips, list_uri)
    others = [uri for uri, keep in zip(index.clips["uri"].to_pylist(), listed, strict=True) if not keep]
    rows = [
        {"uri": uri, "reason": Ignored.UNLISTED.value, "detail": f"{list_uri} (--clips) does not name it"}
        for uri in others
    ]
    ignored = pa.concat_tables([index.ignored, pa.Table.from_pylist(rows, IGNORED)])
    return replace(index, clips=index.clips.filter(pa.array(listed)), ignored=ignored)


def report_ignored(index: Index, verbose: bool) -> None:
    """Print how many files of the data folder are ignored and why; `verbose` lists each."""
    rows = index.ignored.to_pylist()
    if verbose:
        for row in rows:
            console.print(f"ignored: {escape(row['uri'])} ({row['reason']}: {escape(row['detail'])})")
    elif rows:
        reasons = ", ".join(
            f"{count} {reason}" for reason, count in Counter(row["reason"] for row in rows).most_common()
        )
        example = f"{rows[0]['uri']} ({rows[0]['detail']})"
        print_note(
            f"{len(rows)} of {index.num_files} files are ignored ({reasons}), for example "
            f"{example}; --verbose names all"
        )


def folds_record(index: Index, options: DatasetOptions) -> dict[str, Any]:
    """For a stage's record: source recordings with clips in two folds (source -> fold -> clips), and whether one side
    was left out."""
    return {"sources_in_two_folds": index.split_sources, "strict_folds": options.strict_folds}


def index_digest(clips: pa.Table) -> str:
    """SHA-256 of the rows of the index and the sizes of the files, in order: it changes when the dataset changes."""
    folder = posixpath.commonprefix(clips["uri"].to_pylist()).rpartition("/")[0]
    sizes = {entry.uri: entry.size for entry in storage.list_objects(folder)} if folder else {}
    digest = hashlib.sha256()
    for row in clips.select(["clip_id", "uri", "fold", "label", "category"]).to_pylist():
        digest.update(repr((*row.values(), sizes.get(row["uri"]))).encode())
    return digest.hexdigest()


def check_not_inside_dataset(output_dir: str, options: DatasetOptions, option: str = "--output-dir") -> None:
    """Raise SoundStormError if `output_dir`, the value of `option`, is inside a folder of recordings, where the next
    run would index it."""
    if options.dataset == "folder":
        check_not_inside(output_dir, options.location, option, "--data-dir")


def last_fold(clips: pa.Table) -> int:
    """The last fold that has clips: the test fold by default."""
    return max(clips["fold"].to_pylist())


def rows_of_folds(clips: pa.Table, folds: set[int]) -> pa.Table:
    """The clips whose fold is one of `folds`."""
    return clips.filter(pc.is_in(clips["fold"], pa.array(sorted(folds), clips.schema.field("fold").type)))
