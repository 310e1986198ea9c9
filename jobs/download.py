"""Download ESC-50, ESC-10 or UrbanSound8K, verify it, and unpack it into the default folder of the other jobs."""

import csv
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from cluster import storage
from cluster.errors import ClusterError
from cluster.transfer.http_download import fetch, progress_bar
from cluster.transfer.unpack import unpack
from jobs.console.command import console, exit_process, run_command
from soundstorm.audio.file_kinds import is_audio
from soundstorm.audio.files import RejectedAudio, read_audio
from soundstorm.data.datasets import DATASETS, Dataset, index_dataset
from soundstorm.errors import SoundStormError

PUBLISHED = tuple(name for name, dataset in DATASETS.items() if dataset.url)
MAX_BYTES = 16 * 2**30
"""Maximum size of an unpacked archive; UrbanSound8K has 7 GB."""
MAX_FILES = 100_000
"""Maximum number of entries of an archive; UrbanSound8K has about 9,000."""
NATIVE_RATE = 44_100
"""ESC-50's own sample rate: clips are verified without resampling."""

_PAPERS = re.compile(r"(LICENSE|README|FREESOUNDCREDITS|UrbanSound8K_README)[^/]*")


@dataclass(kw_only=True)
class Options:
    """Download a published dataset, verify it and unpack it. A complete dataset is not downloaded again; an interrupted
    download is resumed."""

    dataset: str = "esc50"
    """esc50 (646 MB to download), esc10 (the same archive; a fifth of it is kept) or urbansound8k (6 GB)."""
    output_dir: str | None = None
    """Folder for the dataset, path or s3:// URI; default: data/NAME."""
    url: str | None = None
    """Download the archive from this mirror instead of the publisher."""
    cache_dir: str = "~/.cache/soundstorm"
    """Local folder for the archive while it is downloaded and unpacked."""
    keep_archive: bool = False
    """Keep the archive in the cache afterwards."""

    def __post_init__(self) -> None:
        if self.dataset not in PUBLISHED:
            raise SoundStormError(f"--dataset is '{self.dataset}': give one of {', '.join(PUBLISHED)}")


def run(options: Options) -> dict[str, Any]:
    """Download the dataset unless it is complete; returns its folder and the number of clips.

    Raises:
        ClusterError: the archive cannot be downloaded or unpacked, or the folder cannot be written.
        SoundStormError: the archive is not the dataset, or the folder has something else.
    """
    dataset = DATASETS[options.dataset]
    location = storage.absolute(options.output_dir or f"data/{options.dataset}")
    found = _clips_at(options.dataset, location)
    if found != dataset.num_clips:
        if not storage.is_remote(location) and storage.list_objects(location):
            raise SoundStormError(
                f"--output-dir {location} has {found} of the {dataset.num_clips} clips of {dataset.title}: delete it, "
                "or give another folder"
            )
        storage.check_writable(location if storage.is_remote(location) else Path(location).parent)
        _download(options, dataset, location)
    return {
        "output_dir": location,
        "num_clips": dataset.num_clips,
        "message": f"{location}: {dataset.num_clips} clips of {dataset.title} ({dataset.licence}; {dataset.credit})"
        + (", nothing to do" if found == dataset.num_clips else ""),
    }


def main() -> None:
    """Entry point of `python -m jobs.download`."""
    exit_process(run_command(Options, run))


def _download(options: Options, dataset: Dataset, location: str) -> None:
    """Download the archive into the cache, unpack it into a temporary folder, verify it, then move it to `location`."""
    url = options.url or str(dataset.url)
    cache = Path(options.cache_dir).expanduser().absolute()
    archive = cache / ("UrbanSound8K.tar.gz" if options.dataset == "urbansound8k" else "ESC-50.zip")
    was_here = archive.exists()
    with progress_bar(f"downloading {archive.name}") as on_progress:
        fetch(url, archive, md5=dataset.md5, on_progress=on_progress)
    beside = cache if storage.is_remote(location) else Path(location).parent
    try:
        with tempfile.TemporaryDirectory(prefix=f".{options.dataset}-", dir=beside) as scratch:
            folder = Path(scratch) / options.dataset
            console.print(f"unpacking {archive}")
            unpack(
                archive,
                folder,
                choose=lambda path: _target_path(path, dataset),
                max_bytes=MAX_BYTES,
                max_files=MAX_FILES,
            )
            if options.dataset == "esc10":
                _keep_esc10(folder)
            _verify(options.dataset, folder, archive)
            if storage.is_remote(location):
                storage.copy_from_local(folder, location)
            else:
                folder.rename(location)
    except (ClusterError, SoundStormError):
        if not was_here and dataset.md5 is None:
            archive.unlink(missing_ok=True)  # it may be damaged, and would be used again
        raise
    if not was_here and not options.keep_archive:
        archive.unlink(missing_ok=True)


def _clips_at(name: str, location: str) -> int:
    """Number of clips of the dataset at `location` that have both a row and a file."""
    if not storage.list_objects(location, ".csv"):
        return 0
    filesystem, root = storage.filesystem(location)
    try:
        return index_dataset(name, filesystem, root, location).clips.num_rows
    except SoundStormError:
        return 0


def _target_path(path: str, dataset: Dataset) -> str | None:
    """Path of a file of the archive below the dataset's folder; None if it is neither data nor a licence."""
    inner = path.partition("/")[2]
    is_clip = inner.startswith("audio/") and is_audio(inner) and "/." not in inner
    is_table = dataset.layout is not None and inner == dataset.layout.csv_path
    return inner if is_clip or is_table or _PAPERS.fullmatch(inner) else None


def _keep_esc10(folder: Path) -> None:
    """Reduce ESC-50 to the rows and files of ESC-10."""
    table = folder / "meta" / "esc50.csv"
    if not table.exists():
        return
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    kept = [row for row in rows if row.get("esc10") == "True"]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, reader.fieldnames or [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
    names = {row.get("filename") for row in kept}
    for path in (folder / "audio").iterdir():
        if path.name not in names:
            path.unlink()


def _verify(name: str, folder: Path, archive: Path) -> None:
    """Check that the number of clips is the published one. If the archive has no known checksum, decode every clip."""
    dataset = DATASETS[name]
    filesystem, root = storage.filesystem(folder)
    index = index_dataset(name, filesystem, root, folder.as_posix())
    if index.clips.num_rows != dataset.num_clips or index.rejected.num_rows:
        first = f"; the first problem: {index.rejected['detail'][0]}" if index.rejected.num_rows else ""
        raise SoundStormError(
            f"{archive} holds {index.clips.num_rows} clips, but {dataset.title} has {dataset.num_clips}{first}: give "
            "another --url"
        )
    if dataset.md5 is None:
        for uri in track(index.clips["uri"].to_pylist(), "verifying clips", console=console):
            try:
                read_audio(Path(uri), NATIVE_RATE)
            except RejectedAudio as error:
                raise SoundStormError(
                    f"{archive}: {Path(uri).name} is not a complete recording ({error}): give another --url"
                ) from error


if __name__ == "__main__":
    main()
