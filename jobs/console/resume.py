"""What a finished stage says when it is called again: the summary of the counts in its record, if what it made is still
there."""

from collections.abc import Callable
from typing import Any

from cluster import storage
from cluster.tables import stage_record as records
from jobs.console.command import print_note
from soundstorm.errors import SoundStormError


def finished_summary(output_dir: str, stage: str, tell: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The summary that `tell` makes of a record's counts.

    Raises:
        SoundStormError: the record's counts are not those that the stage writes.
    """
    try:
        return tell()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        where = records.record_uri(output_dir, stage)
        raise SoundStormError(
            f"{where}: its counts are not those of '{stage}' ({type(error).__name__}: {error}); use --overwrite"
        ) from error


def has_all_outputs(output_dir: str, *names: str) -> bool:
    """Whether a finished stage still has all that it left, by their names below `output_dir`; says what is lost, and
    made again, if not."""
    lost = [name for name in names if not storage.exists(storage.join(output_dir, name))]
    if lost:
        print_note(f"{output_dir} has no {', '.join(lost)} any more: made again")
    return not lost
