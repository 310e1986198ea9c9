"""Runs trials with Ray Tune: Optuna proposes settings, ASHA stops trials that fall behind, and a journal stores the
results.

A trial whose process dies is restarted a few times; a trial that fails because of its settings is marked as failed, and
the study continues.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from rich.markup import escape

from cluster import storage
from cluster.runtime.connect import ClusterInfo
from jobs.console.command import console
from jobs.training.ray_trainer import WorkerScaling, scaling_for
from soundstorm.errors import SoundStormError
from tune.search.options import StudyOptions
from tune.search.space import Space
from tune.search.trial_journal import Journal, TrialConfig, TrialResult, point_name

REDUCTION_FACTOR = 3
"""ASHA continues the best third of the trials that reach a rung."""
GRACE_PERIOD_DIVISOR = 6
"""The first rung is after this fraction (1/N) of the epochs."""
PENALTY = 100.0
"""Value reported to Optuna for a trial without a result; larger than any loss or distance."""
RESTARTS = 2
"""Maximum number of restarts of a trial whose process was killed."""
KILLED_SIGNS = ("ActorDied", "ActorUnavailable", "OutOfMemory", "low on memory", "WorkerCrashed", "actor died")
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables would be mixed with our lines
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the study, not only the current trial
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Ray's own state is not read back
}
"""Settings of Ray Tune, as environment variables."""


def concurrency_for(options: StudyOptions, info: ClusterInfo, num_trials: int, device: str = "auto") -> WorkerScaling:
    """Number of concurrent trials and resources of each: as many as the cluster has GPUs, or CPUs, unless fewer are
    requested or needed."""
    slots = int(info.num_gpus) if info.num_gpus and device != "cpu" else int(info.num_cpus)
    return scaling_for(max(1, min(options.max_concurrent or slots, slots, num_trials)), device, info)


@dataclass(kw_only=True, frozen=True)
class Search:
    """A set of trials of one kind."""

    name: str
    """Name of its folder below the output folder."""
    space: Space
    metrics: tuple[str, ...]
    """Metrics that trials report and the search minimizes; with two, the result is a Pareto front."""
    num_trials: int
    figures: tuple[str, ...] = ()
    """Further values that trials report and that are stored, besides `epoch` and the metrics."""
    epochs: int = 1
    """Number of reports of a trial that is not stopped early."""
    points: Sequence[TrialConfig] = ()
    """Settings to try first."""
    stops_early: bool = True
    """Whether ASHA may stop trials."""

    @property
    def first_rung(self) -> int:
        """Number of epochs before ASHA's first comparison."""
        return max(1, self.epochs // GRACE_PERIOD_DIVISOR)


def run_search(
    search: Search,
    trainable: Callable[[TrialConfig], None],
    plan: WorkerScaling,
    output_dir: str,
    options: StudyOptions,
    *,
    describe: Callable[[TrialResult], str],
    resources: dict[str, float] | None = None,
) -> list[TrialResult]:
    """Run the missing trials; returns all trials, including those of earlier calls.

    Args:
        trainable: reports to Ray Tune `epoch`, from 1, and the metrics; or `problem` and `state` (diverged or failed),
            and then returns.
        plan: number of concurrent trials, and resources of each.
        describe: a line about a finished trial, for the console.
        resources: resources of a trial, if not those of the plan.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune.utils.util").setLevel(logging.ERROR)  # it reports every step that took half a second
    journal = Journal(storage.join(output_dir, search.name, "journal"))
    recorder = _Recorder(journal, search, describe)
    before = journal.ended()
    if 0 < len(before) < search.num_trials:
        console.print(
            f"{search.name}: {len(before)} of {search.num_trials} trials are there, {search.num_trials - len(before)} "
            "to go"
        )
    while len(before) < search.num_trials:
        killed = sum(recorder.kills.values())
        _run_missing(search, before, trainable, plan, output_dir, options, recorder, resources)
        ended = journal.ended()
        if len(ended) == len(before) and sum(recorder.kills.values()) == killed:
            raise SoundStormError(
                f"{search.name}: Ray Tune ended with {len(ended)} of {search.num_trials} trials; run the same command "
                "again to go on"
            )
        before = ended
    return before


def _run_missing(
    search: Search,
    before: list[TrialResult],
    trainable: Callable[[TrialConfig], None],
    plan: WorkerScaling,
    output_dir: str,
    options: StudyOptions,
    recorder: "_Recorder",
    resources: dict[str, float] | None,
) -> None:
    """Run as many trials as are missing; trials whose process is killed remain missing."""
    interrupted = recorder.journal.interrupted()
    first = interrupted + [
        point for point in search.points if point not in interrupted and point not in [ended.point for ended in before]
    ]
    filesystem, path = storage.filesystem(storage.join(output_dir, search.name))
    tune.Tuner(
        tune.with_resources(trainable, resources or {name.lower(): amount for name, amount in plan.resources.items()}),
        tune_config=tune.TuneConfig(
            num_samples=search.num_trials - len(before),
            max_concurrent_trials=plan.num_workers,
            search_alg=_optuna(search, before, first, options.seed),
            scheduler=_scheduler(search, before),
            trial_dirname_creator=_name,
            reuse_actors=resources
            is None,  # importing PyTorch takes longer than a short trial; but workers of its own must end with a trial
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[recorder, *_trackers(options)],
        ),
    ).fit()


def _name(trial: Trial) -> str:
    return str(trial.trial_id)


def _optuna(search: Search, before: list[TrialResult], first: list[TrialConfig], seed: int) -> OptunaSearch:
    """The search algorithm, with the results of earlier calls."""
    distributions = OptunaSearch.convert_search_space({name: span.domain() for name, span in search.space.items()})
    several = len(search.metrics) > 1
    metric: Any = list(search.metrics) if several else search.metrics[0]
    # A repeated call must propose settings other than those already tried.
    sampler = optuna.samplers.TPESampler(
        seed=seed + len(before), n_startup_trials=min(10, max(4, search.num_trials // 3))
    )
    searcher = OptunaSearch(
        distributions,
        metric=metric,
        mode=["min"] * len(search.metrics) if several else "min",
        sampler=sampler,
        points_to_evaluate=first or None,
    )
    for ended in before:
        is_bad = ended.state in ("diverged", "failed")  # as in the running study
        values = [PENALTY if is_bad else float(ended.last.get(name, PENALTY)) for name in search.metrics]
        study: Any = searcher._ot_study
        study.add_trial(  # OptunaSearch's own method accepts only one metric
            optuna.trial.create_trial(values=values, params=ended.point, distributions=distributions)
        )
    return searcher


def _scheduler(search: Search, before: list[TrialResult]) -> TrialScheduler:
    """ASHA, with the trials of earlier calls on its rungs. Trials that report once cannot be stopped early."""
    if search.epochs == 1 or not search.stops_early:
        return FIFOScheduler()
    scheduler: Any = ASHAScheduler(
        time_attr="epoch",
        metric=search.metrics[0],
        mode="min",
        max_t=search.epochs,
        grace_period=search.first_rung,
        reduction_factor=REDUCTION_FACTOR,
    )
    for ended in before:
        trial = _PastTrial(ended.trial)
        scheduler.on_trial_add(None, trial)
        for row in ended.rows:
            scheduler.on_trial_result(None, trial, row)
    return scheduler


@dataclass(frozen=True)
class _PastTrial:
    """The attributes of a trial that ASHA uses."""

    trial_id: str


def _trackers(options: StudyOptions) -> list[tune.Callback]:
    if options.log_to == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        return [MLflowLoggerCallback(experiment_name="soundstorm-tune")]
    if options.log_to == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        return [WandbLoggerCallback(project="soundstorm-tune")]
    return []


class _Recorder(tune.Callback):
    """Writes the journal, and prints a line for each trial that ends."""

    def __init__(self, journal: Journal, search: Search, describe: Callable[[TrialResult], str]) -> None:
        self.journal, self.search, self.describe = journal, search, describe
        self.count = len(journal.ended())
        self.rows: dict[str, dict[int, dict[str, Any]]] = {}
        self.problems: dict[str, dict[str, Any]] = {}
        self.kills: Counter[str] = Counter()
        """By point: how often the process of its trial was killed."""

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.journal.begin(dict(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "problem" in result:
            self.problems[trial.trial_id] = result
        else:
            names = ("epoch", *self.search.metrics, *self.search.figures)
            self.rows.setdefault(trial.trial_id, {})[result["epoch"]] = {name: result[name] for name in names}

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        problem = self.problems.get(trial.trial_id)
        if problem is not None:
            self._end(trial, problem["state"], problem["problem"])
        else:
            epochs = max(self.rows.get(trial.trial_id, {0: {}}))
            self._end(trial, "finished" if epochs >= self.search.epochs else "stopped", None)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ray Tune's own restarts are not used: if an actor dies during two calls, the second call would consume a
        restart."""
        text = _error_text(trial)
        point = point_name(trial.config)
        if not any(sign in text for sign in KILLED_SIGNS):
            self._end(trial, "failed", [line.strip() for line in text.splitlines() if line.strip()][-1][:300])
        elif self.kills[point] < RESTARTS:
            self.kills[point] += 1
            self.rows.pop(trial.trial_id, None)
            console.print(
                f"{self.search.name}  {escape(point_text(trial.config))}  [yellow]its process was killed[/]: it runs "
                "again"
            )
        else:
            self._end(
                trial,
                "failed",
                f"its process was killed {RESTARTS + 1} times, which is what happens where memory runs out",
            )

    def _end(self, trial: Trial, state: str, problem: str | None) -> None:
        rows = [row for _, row in sorted(self.rows.pop(trial.trial_id, {}).items())]
        ended = TrialResult(trial=trial.trial_id, point=dict(trial.config), state=state, rows=rows, problem=problem)
        self.journal.end(ended)
        self.count += 1
        mark = f"[yellow]{state}[/]: {escape(problem)}" if problem else self.describe(ended)
        console.print(
            f"{self.search.name} {self.count}/{self.search.num_trials}  {escape(point_text(ended.point))}  {mark}"
        )


def _error_text(trial: Trial) -> str:
    """Ray Tune's error file on this machine; the copy in storage comes later."""
    file = trial.error_file
    return Path(file).read_text(errors="replace") if file is not None and Path(file).is_file() else "no reason given"


def point_text(point: TrialConfig) -> str:
    """Settings as text: `lr 0.002 depth 3`."""
    return "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in point.items()
    )
