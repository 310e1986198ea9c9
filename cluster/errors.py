"""The one exception of this floor that means "the user can mend this": it is shown as a sentence, without a traceback."""


class ClusterError(Exception):
    """A problem with storage, Ray or a record. The message names the thing, its value and the remedy, and never holds a secret."""
