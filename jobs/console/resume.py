"""Stages that are run once: `run_once` skips a finished stage, and resumes an interrupted one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

from cluster import storage
from cluster.tables import stage_record as records
from jobs.console.command import print_note
from soundstorm.errors import SoundStormError

Counts = dict[str, Any]
"""Results of a stage, as in its record."""


class OutputOptions(Protocol):
    """Where a job writes."""

    output_dir: str
    overwrite: bool


@dataclass(frozen=True)
class Stage:
    """A stage of a job, whose record marks it as finished."""

    name: str
    """Name of its record."""
    options: OutputOptions
    settings: Mapping[str, Any]
    """All settings that the output depends on."""
    outputs: Sequence[str]
    """Names below `output_dir` that the stage writes; `overwrite` deletes them."""
    _: KW_ONLY
    free: Sequence[str] = ()
    """Keys of `settings` whose values may differ from those of the interrupted run."""
    required: Sequence[str] = ()
    """Outputs without which a finished stage is run again."""
    temporary: Sequence[str] = ()
    """Outputs that are deleted when the stage is finished."""


def run_once(
    stage: Stage,
    work: Callable[[], Counts],
    summarize: Callable[[Counts, str], dict[str, Any]],
    *,
    done: str = "already done: ",
    is_complete: Callable[[Counts], bool] = lambda counts: True,
) -> dict[str, Any]:
    """Run a stage, or skip it if it is finished; returns its summary.

    Args:
        stage: the stage.
        work: runs the stage, or what is missing of it, and returns its counts.
        summarize: makes the summary from the counts and a prefix of its message, empty for a stage that was run.
        done: prefix of the message of a stage that is skipped.
        is_complete: whether the outputs of a finished stage still exist, and are all that is requested.

    Raises:
        ClusterError: the output folder has output of other settings, or unowned output.
        SoundStormError: the counts in the record are not those that the stage writes.
    """
    output_dir, name, settings = stage.options.output_dir, stage.name, stage.settings
    overwrite, outputs, free = stage.options.overwrite, stage.outputs, stage.free
    record = records.start_stage(output_dir, name, settings, overwrite=overwrite, outputs=outputs, free=free)
    if record is not None and is_complete(record.counts) and _has_all_outputs(stage):
        return finished_summary(output_dir, name, lambda: summarize(record.counts, done))
    counts = work()
    records.complete_stage(output_dir, name, settings, counts)
    for temporary in stage.temporary:
        storage.delete(storage.join(output_dir, temporary))
    return summarize(counts, "")


def finished_summary(output_dir: str, name: str, summarize: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The summary of a finished stage, which `summarize` makes from the counts of its record.

    Raises:
        SoundStormError: the counts of the record are not those that the stage writes.
    """
    try:
        return summarize()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        where = records.record_uri(output_dir, name)
        raise SoundStormError(
            f"{where}: its counts are not those of '{name}' ({type(error).__name__}: {error}); use --overwrite"
        ) from error


def _has_all_outputs(stage: Stage) -> bool:
    """Whether the required outputs of a finished stage still exist; prints a note about missing ones."""
    output_dir = stage.options.output_dir
    missing = [name for name in stage.required if not storage.exists(storage.join(output_dir, name))]
    if missing:
        print_note(f"{output_dir} has no {', '.join(missing)} any more: it is recreated")
    return not missing
