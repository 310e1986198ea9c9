"""Repeated calls of a finished stage: the summary from its record, if its outputs still exist."""

from collections.abc import Callable
from typing import Any

from cluster import storage
from cluster.tables import stage_record as records
from jobs.console.command import print_note
from soundstorm.errors import SoundStormError


def finished_summary(output_dir: str, stage: str, summarize: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The summary of a finished run, which `summarize` makes from the counts of its record.

    Raises:
        SoundStormError: the counts of the record are not those that the stage writes.
    """
    try:
        return summarize()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        where = records.record_uri(output_dir, stage)
        raise SoundStormError(
            f"{where}: its counts are not those of '{stage}' ({type(error).__name__}: {error}); use --overwrite"
        ) from error


def has_all_outputs(output_dir: str, *names: str) -> bool:
    """Whether all outputs of a finished stage, names below `output_dir`, still exist; prints a note about missing
    ones."""
    missing = [name for name in names if not storage.exists(storage.join(output_dir, name))]
    if missing:
        print_note(f"{output_dir} has no {', '.join(missing)} any more: it is recreated")
    return not missing
