"""The exceptions of this floor that mean "the user can mend this": they are shown as a sentence, without a
traceback."""


class ClusterError(Exception):
    """A problem with storage, Ray or a record. The message names the thing, its value and the remedy, and never holds a
    secret."""


class NotFoundError(ClusterError):
    """There is no file or object of this name."""


class StorageUnavailableError(ClusterError):
    """The storage did not do what it was asked, time and again; this says nothing about the object that was asked
    for."""


class NoRoomError(ClusterError):
    """The disk is full or read-only: trying again does not change that."""
