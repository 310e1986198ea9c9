"""How many clips each worker takes a step, so that a training which goes on with another number of workers still takes
as many in all."""

import json

from cluster import storage
from cluster.errors import NotFoundError
from jobs.console.command import print_note
from jobs.training.ray_trainer import RUN_FOLDER

STEP_FILE = "step.json"
"""Beside the checkpoints of a run: what it began with."""


def batch_of_worker(output_uri: str, batch_size: int, num_workers: int) -> int:
    """Clips that each of `num_workers` takes a step in the run in `output_uri`, which is to be begun or to go on; says
    what changes.

    Args:
        output_uri: the job's output folder.
        batch_size: clips a worker takes a step, as given in the options; it applies to the number of workers with
            which the run was started.
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
            f"{batch} clips a step each in place of {batch_size}, so that a step has {wanted} as before; only "
            "masks and dropout fall otherwise"
        )
    else:
        change = (
            f"{batch} clips a step each: a step has {batch * num_workers} in place of {wanted}, and an epoch "
            "another number of steps"
        )
    print_note(
        f"this run was begun with {before} worker{'s' if before > 1 else ''} and goes on with {num_workers}: {change}"
    )
    return batch


def _read(uri: str) -> int | None:
    """The number of workers that the run was begun with; None where it was not begun, or does not say."""
    try:
        found = json.loads(storage.read_bytes(uri))["num_workers"]
    except (NotFoundError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, int) and found > 0 else None
