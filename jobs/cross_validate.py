"""Cross-validate a classifier: every fold of a dataset is tested once, by a classifier that has not seen it, nor has
anything that it learned from.

The folds are those of the dataset, and are done side by side on the cluster, each with its share of it. A run that was
cut short goes on with the folds that are not finished, and with each of them where it was.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from rich.markup import escape

from cluster import storage
from cluster.runtime.connect import connect
from cluster.tables import stage_record as records
from jobs import tokenize, train, train_classifier, train_codec
from jobs.console.command import console, exit_process, print_warning, run_command
from jobs.console.resume import finished_summary, has_all_outputs
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
    PREDICTIONS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    Run,
    fold_folder,
    open_compared_run,
    write_results,
)
from jobs.inputs.datasets import check_not_inside_dataset, folds_record, index_digest, open_and_report
from jobs.inputs.synthetic_dataset import make_synthetic
from soundstorm.codec.fitting import FittingConfig
from soundstorm.data.datasets import Index
from soundstorm.errors import SoundStormError
from soundstorm.reports.classification_page import mean_text

FOLD_STAGE = "fold"
SYNTHETIC_CLIPS, SYNTHETIC_SEED = 40, 1000
"""Clips of each class that the codec is fitted to, and where their seeds begin: they are not those of `pipeline`."""
CODEC_FITTING = FittingConfig(pool_blocks=120_000)
"""How: seconds a level."""
CODEBOOK_SIZE = 1024

STAGE = "cross_validate"


def run(options: Options) -> dict[str, Any]:
    """Do the folds that are not finished, and sum up all that are; returns the summary."""
    for option, folder in (("--output-dir", options.output_dir), ("--stages-dir", options.stages_dir)):
        if folder is not None:
            check_not_inside_dataset(folder, options, option)
            storage.check_writable(folder)
    index = open_and_report(options)
    settings = replace(options.settings, clips=index_digest(index.clips))
    wanted, skipped = folds_to_test(options.fold, options.folds, options.location, index)
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
    record = records.start_stage(
        options.output_dir, STAGE, settings.identity(), overwrite=options.overwrite, outputs=outputs
    )
    asked = {"compare": [storage.absolute(uri) for uri in options.compare]}
    is_summed_up = (
        record is not None
        and record.counts.get("compare") == asked["compare"]
        and set(wanted) <= set(record.counts.get("done", []))
    )
    if (
        record is not None
        and is_summed_up
        and has_all_outputs(options.output_dir, PREDICTIONS_FILE, SUMMARY_FILE, REPORT_FILE)
    ):
        return finished_summary(options.output_dir, STAGE, lambda: _summary(options, record.counts, "already done: "))
    done = _do_folds(options, settings, index, wanted)
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
    kept = ("name", "accuracy_mean", "accuracy_std", "accuracy_of_all_clips", "clips", "leaks", "warnings")
    counts = {name: summary[name] for name in kept} | asked | {"done": sorted(done)} | folds_record(index, options)
    records.complete_stage(options.output_dir, STAGE, settings.identity(), counts)
    return _summary(options, counts, "")


def _do_folds(options: Options, settings: Settings, index: Index, wanted: list[int]) -> dict[int, dict[str, Any]]:
    """Do the folds that are not finished, side by side; returns the counts of the records of all."""
    plans = {plan.fold: plan for plan in choose_fold_inputs(settings, index.clips, wanted, options.output_dir)}
    for leak in (leak for plan in plans.values() for leak in plan.leaks):
        print_warning(f"{leak}, and is used all the same (--allow-leak)")
    folders = {fold: fold_folder(options.output_dir, fold) for fold in wanted}
    for fold, plan in plans.items():
        stages_of(settings, plan, folders[fold])  # a wrong setting of a late stage is told before anything is started
    finished = {
        fold: records.finished(folders[fold], FOLD_STAGE, fold_identity(settings, plans[fold])) for fold in wanted
    }
    done = {fold: record.counts for fold, record in finished.items() if record is not None}
    todo = [fold for fold in wanted if fold not in done]
    if not todo:
        return done
    with connect(options.address, await_gpu=options.device != "cpu") as info:
        prepare(settings, [plans[fold] for fold in todo], options.output_dir)
        concurrent, share = concurrency_for(
            len(todo), options.max_concurrent, options.num_workers, options.device != "cpu", info
        )
        gpus = f" and {share.num_gpus} GPU" if share.num_gpus else ""
        at_a_time = f"{concurrent} at a time with {share.num_cpus} CPU{gpus} each"
        console.print(
            f"cross-validate: fold {', '.join(map(str, todo))} to do, {at_a_time}"
            + (f"; {len(done)} done before" if done else "")
        )
        trials = {f"fold {fold}": partial(run_fold, settings, plans[fold], folders[fold]) for fold in todo}
        outcomes = dict(zip(todo, run_trials(trials, concurrent, share).values(), strict=True))
    failed = {fold: outcome.error for fold, outcome in outcomes.items() if outcome.error is not None}
    if failed:
        told = "; ".join(f"fold {fold}: {error}" for fold, error in failed.items())
        raise SoundStormError(
            f"{len(failed)} of {len(wanted)} folds failed ({told}). The others are finished and kept: mend the cause "
            "and run the same command again"
        )
    return done | {fold: outcome.result for fold, outcome in outcomes.items() if outcome.result is not None}


def _summary(options: Options, counts: dict[str, Any], prefix: str) -> dict[str, Any]:
    folds, leaked = (
        len(counts["done"]),
        "; NOT TO BE TRUSTED: the test leaked into the training" if counts["leaks"] else "",
    )
    noted = f" ({' '.join(counts['warnings'])})" if counts["warnings"] else ""
    accuracy = (
        f"{mean_text(counts['accuracy_mean'], counts['accuracy_std'])} over {folds} fold{'s' if folds > 1 else ''}"
    )
    where = storage.join(options.output_dir, REPORT_FILE)
    message = f"{prefix}{counts['name']}: accuracy {accuracy}, {counts['clips']} clips{leaked}{noted}: {where}"
    return {"message": message, "output_dir": options.output_dir, **counts}


def prepare(settings: Settings, plans: list[FoldInputs], output_dir: str) -> None:
    """Make what several folds have in common: the codec of synthetic sounds, where one needs it, and the tokens of each
    codec. Ray must run."""
    for shared in {plan.start.tokens: plan.start for plan in plans if plan.start is not None}.values():
        if shared == synthetic_inputs(settings, output_dir):
            _fit_codec_to_synthetic_sounds(settings, shared)
        console.print(f"stage tokenize: codec '{shared.codec_name}', for all folds that it has not seen")
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


def _fit_codec_to_synthetic_sounds(settings: Settings, start: PretrainedInputs) -> None:
    console.print("stage codec: of synthetic sounds alone, for all folds")
    folder, seed = start.codec.rpartition("/")[0], {} if settings.seed is None else {"seed": settings.seed}
    options = train_codec.Options(
        dataset=SYNTHETIC,
        data_dir=make_synthetic(storage.join(folder, "recordings"), SYNTHETIC_CLIPS, SYNTHETIC_SEED),
        output_dir=folder,
        name=start.codec_name,
        fitting=replace(CODEC_FITTING, **seed),
        codebook_size=CODEBOOK_SIZE,
        device=settings.device,  # type: ignore[arg-type]
    )
    console.print(f"    {escape(train_codec.run(options)['message'])}")


def run_fold(settings: Settings, plan: FoldInputs, fold_dir: str) -> dict[str, Any]:
    """Do what is not done yet of one fold, and record it; returns the counts of its record. Ray must run."""
    said = describe(settings, plan)
    identity = fold_identity(settings, plan)
    record = records.start_stage(fold_dir, FOLD_STAGE, identity)
    if record is None:
        stages = stages_of(settings, plan, fold_dir)
        for number, (name, stage) in enumerate(stages.items(), start=1):
            console.print(f"stage {number}/{len(stages)} {name}")
            summary = stage()
            console.print(f"    {escape(summary['message'])}")
        counts = {
            "fold": plan.fold,
            "test": summary["test"],
            "network": summary.get("network"),
            "leaks": list(plan.leaks),
        }
        counts["own_generator"] = settings.is_pretrained and not plan.generator
        record = records.complete_stage(fold_dir, FOLD_STAGE, identity, counts | said)
    return record.counts


def _stage_folder(settings: Settings, fold_dir: str, fold: int, name: str, *deciding: Any) -> str:
    """Where a stage of a fold is done that several runs may have in common."""
    if settings.stages is None:
        return storage.join(fold_dir, name)
    return storage.join(settings.stages, f"fold-{fold}", f"{name}-{settings_key(*deciding)}")


def stages_of(settings: Settings, plan: FoldInputs, fold_dir: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """The jobs of a fold by name, in order.

    Raises:
        SoundStormError: a setting is none of its job's.
    """
    shared: dict[str, Any] = {"num_workers": settings.num_workers, "device": settings.device}
    recordings: dict[str, Any] = {"dataset": settings.dataset, "data_dir": settings.location}
    classifier: dict[str, Any] = {
        name: value for name, value in settings.classifier_options().items() if value is not None
    }
    stages: dict[str, Callable[[], dict[str, Any]]] = {}
    folder = partial(_stage_folder, settings, fold_dir, plan.fold)
    if plan.start is not None:
        classifier |= {"tokens": plan.start.tokens, "codec": plan.start.codec}
        if settings.taught:
            classifier["teacher"] = folder(
                "teacher", settings.clips, settings.location, settings.seed, settings.num_workers
            )
            of_teacher: dict[str, Any] = {"output_dir": classifier["teacher"], "fold": plan.fold, "seed": settings.seed}
            teacher = train_classifier.Options(
                model="cnn", **of_teacher, **recordings, strict_folds=settings.strict_folds, **shared
            )
            stages["teacher"] = partial(train_classifier.run, teacher)
        if settings.is_pretrained and not plan.generator:
            training = (settings.generator_preset, settings.pretrain_epochs, settings.seed, settings.num_workers)
            classifier["checkpoint"] = folder("generator", plan.start.tokens, *training)
            generator = train.Options(
                tokens=plan.start.tokens,
                output_dir=classifier["checkpoint"],
                preset=settings.generator_preset,
                fold=plan.fold,
                epochs=settings.pretrain_epochs,
                codec=plan.start.codec,
                seed=settings.seed,
                **shared,
            )
            stages["generator"] = partial(train.run, generator)
        elif plan.start.checkpoint is not None:
            classifier["checkpoint"] = plan.start.checkpoint
    else:
        classifier["strict_folds"] = settings.strict_folds  # tokens are made with or without
    trained = train_classifier.Options(
        output_dir=storage.join(fold_dir, "classifier"), fold=plan.fold, **recordings, **shared, **classifier
    )
    return stages | {"classifier": partial(train_classifier.run, trained)}


if __name__ == "__main__":
    exit_process(run_command(Options, run))
