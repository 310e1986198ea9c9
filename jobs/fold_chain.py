"""One fold of a cross-validation: a codec, tokens and a generator that have not seen the fold, and the classifier that is tested on it.

Each stage is a job of its own in a folder of its own. What is at hand and has not seen the fold is used. Where every codec at hand has, one is
fitted to synthetic sounds alone, into which no fold can have leaked, so that all have it and its tokens in common. Generators and teachers are
trained for each fold.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
from rich.markup import escape

from cluster import storage
from cluster.tables import stage_record as records
from jobs import tokenize, train, train_classifier, train_codec
from jobs.checkpoints import checkpoint_files, open_checkpoint
from jobs.codecs import choose_codec
from jobs.entry import console
from jobs.provenance import test_of
from jobs.synthetic_dataset import make_synthetic
from soundstorm.codec.files import provenance_of_codec
from soundstorm.codec.fitting import FittingConfig
from soundstorm.errors import SoundStormError
from soundstorm.serialization.leakage import Learned, Test, judge
from soundstorm.serialization.provenance import Provenance, TrainedOn

STAGE = "fold"
SOUNDSTORM = "soundstorm"
CODEC_SUFFIX = ".weights"
SYNTHETIC = "synthetic"
SYNTHETIC_CLIPS, SYNTHETIC_SEED = 40, 1000
"""Clips of each class that the codec is fitted to, and where their seeds begin: they are not those of `pipeline`."""
CODEC_FITTING = FittingConfig(pool_blocks=120_000)
"""How: seconds a level."""
CODEBOOK_SIZE = 1024


@dataclass(kw_only=True, frozen=True)
class Settings:
    """What decides how each fold is done."""

    dataset: str
    location: str
    """Of the recordings."""
    clips: str = ""
    """Digest of their index."""
    strict_folds: bool = False
    """Whether one side of recordings with clips in two folds was left out of it."""
    model: str
    mode: str | None
    preset: str | None
    epochs: int | None
    batch_size: int | None
    lr: float | None
    seed: int | None
    weights: str | None
    codec: str | None
    checkpoint: str | None
    packaged: bool
    generator_preset: str
    pretrain_epochs: int | None
    taught: bool
    views: int
    test_views: int
    max_rejected: float
    stages: str | None
    """Folder of what several runs have in common; None: the run's own."""
    num_workers: int | None
    device: str
    allow_leak: bool

    def identity(self) -> dict[str, Any]:
        """For records: all but what leaves the result as it is."""
        aside = ("location", "device", "stages", "strict_folds")  # the digest of the clips tells strict folds
        return {name: value for name, value in asdict(self).items() if name not in aside} | {"data_dir": self.location}

    def classifier_options(self) -> dict[str, Any]:
        """Of `train-classifier`, as they were given; None = its default."""
        names = ("model", "mode", "preset", "epochs", "batch_size", "lr", "seed", "weights", "test_views")
        return {name: getattr(self, name) for name in names} | {"allow_leak": self.allow_leak or None}

    @property
    def token_views(self) -> int:
        """Views to tokenize: only a generator is trained on codes, a classifier hears recordings."""
        return self.views if self.is_pretrained else 0

    @property
    def is_pretrained(self) -> bool:
        """Whether the classifier starts from a generator."""
        return self.model == SOUNDSTORM and self.mode not in ("codec", "scratch")


@dataclass(kw_only=True, frozen=True)
class Start:
    """A codec, and perhaps a generator, that folds may start from."""

    codec: str
    """Its weights, path or URI."""
    codec_name: str
    codec_trained_on: Provenance
    tokens: str
    """Folder of the tokens of all clips, path or URI."""
    checkpoint: str | None = None
    """The generator; None: the one in the package."""
    generator_trained_on: Provenance | None = None
    """None: there is no generator for this codec."""


@dataclass(kw_only=True, frozen=True)
class FoldPlan:
    """How one fold is done."""

    fold: int
    start: Start | None
    """What it starts from; None: nothing, as its classifier hears no codes."""
    generator: bool
    """Whether the generator of `start` is used; else one is trained, if one is wanted."""
    leaks: tuple[str, ...]
    """What has seen the fold and is used all the same."""


# ---- planning


def plan_folds(settings: Settings, clips: pa.Table, folds: list[int], output_dir: str) -> list[FoldPlan]:
    """Decide for each fold what it starts from; weights that came without a path are copied to below `output_dir`.

    Args:
        settings: of the run.
        clips: of the whole data set, schema CLIPS.
        folds: to test.
        output_dir: of the run.

    Raises:
        SoundStormError: what was given is damaged, or the checkpoint is of another codec, or no codec will do for a fold.
        ClusterError: it cannot be read.
    """
    if settings.model != SOUNDSTORM:
        return [FoldPlan(fold=fold, start=None, generator=False, leaks=()) for fold in folds]
    starts = [_start(settings, settings.codec, settings.checkpoint, output_dir)] if settings.codec or settings.checkpoint else []
    if settings.packaged:
        starts.append(_start(settings, None, None, output_dir))
    return [plan_fold(settings, test_of(clips, fold), [*starts, synthetic_start(settings, output_dir)]) for fold in folds]


def plan_fold(settings: Settings, test: Test, starts: list[Start]) -> FoldPlan:
    """The first of `starts` whose codec has not seen the test (or the first, if that is allowed), and its generator likewise.

    Raises:
        SoundStormError: all have seen it.
    """
    fold = test.fold
    for start in starts:
        codec_leaks = _seen(test, start.codec_trained_on, f"the codec '{start.codec_name}'")
        if codec_leaks and not settings.allow_leak:
            continue
        if not settings.is_pretrained or start.generator_trained_on is None:
            return FoldPlan(fold=fold, start=start, generator=False, leaks=codec_leaks)
        generator_leaks = _seen(test, start.generator_trained_on, f"the generator {start.checkpoint or 'in the package'}")
        if generator_leaks and not settings.allow_leak:
            return FoldPlan(fold=fold, start=start, generator=False, leaks=codec_leaks)
        return FoldPlan(fold=fold, start=start, generator=True, leaks=codec_leaks + generator_leaks)
    seen = ", ".join(f"'{start.codec_name}' ({start.codec_trained_on})" for start in starts)
    raise SoundStormError(f"{test}: every codec at hand was trained on it, or may have been: {seen}; give --codec, or --allow-leak to use the first")


def _start(settings: Settings, codec: str | None, checkpoint: str | None, output_dir: str) -> Start:
    """What `--codec` and `--checkpoint` name, with what they were trained on; the generator in the package where it fits the codec."""
    generator = open_checkpoint(checkpoint_files(checkpoint), uri=checkpoint) if checkpoint or settings.packaged else None
    expected = generator.fingerprint if generator is not None and checkpoint else None
    weights, opened = choose_codec(codec, expected, f"--checkpoint {checkpoint}")
    fits = generator is not None and generator.fingerprint == opened.fingerprint
    key = opened.fingerprint.sha256[:12]
    if codec is None:
        codec = storage.join(output_dir, "codecs", f"{key}{CODEC_SUFFIX}")
        storage.write_bytes(codec, weights)
    return Start(
        codec=codec,
        codec_name=opened.fingerprint.name,
        codec_trained_on=provenance_of_codec(weights),
        tokens=_tokens_folder(settings, output_dir, key),
        checkpoint=checkpoint,
        generator_trained_on=generator.provenance if generator is not None and fits else None,
    )


def synthetic_start(settings: Settings, output_dir: str) -> Start:
    """The codec that `_fit_codec_to_synthetic_sounds` fits."""
    name = f"block-{SYNTHETIC}" + ("" if settings.seed is None else f"-{settings.seed}")
    return Start(
        codec=storage.join(settings.stages or output_dir, "codecs", name, train_codec.CODEC_FILE),
        codec_name=name,
        codec_trained_on=TrainedOn(outside=("synthetic sounds",)),
        tokens=_tokens_folder(settings, output_dir, name),
    )


def _tokens_folder(settings: Settings, output_dir: str, codec: str) -> str:
    """Of the tokens of the codec called `codec`."""
    if settings.stages is None:
        return storage.join(output_dir, "tokens", codec)
    return storage.join(settings.stages, "tokens", f"{codec}-{_key(settings.clips, settings.location, settings.token_views)}")


def _key(*deciding: Any) -> str:
    """Short name for what decides how a stage comes out: runs that differ in it have stages of their own."""
    return hashlib.sha256(repr(deciding).encode()).hexdigest()[:8]


def _seen(test: Test, trained_on: Provenance, what: str) -> tuple[str, ...]:
    return tuple(f"fold {test.fold}: {leak}" for leak in judge([Learned(name=what, provenance=trained_on)], test).leaks)


# ---- doing


def prepare(settings: Settings, plans: list[FoldPlan], output_dir: str) -> None:
    """Make what several folds have in common: the codec of synthetic sounds, where one needs it, and the tokens of each codec. Ray must run."""
    for start in {plan.start.tokens: plan.start for plan in plans if plan.start is not None}.values():
        if start == synthetic_start(settings, output_dir):
            _fit_codec_to_synthetic_sounds(settings, start)
        console.print(f"stage tokenize: codec '{start.codec_name}', for all folds that it has not seen", highlight=False)
        options = tokenize.Options(
            dataset=settings.dataset,
            data_dir=settings.location,
            codec=start.codec,
            output_dir=start.tokens,
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
    record = records.begin(fold_dir, STAGE, identity)
    if record is None:
        stages = stages_of(settings, plan, fold_dir)
        for number, (name, stage) in enumerate(stages.items(), start=1):
            console.print(f"stage {number}/{len(stages)} {name}", highlight=False)
            summary = stage()
            console.print(f"    {escape(summary['message'])}", highlight=False)
        counts = {"fold": plan.fold, "test": summary["test"], "network": summary.get("network"), "leaks": list(plan.leaks)}
        counts["own_generator"] = settings.is_pretrained and not plan.generator
        record = records.finish(fold_dir, STAGE, identity, counts | said)
    return record.counts


def fold_identity(settings: Settings, plan: FoldPlan) -> dict[str, Any]:
    """What a fold's record is compared by."""
    return settings.identity() | {"fold": plan.fold} | describe(settings, plan)


def _stage_folder(settings: Settings, fold_dir: str, fold: int, name: str, *deciding: Any) -> str:
    """Where a stage of a fold is done that several runs may have in common."""
    if settings.stages is None:
        return storage.join(fold_dir, name)
    return storage.join(settings.stages, f"fold-{fold}", f"{name}-{_key(*deciding)}")


def describe(settings: Settings, plan: FoldPlan) -> dict[str, str | None]:
    """For people: which codec a fold has, and what its classifier starts from."""
    if plan.start is None:
        return {"codec": None, "start": settings.weights}
    start = plan.start
    codec = f"{start.codec_name} ({start.codec_trained_on})"
    if not settings.is_pretrained:
        return {"codec": codec, "start": "the codec's vectors" if settings.mode == "codec" else "random weights"}
    if plan.generator:
        return {"codec": codec, "start": f"{start.checkpoint or 'the generator in the package'} ({start.generator_trained_on})"}
    return {"codec": codec, "start": f"a generator trained without fold {plan.fold}"}


def stages_of(settings: Settings, plan: FoldPlan, fold_dir: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """The jobs of a fold by name, in order.

    Raises:
        SoundStormError: a setting is none of its job's.
    """
    shared: dict[str, Any] = {"num_workers": settings.num_workers, "device": settings.device}
    recordings: dict[str, Any] = {"dataset": settings.dataset, "data_dir": settings.location}
    classifier: dict[str, Any] = {name: value for name, value in settings.classifier_options().items() if value is not None}
    stages: dict[str, Callable[[], dict[str, Any]]] = {}
    folder = partial(_stage_folder, settings, fold_dir, plan.fold)
    if plan.start is not None:
        classifier |= {"tokens": plan.start.tokens, "codec": plan.start.codec}
        if settings.taught:
            classifier["teacher"] = folder("teacher", settings.clips, settings.location, settings.seed, settings.num_workers)
            of_teacher: dict[str, Any] = {"output_dir": classifier["teacher"], "fold": plan.fold, "seed": settings.seed}
            teacher = train_classifier.Options(model="cnn", **of_teacher, **recordings, strict_folds=settings.strict_folds, **shared)
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
    trained = train_classifier.Options(output_dir=storage.join(fold_dir, "classifier"), fold=plan.fold, **recordings, **shared, **classifier)
    return stages | {"classifier": partial(train_classifier.run, trained)}
