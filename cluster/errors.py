"""Errors of this layer that the user can fix: they are shown as a sentence, without a traceback."""


class ClusterError(Exception):
    """A problem with storage, Ray or a stage record. The message names the thing, its value and the remedy, and never
    holds a secret."""


class NotFoundError(ClusterError):
    """The file or object does not exist."""


class StorageUnavailableError(ClusterError):
    """The storage could not be reached, or failed repeatedly. Whether the object exists is unknown."""


class NoRoomError(ClusterError):
    """The disk is full or read-only: a retry cannot succeed."""
