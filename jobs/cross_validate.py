"""Cross-validate a classifier: every fold of a dataset is tested once, by a classifier that was not trained on it,
directly or through its codec, generator or teacher.

The folds are those of the dataset. Several run at once on the cluster, each with a quota of its resources. An
interrupted run resumes with the unfinished folds, each where it stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rich.markup import escape

from cluster import storage
from cluster.runtime.connect import connect
from cluster.tables import stage_record as records
from jobs import tokenize, train, train_classifier, train_codec
from jobs.classification.predictions import PREDICTIONS_FILE, SUMMARY_FILE
from jobs.console.command import console, exit_process, print_warning, run_command
from jobs.console.resume import Stage, run_once
from jobs.cross_validation.concurrent_runs import concurrency_for, run_trials
from jobs.cross_validation.fold_plan import (
    SYNTHETIC,
    FoldInputs,
    PretrainedInputs,
    Settings,
    choose_fold_inputs,
    describe,
    fold_identity,
    folds_to_test,
    settings_key,
    synthetic_inputs,
)
from jobs.cross_validation.options import Options
from jobs.cross_validation.results import (
    REPORT_FILE,
    ComparedRun,
    Run,
    fold_folder,
    open_compared_run,
    write_results,
)
from jobs.inputs.datasets import check_not_inside_dataset, folds_record, index_digest, open_and_report
from jobs.inputs.leakage import distrust
from jobs.inputs.synthetic_dataset import make_synthetic
from soundstorm.codec.fitting import FittingConfig
from soundstorm.data.datasets import Index
from soundstorm.errors import SoundStormError
from soundstorm.reports.page import mean_share

FOLD_STAGE = "fold"
SYNTHETIC_CLIPS, SYNTHETIC_SEED = 40, 1000
"""Clips per class that the codec is fitted to, and their first seed, which differs from that of `pipeline`."""
CODEC_FITTING = FittingConfig(pool_blocks=120_000)
"""Settings of that fitting, which takes seconds per level."""
CODEBOOK_SIZE = 1024

STAGE = "cross_validate"


def run(options: Options) -> dict[str, Any]:
    """Run the unfinished folds and summarize all finished ones; returns the summary."""
    for option, folder in (("--output-dir", options.output_dir), ("--stages-dir", options.stages_dir)):
        if folder is not None:
            check_not_inside_dataset(folder, options, option)
            storage.check_writable(folder)
    index = open_and_report(options)
    settings = replace(options.settings, clips=index_digest(index.clips))
    selected, skipped = folds_to_test(options.fold, options.folds, options.location, index)
    others = [open_compared_run(uri, options.dataset, STAGE) for uri in options.compare]
    everywhere = range(1, index.num_folds + 1)
    outputs = (
        PREDICTIONS_FILE,
        SUMMARY_FILE,
        REPORT_FILE,
        "codecs",
        "tokens",
        *(f"fold-{fold}" for fold in everywhere),
    )
    stage = Stage(STAGE, options, settings.identity(), outputs, required=(PREDICTIONS_FILE, SUMMARY_FILE, REPORT_FILE))
    compared = [storage.absolute(uri) for uri in options.compare]

    def work() -> dict[str, Any]:
        done = _do_folds(options, settings, index, selected)
        summary = _write_results(options, settings, index, done, skipped, others)
        return summary | {"compare": compared, "done": sorted(done)} | folds_record(index, options)

    return run_once(
        stage,
        work,
        partial(_summary, options),
        is_complete=lambda counts: counts.get("compare") == compared and set(selected) <= set(counts.get("done", [])),
    )


def _write_results(
    options: Options,
    settings: Settings,
    index: Index,
    done: dict[int, dict[str, Any]],
    skipped: Sequence[int],
    others: Sequence[ComparedRun],
) -> dict[str, Any]:
    """Add folds that earlier runs finished to `done`, write tables and report, and return the figures of the record."""
    everywhere = range(1, index.num_folds + 1)
    done |= {
        fold: found.counts
        for fold in everywhere
        if fold not in done and (found := records.read(fold_folder(options.output_dir, fold), FOLD_STAGE))
    }
    run_of_folds = Run(
        dataset=options.dataset,
        model=options.model,
        mode=options.initialization,
        settings=settings.identity(),
        folds=done,
        skipped=skipped,
    )
    summary = write_results(options.output_dir, index, run_of_folds, others)
    reported = ("name", "accuracy_mean", "accuracy_std", "accuracy_of_all_clips", "clips", "leaks", "warnings")
    return {name: summary[name] for name in reported}


def _do_folds(options: Options, settings: Settings, index: Index, selected: list[int]) -> dict[int, dict[str, Any]]:
    """Run the unfinished folds, several at once; returns the counts of all folds' records."""
    plans = {plan.fold: plan for plan in choose_fold_inputs(settings, index.clips, selected, options.output_dir)}
    for leak in (leak for plan in plans.values() for leak in plan.leaks):
        print_warning(f"{leak}, and is used nevertheless (--allow-leak)")
    folders = {fold: fold_folder(options.output_dir, fold) for fold in selected}
    for fold, plan in plans.items():
        steps_of(settings, plan, folders[fold])  # a wrong setting of a late step is reported before anything runs
    finished = {
        fold: records.finished(folders[fold], FOLD_STAGE, fold_identity(settings, plans[fold])) for fold in selected
    }
    done = {fold: record.counts for fold, record in finished.items() if record is not None}
    todo = [fold for fold in selected if fold not in done]
    if not todo:
        return done
    with connect(options.address, await_gpu=options.device != "cpu") as info:
        prepare(settings, [plans[fold] for fold in todo], options.output_dir)
        concurrent, share = concurrency_for(
            len(todo), options.max_concurrent, options.num_workers, options.device != "cpu", info
        )
        gpus = f" and {share.num_gpus} GPU" if share.num_gpus else ""
        concurrency = f"{concurrent} at once with {share.num_cpus} CPU{gpus} each"
        console.print(
            f"cross-validate: fold {', '.join(map(str, todo))} to run, {concurrency}"
            + (f"; {len(done)} done before" if done else "")
        )
        trials = {f"fold {fold}": partial(run_fold, settings, plans[fold], folders[fold]) for fold in todo}
        outcomes = dict(zip(todo, run_trials(trials, concurrent, share).values(), strict=True))
    failed = {fold: outcome.error for fold, outcome in outcomes.items() if outcome.error is not None}
    if failed:
        errors = "; ".join(f"fold {fold}: {error}" for fold, error in failed.items())
        raise SoundStormError(
            f"{len(failed)} of {len(selected)} folds failed ({errors}). The others are finished and kept: fix the "
            "cause "
            "and run the same command again"
        )
    return done | {fold: outcome.result for fold, outcome in outcomes.items() if outcome.result is not None}


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    folds, leaked = len(counts["done"]), distrust(counts["leaks"])
    noted = f" ({' '.join(counts['warnings'])})" if counts["warnings"] else ""
    accuracy = (
        f"{mean_share(counts['accuracy_mean'], counts['accuracy_std'])} over {folds} fold{'s' if folds > 1 else ''}"
    )
    where = storage.join(options.output_dir, REPORT_FILE)
    message = f"{prefix}{counts['name']}: accuracy {accuracy}, {counts['clips']} clips{leaked}{noted}: {where}"
    return {"message": message, "output_dir": options.output_dir, **counts}


def prepare(settings: Settings, plans: list[FoldInputs], output_dir: str) -> None:
    """Run the shared steps: fit the codec to synthetic sounds if a fold needs it, and tokenize with each codec. Ray
    must be connected."""
    for shared in {plan.pretrained.tokens: plan.pretrained for plan in plans if plan.pretrained is not None}.values():
        if shared == synthetic_inputs(settings, output_dir):
            _fit_codec_to_synthetic_sounds(settings, shared)
        console.print(f"step tokenize: codec '{shared.codec_name}', for all folds that it was not trained on")
        options = tokenize.Options(
            dataset=settings.dataset,
            data_dir=settings.location,
            codec=shared.codec,
            output_dir=shared.tokens,
            views=settings.token_views,
            strict_folds=settings.strict_folds,
            max_rejected=settings.max_rejected,
        )
        console.print(f"    {escape(tokenize.run(options)['message'])}")


def _fit_codec_to_synthetic_sounds(settings: Settings, inputs: PretrainedInputs) -> None:
    console.print("step codec: fitted to synthetic sounds alone, for all folds")
    folder, seed = inputs.codec.rpartition("/")[0], {} if settings.seed is None else {"seed": settings.seed}
    options = train_codec.Options(
        dataset=SYNTHETIC,
        data_dir=make_synthetic(storage.join(folder, "recordings"), SYNTHETIC_CLIPS, SYNTHETIC_SEED),
        output_dir=folder,
        name=inputs.codec_name,
        fitting=replace(CODEC_FITTING, **seed),
        codebook_size=CODEBOOK_SIZE,
        device=settings.device,  # type: ignore[arg-type]
    )
    console.print(f"    {escape(train_codec.run(options)['message'])}")


def run_fold(settings: Settings, plan: FoldInputs, fold_dir: str) -> dict[str, Any]:
    """Run the missing steps of one fold and write its record; returns the counts of the record. Ray must be
    connected."""
    description = describe(settings, plan)
    identity = fold_identity(settings, plan)
    record = records.start_stage(fold_dir, FOLD_STAGE, identity)
    if record is None:
        steps = steps_of(settings, plan, fold_dir)
        for number, (name, step) in enumerate(steps.items(), start=1):
            console.print(f"step {number}/{len(steps)} {name}")
            summary = step()
            console.print(f"    {escape(summary['message'])}")
        counts = {
            "fold": plan.fold,
            "test": summary["test"],
            "network": summary.get("network"),
            "leaks": list(plan.leaks),
        }
        counts["own_generator"] = settings.is_pretrained and not plan.generator
        record = records.complete_stage(fold_dir, FOLD_STAGE, identity, counts | description)
    return record.counts


def _step_folder(settings: Settings, fold_dir: str, fold: int, name: str, *depends_on: Any) -> str:
    """Folder of a step of a fold, which several runs may share."""
    if settings.stages is None:
        return storage.join(fold_dir, name)
    return storage.join(settings.stages, f"fold-{fold}", f"{name}-{settings_key(*depends_on)}")


def steps_of(settings: Settings, plan: FoldInputs, fold_dir: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """The steps of a fold by name, in order; each is a job.

    Raises:
        SoundStormError: a job does not accept a setting.
    """
    shared: dict[str, Any] = {"num_workers": settings.num_workers, "device": settings.device}
    recordings: dict[str, Any] = {"dataset": settings.dataset, "data_dir": settings.location}
    classifier: dict[str, Any] = {
        name: value for name, value in settings.classifier_options().items() if value is not None
    }
    steps: dict[str, Callable[[], dict[str, Any]]] = {}
    folder = partial(_step_folder, settings, fold_dir, plan.fold)
    if plan.pretrained is not None:
        classifier |= {"tokens": plan.pretrained.tokens, "codec": plan.pretrained.codec}
        if settings.taught:
            epochs = settings.teacher_epochs
            deciding = (settings.clips, settings.location, settings.seed, settings.num_workers)
            classifier["teacher"] = folder("teacher", *deciding, *([] if epochs is None else [epochs]))
            of_teacher: dict[str, Any] = {"output_dir": classifier["teacher"], "fold": plan.fold, "seed": settings.seed}
            teacher = train_classifier.Options(
                model="cnn", epochs=epochs, **of_teacher, **recordings, strict_folds=settings.strict_folds, **shared
            )
            steps["teacher"] = partial(train_classifier.run, teacher)
        if settings.is_pretrained and not plan.generator:
            training = (settings.generator_preset, settings.pretrain_epochs, settings.seed, settings.num_workers)
            classifier["checkpoint"] = folder("generator", plan.pretrained.tokens, *training)
            generator = train.Options(
                tokens=plan.pretrained.tokens,
                output_dir=classifier["checkpoint"],
                preset=settings.generator_preset,
                fold=plan.fold,
                epochs=settings.pretrain_epochs,
                codec=plan.pretrained.codec,
                seed=settings.seed,
                **shared,
            )
            steps["generator"] = partial(train.run, generator)
        elif plan.pretrained.checkpoint is not None:
            classifier["checkpoint"] = plan.pretrained.checkpoint
    else:
        classifier["strict_folds"] = settings.strict_folds  # `tokenize` applied it to tokens already
    trained = train_classifier.Options(
        output_dir=storage.join(fold_dir, "classifier"), fold=plan.fold, **recordings, **shared, **classifier
    )
    return steps | {"classifier": partial(train_classifier.run, trained)}


if __name__ == "__main__":
    exit_process(run_command(Options, run))
