"""Tar shards in WebDataset format, and single members of them by URI:
`s3://bucket/audio/part-0000012.tar#rain-0000120.flac`.

Archives are reproducible: their bytes depend on names and contents alone, not on times or owners.
"""

import io
import re
import tarfile
from collections.abc import Iterable

from cluster import storage
from cluster.errors import ClusterError, NotFoundError

_MEMBER = re.compile(r"(.+\.tar)#([^/#]+)")


def write_tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Content of an uncompressed archive of `files`, pairs of name and content, in this order."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)  # its defaults are time 0, owner 0, mode 0644
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def member_uri(tar_uri: str, name: str) -> str:
    """The URI of the file `name` in the archive `tar_uri`."""
    return f"{tar_uri}#{name}"


def is_member(uri: str) -> bool:
    """Whether a URI names a file in an archive."""
    return _MEMBER.fullmatch(uri) is not None


class TarMemberReader:
    """Reads files by URI, both members of archives and single files. It keeps the last archive in memory for the next
    member."""

    def __init__(self) -> None:
        self._uri = ""
        self._files: dict[str, bytes] = {}

    def read(self, uri: str) -> bytes:
        """The whole content of the file.

        Raises:
            NotFoundError: the file or the archive does not exist, or the archive has no such member.
            ClusterError: it cannot be read.
        """
        match = _MEMBER.fullmatch(uri)
        if match is None:
            return storage.read_bytes(uri)
        tar_uri, name = match.groups()
        if tar_uri != self._uri:
            self._files, self._uri = _unpacked(tar_uri), tar_uri
        if name not in self._files:
            raise NotFoundError(f"{uri}: the archive has no such file; run the step that writes it with --overwrite")
        return self._files[name]


def _unpacked(tar_uri: str) -> dict[str, bytes]:
    """Content of every regular file of an archive, by name."""
    content = storage.read_bytes(tar_uri)
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:", encoding="utf-8") as tar:
            for info in tar:
                file = tar.extractfile(info) if info.isreg() else None
                if file is not None:
                    files[info.name] = file.read()
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ClusterError(
            f"{tar_uri}: not a tar archive, or damaged ({cause}); run the step that writes it with --overwrite"
        ) from error
    return files
