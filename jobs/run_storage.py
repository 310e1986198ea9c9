"""Where Ray Train and Ray Tune keep a run, on a disk or in object storage.

Both make folders before they write. In object storage that leaves empty objects called `prefix/`, which some servers refuse and
nobody needs, and so does pyarrow after each deletion. Here, neither happens.
"""

from typing import Any

from pyarrow import fs

from cluster import storage
from cluster.errors import ClusterError


class _NoFolders(fs.FileSystemHandler):
    """Everything as in the file system `inner`, but that folders are neither made nor left."""

    def __init__(self, inner: fs.FileSystem) -> None:
        self.inner = inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _NoFolders) and self.inner == other.inner

    def __hash__(self) -> int:
        return hash(self.inner.type_name)

    def get_type_name(self) -> str:
        return f"no-folders+{self.inner.type_name}"

    def normalize_path(self, path: str) -> str:
        return str(self.inner.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return list(self.inner.get_file_info(paths))

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return list(self.inner.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        """Folders come into being with the objects below them."""

    def delete_dir(self, path: str) -> None:
        _delete(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        _delete(path)

    def delete_root_dir_contents(self) -> None:
        raise OSError("refusing to delete all buckets")

    def delete_file(self, path: str) -> None:
        _delete(path)

    def move(self, src: str, dest: str) -> None:
        self.inner.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self.inner.copy_file(src, dest)

    def open_input_stream(self, path: str) -> Any:
        return self.inner.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return self.inner.open_input_file(path)

    def open_output_stream(self, path: str, metadata: dict[str, str]) -> Any:
        return self.inner.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: dict[str, str]) -> Any:
        return self.inner.open_append_stream(path, metadata=metadata)


def _delete(path: str) -> None:
    """Delete `path`, "bucket/key", and all below it; pyarrow would make the folder above it."""
    try:
        storage.delete(f"s3://{path}")
    except ClusterError as error:
        raise OSError(str(error)) from error


def run_storage(uri: str) -> tuple[fs.FileSystem, str]:
    """File system and path of `uri` for the `storage_filesystem` and `storage_path` of a Ray run."""
    filesystem, path = storage.filesystem(uri)
    return (fs.PyFileSystem(_NoFolders(filesystem)) if storage.is_remote(uri) else filesystem), path
