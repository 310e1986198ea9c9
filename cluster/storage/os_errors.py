"""Errors of the operating system as one sentence that names the file and the remedy."""

import errno

from cluster.errors import ClusterError, NoRoomError, NotFoundError


def file_error(uri: str, error: OSError) -> ClusterError:
    """The ClusterError to raise for an error of the operating system about `uri`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoRoomError(f"{uri}: the disk is full ({error.strerror}); free some space or choose another path")
    if error.errno == errno.EROFS:
        return NoRoomError(f"{uri}: the disk is read-only; choose another path")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ClusterError(f"{uri}: permission denied; change the permissions or choose another path")
    if error.errno == errno.ENOENT:
        return NotFoundError(f"{uri} does not exist; check the path")
    if error.errno == errno.ENAMETOOLONG:
        return ClusterError(f"{uri}: the name is too long for this disk; choose a shorter one")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return ClusterError(
            f"{uri}: a name in the path exists and is a file, not a folder; remove it or choose another path"
        )
    if error.errno == errno.EISDIR:
        return ClusterError(f"{uri} is a folder, not a file; check the path")
    return ClusterError(f"{uri}: {error.strerror or type(error).__name__}; check the path and the disk")
