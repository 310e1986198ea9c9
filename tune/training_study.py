"""`soundstorm tune training`: search of training settings with Ray Tune; Optuna proposes settings, and ASHA stops
trials that fall behind.

A trial is one process that runs the same epochs as `soundstorm train` with one worker, or with --num-workers a run of
Ray Train; all trials share one copy of the tokens in the object store. Settings are chosen by the loss on the held-out
fold, so the loss on that fold is optimistic: report results on another fold.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray import tune

from cluster import storage
from cluster.runtime.connect import ClusterInfo, connect
from jobs.console.command import console, exit_process, print_note, run_command
from jobs.console.resume import run_once
from jobs.training.generator_recipe import GeneratorSettings
from jobs.training.ray_trainer import WorkerScaling, scaling_for
from soundstorm.reports.page import decimal
from tune.search.options import check_resumable
from tune.search.results import (
    study_stage,
)
from tune.search.runner import Search, concurrency_for, run_search
from tune.search.space import describe_space
from tune.search.trial_journal import Journal, TrialResult
from tune.training.beginning import TRIALS, Options, Start, prepare
from tune.training.distributed_trial import trial_on_workers, workers_end_with_their_run
from tune.training.results import write_results
from tune.training.trial import (
    EPOCH_FIGURES,
    STATES,
    Base,
    trial,
)

STAGE = "tune"


def run(options: Options) -> dict[str, Any]:
    """Run the study, or what is missing of it; returns the best settings and their loss."""
    storage.check_writable(options.output_dir)
    check_resumable(options.output_dir, STAGE, options.resume)
    begin = prepare(options)
    settings = {
        "study": "training",
        "tokens": storage.absolute(options.tokens),
        "tokens_made": begin.tokens.made,
        "fold": begin.tokens.fold,
        "preset": options.preset,
        "architecture": begin.model.to_dict(),
        "training": begin.training.to_dict(),
        "checkpoint_sha256": begin.checkpoint_sha256,
        "space": describe_space(begin.space),
        "num_workers": options.num_workers,
    }

    def work() -> dict[str, Any]:
        trials = _search(options, begin)
        storage.delete(storage.join(options.output_dir, STATES))  # of trials that were stopped early
        return write_results(options, begin, trials, settings | {"num_trials": options.num_trials})

    return run_once(
        study_stage(STAGE, options, settings),
        work,
        partial(_summary, options),
        is_complete=lambda counts: counts.get("trials", 0) >= options.num_trials,
    )


def _search(options: Options, begin: Start) -> list[TrialResult]:
    """Run the trials."""
    training, validation = begin.tokens.split()
    with connect(options.address) as info:
        search = Search(
            name=TRIALS,
            space=begin.space,
            metrics=("val_loss",),
            figures=EPOCH_FIGURES,
            num_trials=options.num_trials,
            epochs=begin.training.epochs,
            stops_early=options.num_workers == 1 or workers_end_with_their_run(),
        )
        if not search.stops_early:
            print_note(
                "no trial is stopped early: without Ray's dashboard the CPUs of its workers would not be free again"
            )
        plan, each = _plan(options, info)
        console.print(
            f"tune: {options.num_trials} trials of {begin.training.epochs} epochs on {len(training)} clips, "
            f"{plan.num_workers} at a time{_of_each(options, each)}"
        )
        base = Base(
            generator=GeneratorSettings.of(begin.tokens, begin.model, begin.training, begin.sampler, begin.generator),
            folder=storage.absolute(options.output_dir),
            cpus=plan.cpus_per_worker,
        )
        resources = None
        if options.num_workers > 1:
            trainable = tune.with_parameters(
                trial_on_workers,
                tokens=[ray.put((training, validation))],
                base=base,
                weights=begin.weights,
                plan=each,
            )
            resources = {
                "memory": 1.0
            }  # one byte: what the trial's own process needs is beside what its workers reserve
        else:
            trainable = tune.with_parameters(
                trial, training=training, validation=validation, base=base, weights=begin.weights
            )
        describe = _describer(
            begin.training.epochs, Journal(storage.join(options.output_dir, TRIALS, "journal")).ended()
        )
        return run_search(search, trainable, plan, options.output_dir, options, describe=describe, resources=resources)


def _plan(options: Options, info: ClusterInfo) -> tuple[WorkerScaling, WorkerScaling]:
    """Trials at a time, and the workers of each trial."""
    if options.num_workers == 1:
        plan = concurrency_for(options, info, options.num_trials)
        return plan, plan
    each = scaling_for(options.num_workers, "auto", info)
    total = int(info.num_gpus) if each.use_gpu else int(info.num_cpus)
    at_a_time = min(
        options.max_concurrent or total,
        max(1, total // (options.num_workers * (1 if each.use_gpu else each.cpus_per_worker))),
    )
    return WorkerScaling(num_workers=at_a_time, cpus_per_worker=each.cpus_per_worker, use_gpu=each.use_gpu), each


def _of_each(options: Options, each: WorkerScaling) -> str:
    if options.num_workers > 1:
        return f", each {each}"
    cpus = f"{each.cpus_per_worker} CPU{'s' if each.cpus_per_worker > 1 else ''}"
    return f" with {cpus}{' and a GPU' if each.use_gpu else ''} each"


def _describer(epochs: int, before: Sequence[TrialResult]) -> Any:
    """Returns a function that describes a finished trial and the best loss so far."""
    finished = [ended.last["val_loss"] for ended in before if ended.state == "finished"]

    def describe(ended: TrialResult) -> str:
        if ended.state == "finished":
            finished.append(ended.last["val_loss"])
        best = f"best {min(finished):.3f}" if finished else "none has finished yet"
        return f"val {ended.last.get('val_loss', float('nan')):.3f} after {len(ended.rows)} of {epochs} epochs  {best}"

    return describe


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    best = storage.join(options.output_dir, "best.json")
    found = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in counts["best"].items()
    )
    marked = "".join(f", {counts[state]} {state}" for state in ("diverged", "failed") if counts[state])
    trials = f"{counts['trials']} trials ({counts['stopped']} stopped early{marked})"
    message = f"{prefix}{best}: {found} gave the lowest loss of {trials}, {decimal(counts['val_loss'], 3)} nats"
    return {"message": message, "output_dir": options.output_dir, "best_config": best, **counts}


if __name__ == "__main__":
    exit_process(run_command(Options, run))
