"""Keeps the total batch size if a training resumes with another number of workers."""

import json

from cluster import storage
from cluster.errors import NotFoundError
from jobs.console.command import print_note
from jobs.training.ray_trainer import RUN_FOLDER

STEP_FILE = "step.json"
"""File beside the checkpoints of a run, with the number of workers at its start."""


def batch_of_worker(output_uri: str, batch_size: int, num_workers: int) -> int:
    """Batch size of each of `num_workers` workers in a new or resumed run; prints a note if it changes.

    Args:
        output_uri: the job's output folder.
        batch_size: batch size per worker in the options; it applies to the number of workers with which the run was
            started.
        num_workers: number of workers now.
    """
    uri = storage.join(output_uri, RUN_FOLDER, STEP_FILE)
    before = _read(uri)
    if before is None:
        storage.write_bytes(uri, json.dumps({"num_workers": num_workers}).encode())
        return batch_size
    if before == num_workers:
        return batch_size
    wanted = batch_size * before
    batch = max(1, round(wanted / num_workers))
    if batch * num_workers == wanted:
        change = (
            f"{batch} clips per worker instead of {batch_size} keep the {wanted} clips per step; only the random masks "
            "and dropout differ"
        )
    else:
        change = (
            f"{batch} clips per worker: a step has {batch * num_workers} clips instead of {wanted}, and an epoch has "
            "another number of steps"
        )
    print_note(
        f"this run started with {before} worker{'s' if before > 1 else ''} and resumes with {num_workers}: {change}"
    )
    return batch


def _read(uri: str) -> int | None:
    """The number of workers at the start of the run; None if it is not recorded."""
    try:
        found = json.loads(storage.read_bytes(uri))["num_workers"]
    except (NotFoundError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, int) and found > 0 else None
