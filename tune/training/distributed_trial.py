"""A trial of the training study as a run of Ray Train on several workers, for networks that need more than one
process."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.state import list_actors
from ray.util.state.exception import RayStateApiException
from torch import Tensor

from cluster import storage
from jobs.training.generator_loop import train_on_worker
from jobs.training.ray_trainer import WorkerScaling, run_trainer
from soundstorm.errors import SoundStormError
from tune.search.failures import failure_reason
from tune.search.runner import PENALTY, RESTARTS
from tune.search.trial_journal import TrialConfig, point_name
from tune.training.trial import EPOCH_FIGURES, STATES, Base, applied, checkpoint_uri, require_finite

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
    last: list[dict[str, Any]] = []
    home = storage.join(base.folder, STATES, point_name(point))

    def report(metrics: dict[str, Any]) -> None:
        nonlocal num_reported
        for row in metrics["rows"][num_reported:]:
            require_finite(row)
            reported = {"threads": plan.cpus_per_worker} | {
                name: row[name] for name in ("epoch", "val_loss", *EPOCH_FIGURES) if name != "threads"
            }
            if row["epoch"] < base.training.epochs:
                tune.report(reported)
            else:
                last.append(reported)  # reported once its network is published, because this report ends the trial
        num_reported = len(metrics["rows"])

    try:
        model, training = applied(point, base.model, base.training)
        settings = {
            "architecture": model.to_dict(),
            "training": training.to_dict(),
            "batch_size": training.batch_size,
            "sampler": base.sampler.to_dict(),
            "categories": base.categories,
            "codec": asdict(base.fingerprint),
            "dataset": base.dataset,
            "fold": base.fold,
            "trained_on": base.trained_on.to_dict(),
            "tokens": tokens[0],
            "weights": None if weights is None else ray.put(weights),
            "checkpoint_every": max(1, training.epochs // 10),
            "cpus": plan.cpus_per_worker,
            "threads": plan.cpus_per_worker,
        }
        result = run_trainer(
            train_on_worker,
            settings,
            {},
            scaling=plan,
            output_uri=home,
            max_failures=RESTARTS,
            on_report=report,
        )
        if result.return_value:
            raise SoundStormError(str(result.return_value))
        assert result.checkpoint is not None  # the last epoch always has one
        with result.checkpoint.as_directory() as folder:
            storage.copy_from_local(Path(folder), checkpoint_uri(base.folder, point))
        storage.delete(home)
        tune.report(last[-1])
    except Exception as error:
        problem = failure_reason(error)
        if problem is None:
            raise
        tune.report({"val_loss": PENALTY, "problem": problem, "state": "diverged" if num_reported else "failed"})
