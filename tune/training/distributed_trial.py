"""A trial of the training study as a run of Ray Train on several workers, for networks that need more than one
process."""

from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.state import list_actors
from ray.util.state.exception import RayStateApiException
from torch import Tensor

from cluster import storage
from jobs.training.fit import train_on_worker
from jobs.training.generator_recipe import GeneratorRun
from jobs.training.ray_trainer import WorkerScaling, run_trainer
from tune.search.failures import failure_reason
from tune.search.runner import PENALTY, RESTARTS
from tune.search.trial_journal import TrialConfig, point_name
from tune.training.trial import STATES, Base, checkpoint_uri, figures_of, require_finite

STATE_TIMEOUT_S = 10


def workers_end_with_their_run() -> bool:
    """Whether Ray Train frees the resources of a killed run's workers: it asks Ray's dashboard whether the run still
    exists."""
    try:
        list_actors(ray.get_runtime_context().gcs_address, limit=1, timeout=STATE_TIMEOUT_S)
    except (RayStateApiException, ConnectionError):
        return False
    return True


def trial_on_workers(
    point: TrialConfig, tokens: list[ray.ObjectRef], base: Base, weights: dict[str, Tensor] | None, plan: WorkerScaling
) -> None:
    """The trial as a function that Ray Tune runs: each epoch of the workers is a report. Ray Train saves checkpoints,
    and resumes from them. `tokens`: a list of one reference, to the clips to train on and to validate with."""
    point, num_reported = dict(point), 0
    home = storage.join(base.folder, STATES, point_name(point))

    def report(metrics: dict[str, Any]) -> None:
        nonlocal num_reported
        for row in metrics["rows"][num_reported:]:
            require_finite(row)
            # the last one is reported once its network is published, because this report ends the trial
            if row["epoch"] < base.generator.training.epochs:
                tune.report(figures_of(row, plan.cpus_per_worker))
        num_reported = len(metrics["rows"])

    try:
        settings = base.applied(point)
        loop = partial(
            train_on_worker,
            partial(GeneratorRun, settings, settings.training.batch_size, tokens[0], ray.put(weights)),
            cpus=plan.cpus_per_worker,
            checkpoint_every=max(1, settings.training.epochs // 10),
            threads=plan.cpus_per_worker,
        )
        rows, checkpoint = run_trainer(loop, {}, scaling=plan, output_uri=home, max_failures=RESTARTS, on_report=report)
        with checkpoint.as_directory() as folder:
            storage.copy_from_local(Path(folder), checkpoint_uri(base.folder, point))
        storage.delete(home)
        tune.report(figures_of(rows[-1], plan.cpus_per_worker))
    except Exception as error:
        problem = failure_reason(error)
        if problem is None:
            raise
        tune.report({"val_loss": PENALTY, "problem": problem, "state": "diverged" if num_reported else "failed"})
