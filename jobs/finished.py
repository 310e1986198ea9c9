"""What a finished stage says when it is called again: the summary of the counts in its record."""

from collections.abc import Callable
from typing import Any

from cluster import records
from soundstorm.errors import SoundStormError


def told_again(output_dir: str, stage: str, tell: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The summary that `tell` makes of a record's counts.

    Raises:
        SoundStormError: the record's counts are not those that the stage writes.
    """
    try:
        return tell()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        where = records.record_uri(output_dir, stage)
        raise SoundStormError(f"{where}: its counts are not those of '{stage}' ({type(error).__name__}: {error}); use --overwrite") from error
