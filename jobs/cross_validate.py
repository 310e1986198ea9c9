"""Cross-validate a classifier: every fold of a dataset is tested once, by a classifier that has not seen it, nor has
anything that it learned from.

The folds are those of the dataset, and are done side by side on the cluster, each with its share of it. A run that was
cut short goes on with the folds that are not finished, and with each of them where it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from rich.markup import escape

from cluster import storage
from cluster.runtime.connect import connect
from cluster.tables import stage_record as records
from jobs import tokenize, train, train_classifier, train_codec
from jobs.console.command import console, leave, start
from jobs.console.resume import all_there, told_again
from jobs.cross_validation.concurrent_runs import plan_trials, run_trials
from jobs.cross_validation.fold_plan import (
    SYNTHETIC,
    FoldPlan,
    Settings,
    Start,
    _key,
    describe,
    fold_identity,
    folds_to_test,
    plan_folds,
    synthetic_start,
)
from jobs.cross_validation.results import (
    PREDICTIONS_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    fold_folder,
    open_other,
    write_results,
)
from jobs.inputs.datasets import DatasetOptions, folds_record, index_digest, open_and_tell, require_apart
from jobs.inputs.synthetic_dataset import make_synthetic
from soundstorm.codec.fitting import FittingConfig
from soundstorm.data.datasets import Index
from soundstorm.errors import SoundStormError
from soundstorm.model.presets import PRESETS
from soundstorm.reports.classification_page import mean_text

FOLD_STAGE = "fold"
SYNTHETIC_CLIPS, SYNTHETIC_SEED = 40, 1000
"""Clips of each class that the codec is fitted to, and where their seeds begin: they are not those of `pipeline`."""
CODEC_FITTING = FittingConfig(pool_blocks=120_000)
"""How: seconds a level."""
CODEBOOK_SIZE = 1024

STAGE = "cross_validate"
FOR_SOUNDSTORM = ("generator_preset", "pretrain_epochs", "views", "taught", "stages_dir")
"""Options that are refused for other models; their defaults are the same as none."""


@dataclass(kw_only=True)
class Options(DatasetOptions):
    """Test a classifier on every fold of a dataset, each time trained without that fold."""

    output_dir: str = "runs/cross-validation"
    """Folder or s3:// prefix with a folder for each fold, and predictions.parquet, summary.json and report.html of
    all."""
    model: Literal["cnn", "soundstorm", "ast"] = "cnn"
    """Which classifier, as in `train-classifier`."""
    mode: Literal["fine-tuned", "frozen", "codec", "scratch"] | None = None
    """How it starts, as in `train-classifier`; default: fine-tuned. The cnn is always trained from scratch."""
    folds: str = "all"
    """Folds to test: all, or their numbers, as in 1,3. Other folds may follow into the same --output-dir later."""
    fold: int | None = None
    """One fold to test, in place of --folds."""
    max_concurrent: int | None = None
    """Folds at a time; default: as many as there are GPUs, or else CPUs and memory for. The CPUs and GPUs are shared
    out among them."""
    preset: str | None = None
    """Settings of the classifier's training, as in `train-classifier`."""
    epochs: int | None = None
    """Passes of the classifier's training; default: the preset's."""
    batch_size: int | None = None
    """Clips per step and worker of the classifier's training; default: the preset's."""
    lr: float | None = None
    """Highest learning rate of the classifier's training; default: the preset's."""
    seed: int | None = None
    """Seed of all training; default: that of each job."""
    weights: str | None = None
    """Folder of AST's weights; default: from the hub."""
    codec: str | None = None
    """Codec to use for the folds that it holds out, path or URI."""
    checkpoint: str | None = None
    """Generator to start from in the folds that it holds out, path or URI."""
    packaged: bool = True
    """Use the codec of `tokenize` and the generator in the package for the folds that they hold out."""
    generator_preset: str = "hearing"
    """Preset of training a generator where none at hand holds a fold out: one of `train`'s."""
    pretrain_epochs: int | None = None
    """Passes of training that generator; default: the preset's. 0: train none, so that the classifier starts from the
    codec's vectors."""
    taught: bool = True
    """Train a cnn for each fold first, whose opinions soundstorm learns beside the labels; it has not seen the fold
    either. Not with --preset published, which is to learn from labels alone."""
    views: int = 7
    """Augmented views of each clip to tokenize beside the recording, as in `tokenize`."""
    test_views: int = 1
    """Views of each test recording whose probabilities are averaged: the recording itself, and others begun elsewhere,
    at a speed, pitch and level of their own."""
    max_rejected: float = 0.05
    """Share of clips (0 to 1) that may be rejected when they are tokenized."""
    stages_dir: str | None = None
    """Folder or s3:// prefix where codecs, tokens, teachers and generators of the folds are kept, for runs that have
    them in common, one after the other; default: --output-dir."""
    compare: tuple[str, ...] = ()
    """Output folders of other cross-validations of the same dataset, to compare with fold by fold."""
    allow_leak: bool = False
    """Use --codec, --checkpoint and the package for every fold, also where they have seen it; the report says so."""
    num_workers: int | None = None
    """Training processes of each fold; default: one per GPU of its share, or one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes GPUs where there are any."""
    overwrite: bool = False
    """Start afresh: delete what earlier runs left in the output folder."""
    address: str | None = None
    """Ray cluster to join; default: start one here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "cnn" and self.mode not in (None, "scratch"):
            raise SoundStormError(f"--mode is {self.mode}: the cnn is always trained from scratch, leave it out")
        for option, least in (
            ("max_concurrent", 1),
            ("epochs", 1),
            ("batch_size", 1),
            ("num_workers", 1),
            ("views", 0),
            ("test_views", 1),
        ):
            value = getattr(self, option)
            if value is not None and value < least:
                raise SoundStormError(f"--{option.replace('_', '-')} is {value}: give at least {least}")
        if self.fold is not None and self.folds != "all":
            raise SoundStormError(f"--fold is {self.fold} and --folds is {self.folds}: give one of the two")
        if not 0 <= self.max_rejected <= 1:
            raise SoundStormError(f"--max-rejected is {self.max_rejected}: give a share from 0 to 1")
        for option, hears in (("codec", "soundstorm"), ("checkpoint", "soundstorm"), ("weights", "ast")):
            if getattr(self, option) is not None and self.model != hears:
                raise SoundStormError(
                    f"--{option} is {getattr(self, option)}: only --model {hears} starts from it, leave it out for "
                    f"{self.model}"
                )
        if self.model != "soundstorm":
            for option in FOR_SOUNDSTORM:
                value, usual = getattr(self, option), self.__dataclass_fields__[option].default
                if value != usual:
                    raise SoundStormError(
                        f"--{option.replace('_', '-')} is {value}: only --model soundstorm has use for it, leave it "
                        f"out for {self.model}"
                    )
        if self.pretrain_epochs is not None and self.pretrain_epochs < 0:
            raise SoundStormError(f"--pretrain-epochs is {self.pretrain_epochs}: give 0 or more")
        if self.mode == "frozen" and self.pretrain_epochs == 0:
            raise SoundStormError(
                "--mode is frozen and --pretrain-epochs is 0: without a generator there is nothing to freeze, give 1 "
                "or more"
            )
        if self.generator_preset not in PRESETS:
            raise SoundStormError(f"--generator-preset is '{self.generator_preset}': give one of {', '.join(PRESETS)}")

    @property
    def starts_as(self) -> str | None:
        """The mode that follows from all options; None for the cnn, which has none."""
        if self.model == "cnn":
            return None
        mode = self.mode or "fine-tuned"
        return "codec" if self.model == "soundstorm" and mode == "fine-tuned" and self.pretrain_epochs == 0 else mode

    @property
    def is_taught(self) -> bool:
        """Whether a teacher is trained for each fold."""
        return self.taught and self.model == "soundstorm" and self.preset != "published"

    @property
    def settings(self) -> Settings:
        """What decides how each fold is done."""
        names = [name for name in Settings.__dataclass_fields__ if name not in ("location", "clips", "mode", "stages")]
        given = {name: getattr(self, name) for name in names} | {"taught": self.is_taught}
        paths = {
            name: None if given[name] is None else storage.absolute(given[name])
            for name in ("codec", "checkpoint", "weights")
        }
        stages = None if self.stages_dir is None else storage.absolute(self.stages_dir)
        return Settings(location=storage.absolute(self.location), mode=self.starts_as, stages=stages, **given | paths)


def run(options: Options) -> dict[str, Any]:
    """Do the folds that are not finished, and sum up all that are; returns the summary."""
    for option, folder in (("--output-dir", options.output_dir), ("--stages-dir", options.stages_dir)):
        if folder is not None:
            require_apart(folder, options, option)
            storage.check_writable(folder)
    index = open_and_tell(options)
    settings = replace(options.settings, clips=index_digest(index.clips))
    wanted, skipped = folds_to_test(options.fold, options.folds, options.location, index)
    others = [open_other(uri, options.dataset, STAGE) for uri in options.compare]
    everywhere = range(1, index.num_folds + 1)
    outputs = (
        PREDICTIONS_FILE,
        SUMMARY_FILE,
        REPORT_FILE,
        "codecs",
        "tokens",
        *(f"fold-{fold}" for fold in everywhere),
    )
    record = records.begin(options.output_dir, STAGE, settings.identity(), overwrite=options.overwrite, outputs=outputs)
    asked = {"compare": [storage.absolute(uri) for uri in options.compare]}
    is_summed_up = (
        record is not None
        and record.counts.get("compare") == asked["compare"]
        and set(wanted) <= set(record.counts.get("done", []))
    )
    if (
        record is not None
        and is_summed_up
        and all_there(options.output_dir, PREDICTIONS_FILE, SUMMARY_FILE, REPORT_FILE)
    ):
        return told_again(options.output_dir, STAGE, lambda: _summary(options, record.counts, "already done: "))
    done = _do_folds(options, settings, index, wanted)
    done |= {
        fold: found.counts
        for fold in everywhere
        if fold not in done and (found := records.read(fold_folder(options.output_dir, fold), FOLD_STAGE))
    }
    told: dict[str, Any] = {"dataset": options.dataset, "model": options.model, "mode": options.starts_as}
    summary = write_results(
        options.output_dir, index, done, settings=settings.identity(), others=others, skipped=skipped, **told
    )
    kept = ("name", "accuracy_mean", "accuracy_std", "accuracy_of_all_clips", "clips", "leaks", "warnings")
    counts = {name: summary[name] for name in kept} | asked | {"done": sorted(done)} | folds_record(index, options)
    records.finish(options.output_dir, STAGE, settings.identity(), counts)
    return _summary(options, counts, "")


def _do_folds(options: Options, settings: Settings, index: Index, wanted: list[int]) -> dict[int, dict[str, Any]]:
    """Do the folds that are not finished, side by side; returns the counts of the records of all."""
    plans = {plan.fold: plan for plan in plan_folds(settings, index.clips, wanted, options.output_dir)}
    for leak in (leak for plan in plans.values() for leak in plan.leaks):
        console.print(
            f"[bold yellow]warning:[/] {escape(leak)}, and is used all the same (--allow-leak)", highlight=False
        )
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
        concurrent, share = plan_trials(
            len(todo), options.max_concurrent, options.num_workers, options.device != "cpu", info
        )
        gpus = f" and {share.num_gpus} GPU" if share.num_gpus else ""
        at_a_time = f"{concurrent} at a time with {share.num_cpus} CPU{gpus} each"
        console.print(
            f"cross-validate: fold {', '.join(map(str, todo))} to do, {at_a_time}"
            + (f"; {len(done)} done before" if done else ""),
            highlight=False,
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


def prepare(settings: Settings, plans: list[FoldPlan], output_dir: str) -> None:
    """Make what several folds have in common: the codec of synthetic sounds, where one needs it, and the tokens of each
    codec. Ray must run."""
    for shared in {plan.start.tokens: plan.start for plan in plans if plan.start is not None}.values():
        if shared == synthetic_start(settings, output_dir):
            _fit_codec_to_synthetic_sounds(settings, shared)
        console.print(
            f"stage tokenize: codec '{shared.codec_name}', for all folds that it has not seen", highlight=False
        )
        options = tokenize.Options(
            dataset=settings.dataset,
            data_dir=settings.location,
            codec=shared.codec,
            output_dir=shared.tokens,
            views=settings.token_views,
            strict_folds=settings.strict_folds,
            max_rejected=settings.max_rejected,
        )
        console.print(f"    {escape(tokenize.run(options)['message'])}", highlight=False)


def _fit_codec_to_synthetic_sounds(settings: Settings, start: Start) -> None:
    console.print("stage codec: of synthetic sounds alone, for all folds", highlight=False)
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
    console.print(f"    {escape(train_codec.run(options)['message'])}", highlight=False)


def run_fold(settings: Settings, plan: FoldPlan, fold_dir: str) -> dict[str, Any]:
    """Do what is not done yet of one fold, and record it; returns the counts of its record. Ray must run."""
    said = describe(settings, plan)
    identity = fold_identity(settings, plan)
    record = records.begin(fold_dir, FOLD_STAGE, identity)
    if record is None:
        stages = stages_of(settings, plan, fold_dir)
        for number, (name, stage) in enumerate(stages.items(), start=1):
            console.print(f"stage {number}/{len(stages)} {name}", highlight=False)
            summary = stage()
            console.print(f"    {escape(summary['message'])}", highlight=False)
        counts = {
            "fold": plan.fold,
            "test": summary["test"],
            "network": summary.get("network"),
            "leaks": list(plan.leaks),
        }
        counts["own_generator"] = settings.is_pretrained and not plan.generator
        record = records.finish(fold_dir, FOLD_STAGE, identity, counts | said)
    return record.counts


def _stage_folder(settings: Settings, fold_dir: str, fold: int, name: str, *deciding: Any) -> str:
    """Where a stage of a fold is done that several runs may have in common."""
    if settings.stages is None:
        return storage.join(fold_dir, name)
    return storage.join(settings.stages, f"fold-{fold}", f"{name}-{_key(*deciding)}")


def stages_of(settings: Settings, plan: FoldPlan, fold_dir: str) -> dict[str, Callable[[], dict[str, Any]]]:
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
    leave(start(Options, run))
